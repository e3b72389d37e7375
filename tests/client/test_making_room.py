"""Reads by position, while an append that needs the rows of live frames makes room for itself.

An episode longer than the ring's slack takes the oldest frames away before the new ones are there.
What is asked of a full ring by position must not see that: it would lack positions that a sampler
drew a moment before, and have other frames at those it has.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replayring
from replayring_server.engine.ring import RingWriter
from tests.support import PATIENCE, LocalServer

CAPACITY = 200  # the slack is 64
LENGTH = 100
COLUMNS = {"tag": {"shape": (), "dtype": "int64"}}


class HeldAppend:
    """An append that stops before it writes a row, until it is let go."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._begun, self._go = threading.Event(), threading.Event()
        write = RingWriter._write

        def wait(*arguments: Any) -> None:
            self._begun.set()
            assert self._go.wait(PATIENCE)
            write(*arguments)

        patch.setattr(RingWriter, "_write", wait)

    def wait_until_begun(self) -> None:
        assert self._begun.wait(PATIENCE)

    def let_go(self) -> None:
        self._go.set()


def episode(number: int) -> dict[str, Any]:
    return {"tag": np.full(LENGTH, number)}


@pytest.fixture(params=[False, True], ids=["wire", "same host"])
def buffer(
    request: pytest.FixtureRequest, tmp_path: Path, no_threads_left: None
) -> Iterator[replayring.Buffer]:
    """A full buffer on a server of this process."""
    with (
        LocalServer(tmp_path / "data") as server,
        replayring.connect(server.address, same_host=request.param) as client,
    ):
        buffer = client.create_buffer("ring", COLUMNS, CAPACITY, fps=10)
        for number in (0, 1):
            buffer.add_episode(episode(number))
        assert buffer.info().same_host == request.param
        yield buffer


def positions(buffer: replayring.Buffer) -> list[int]:
    return buffer.get(range(CAPACITY))["tag"][::LENGTH].tolist()


def column(buffer: replayring.Buffer) -> list[int]:
    return buffer.read_columns(["tag"])["tag"][::LENGTH].tolist()


def length(buffer: replayring.Buffer) -> list[int]:
    return [len(replayring.RemoteDataset(buffer))]


@pytest.mark.parametrize(
    ("read", "expected"), [(positions, [2, 1]), (column, [2, 1]), (length, [CAPACITY])]
)
def test_a_read_by_position_waits_for_the_append(
    buffer: replayring.Buffer,
    monkeypatch: pytest.MonkeyPatch,
    read: Callable[[replayring.Buffer], list[int]],
    expected: list[int],
) -> None:
    held = HeldAppend(monkeypatch)
    with ThreadPoolExecutor(2) as threads:
        added = threads.submit(buffer.add_episode, episode(2))
        try:
            held.wait_until_begun()
            found: Future[list[int]] = threads.submit(read, buffer)
            with pytest.raises(TimeoutError):
                found.result(0.3)
            # What is drawn, or asked for by identity, has no need to wait.
            assert set(buffer.sample(64)["tag"].tolist()) == {0, 1}
            assert buffer.get(indices=[LENGTH])["tag"].tolist() == [1]
        finally:
            held.let_go()
        assert found.result(PATIENCE) == expected
        assert added.result(PATIENCE).index == 2 * LENGTH


def test_an_append_that_failed_is_not_waited_for(
    buffer: replayring.Buffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are lost, and the rest stays readable."""

    def fail(*arguments: Any) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(RingWriter, "_write", fail)
    with pytest.raises(replayring.ServerError):
        buffer.add_episode(episode(2))
    assert len(replayring.RemoteDataset(buffer)) == CAPACITY - LENGTH + 64
    assert buffer.get([0, -1])["tag"].tolist() == [0, 1]
    assert buffer.read_columns(["tag"])["tag"].tolist() == [0] * 64 + [1] * LENGTH
