"""ListBuffers: all of them, a page at a time, however large their specs are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import replayring
from replayring_proto import limits
from replayring_proto.limits import MAX_AXES, MAX_COLUMN_NAME, MAX_COLUMNS
from replayring_proto.v1 import buffer_pb2, replay_pb2
from replayring_server.service import listing
from tests.service.frames import SPEC
from tests.support import LocalServer
from tests.wire import Wire, spec_message

# As long on the wire as a spec can be: every name at its limit, all the axes (a batch adds two).
LARGEST = spec_message(
    {
        f"{number:x>{MAX_COLUMN_NAME}}".replace(" ", "x"): ("complex128", (1,) * (MAX_AXES - 2))
        for number in range(MAX_COLUMNS)
    },
    capacity=1,
)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalServer]:
    with LocalServer(tmp_path / "data") as server:
        yield server


@pytest.fixture
def wire(local: LocalServer) -> Iterator[Wire]:
    with Wire(local.address) as wire:
        yield wire


def pages(wire: Wire, page_size: int = 0) -> Iterator[replay_pb2.ListBuffersResponse]:
    request = replay_pb2.ListBuffersRequest(page_size=page_size)
    while True:
        page = wire.ask("ListBuffers", request)
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


@pytest.mark.parametrize("page_size", [1, 2, 3, 7, 8, 1000, 0])
def test_every_buffer_is_on_one_page(wire: Wire, page_size: int) -> None:
    names = [f"b{number}" for number in range(7)]
    for name in reversed(names):
        wire.create(name, SPEC)
    listed = [[buffer.name for buffer in page.buffers] for page in pages(wire, page_size)]
    size = page_size or 256
    assert listed == [names[at : at + size] for at in range(0, 7, size)]


def test_no_buffers_are_one_empty_page(wire: Wire) -> None:
    (page,) = pages(wire)
    assert not page.buffers


def test_buffers_may_come_and_go_between_pages(wire: Wire) -> None:
    for name in "bdf":
        wire.create(name, SPEC)
    listed = []
    for page in pages(wire, 1):
        listed += [buffer.name for buffer in page.buffers]
        if listed == ["b"]:
            for name in "ac":
                wire.create(name, SPEC)
            wire.delete("b")
            wire.delete("d")
    assert listed == ["b", "c", "f"]


def columns_of(spec: buffer_pb2.BufferSpec) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {column.name: (column.dtype, tuple(column.shape)) for column in spec.columns}


def test_the_largest_spec_fits_a_message_and_many_of_them_fit_pages(
    local: LocalServer, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = columns_of(LARGEST)
    monkeypatch.setattr(listing, "PAGE_BYTES", 80_000)  # two of them
    count = 5
    for number in range(count):
        assert columns_of(wire.create(f"b{number:02}", LARGEST).buffer.spec) == expected
    assert columns_of(wire.info("b00").spec) == expected
    sizes = [page.ByteSize() for page in pages(wire)]
    assert len(sizes) == 3
    assert max(sizes) + limits.PAGE_BYTES < limits.MAX_MESSAGE_BYTES
    with replayring.connect(local.address) as client:
        infos = client.buffers()
    assert [info.name for info in infos] == [f"b{number:02}" for number in range(count)]
    assert len(infos[-1].spec.columns) == MAX_COLUMNS
