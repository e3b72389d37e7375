"""A defect of the server is an id on the wire and a traceback in the log; nothing else breaks."""

from __future__ import annotations

import errno
import logging
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc._cython import cygrpc

from replayring_proto.ring import RingReader, UniformSampler
from replayring_proto.v1 import replay_pb2
from replayring_server.engine import Buffer, ParameterSet, Store
from replayring_server.engine.parameters import Parameters
from tests.service.frames import SPEC, episode
from tests.support import PATIENCE, LocalServer, eventually, hold_up
from tests.wire import SERVING, Refused, Wire, episode_messages, pack_messages, start_message

SECRET = "the key is under the mat"


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalServer]:
    with LocalServer(tmp_path / "data") as server:
        yield server


@pytest.fixture
def wire(local: LocalServer) -> Iterator[Wire]:
    with Wire(local.address) as wire:
        wire.create("b", SPEC)
        wire.add("b", episode(4))
        yield wire


CALLS: dict[str, tuple[type, str, Any]] = {
    "CreateBuffer": (Store, "create", lambda wire: wire.create("c", SPEC)),
    "GetBuffer": (Buffer, "info", lambda wire: wire.info("b")),
    "ListBuffers": (Store, "buffers", lambda wire: wire.ask("ListBuffers", b"")),
    "DeleteBuffer": (Store, "delete", lambda wire: wire.delete("b")),
    "AddEpisodes": (Buffer, "store_all", lambda wire: wire.add("b", episode(2), sequence=2)),
    "GetItem": (RingReader, "at_positions", lambda wire: wire.get("b", [0])),
    "SampleBatch": (RingReader, "gather", lambda wire: wire.sample("b", 2)),
    "ReadColumn": (RingReader, "read_columns", lambda wire: wire.columns("b", "pixel")),
    "PublishParameters": (Parameters, "publish", lambda wire: wire.publish("p", {})),
    "WatchParameters": (Parameters, "get", lambda wire: wire.latest("p")),
    "GetServerStatus": (Store, "warnings", lambda wire: wire.ask("GetServerStatus", b"")),
}


@pytest.mark.parametrize("method", CALLS)
def test_defect_is_an_id_on_the_wire_and_a_traceback_in_the_log(
    wire: Wire, method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cls, name, call = CALLS[method]

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError(SECRET)

    with monkeypatch.context() as planted, caplog.at_level(logging.INFO):
        planted.setattr(cls, name, broken)
        with pytest.raises(Refused) as caught:
            call(wire)
    error = caught.value
    assert (error.code, error.kind) == ("INTERNAL", "ServerError")
    assert SECRET not in error.message + error.detail
    assert "RuntimeError" not in error.message + error.detail
    found = re.search(r"id ([0-9a-f]{12})", error.message)
    assert found, error.message
    (record,) = (r for r in caplog.records if r.levelno >= logging.ERROR)
    assert found[1] in record.getMessage()
    assert method in record.getMessage()
    assert record.exc_info
    assert SECRET in str(record.exc_info[1])
    assert wire.health() == SERVING
    assert wire.get("b", [3])["pixel"].tolist() == [3]


def test_disk_error_of_an_append_is_internal_and_the_next_one_works(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error", "/secret/path")

    with monkeypatch.context() as planted:
        planted.setattr(Buffer, "store_all", broken)
        with pytest.raises(Refused) as caught:
            wire.add("b", episode(2), sequence=2)
    assert caught.value.code == "INTERNAL"
    assert "secret" not in caught.value.message
    assert not wire.add("b", episode(2), sequence=2)[0].duplicate


SHORTAGES: dict[str, Callable[[], Exception]] = {
    "memory": lambda: MemoryError("Unable to allocate 4 GiB"),
    "memory of the system": lambda: OSError(errno.ENOMEM, "Cannot allocate memory"),
    "file descriptors (ulimit -n)": lambda: OSError(errno.EMFILE, "Too many open files", "/secret"),
}


@pytest.mark.parametrize("what", SHORTAGES)
def test_a_shortage_is_no_defect_and_a_writer_tries_again(
    wire: Wire, what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def short(*_: object) -> None:
        raise SHORTAGES[what]()

    with monkeypatch.context() as planted:
        planted.setattr(Buffer, "store_all", short)
        with pytest.raises(Refused) as caught:
            wire.add("b", episode(2), sequence=2)
    error = caught.value
    assert (error.code, error.kind) == ("UNAVAILABLE", "ServerUnavailableError")
    assert f"the server is short of {what.partition(' of ')[0]}" in error.message
    assert "secret" not in error.message
    assert not [record for record in caplog.records if record.exc_info]
    assert not wire.add("b", episode(2), sequence=2)[0].duplicate


def test_parameters_are_not_sent_when_publishing_failed(
    local: LocalServer, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = wire.stream("WatchParameters")
    follower.send(replay_pb2.WatchParametersRequest(name="p", follow=True))
    real = Parameters.publish
    calls: list[str] = []

    def first_fails(parameters: Parameters, name: str, *arguments: Any) -> int:
        calls.append(name)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        return real(parameters, name, *arguments)

    monkeypatch.setattr(Parameters, "publish", first_fails)
    with pytest.raises(Refused) as caught:
        wire.publish("p", {})
    assert caught.value.code == "INTERNAL"
    assert wire.publish("p", {}) == 1
    assert follower.receive_pack(replay_pb2.WatchParametersResponse)[0].version == 1
    assert isinstance(local.store.parameters.get("p"), ParameterSet)


@pytest.mark.parametrize("slow", ["create", "delete", "append", "publish"])
def test_slow_disk_holds_up_nobody_else(
    local: LocalServer, wire: Wire, slow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reserving space, deleting, appending and publishing take as long as the disk pleases."""
    wire.create("slow", SPEC)
    wire.publish("p", {})
    cls, name, method, message = {
        "create": (
            Buffer,
            "create",
            "CreateBuffer",
            [replay_pb2.CreateBufferRequest(name="c", spec=SPEC)],
        ),
        "delete": (Buffer, "close", "DeleteBuffer", [replay_pb2.DeleteBufferRequest(name="slow")]),
        "append": (Buffer, "store_all", "AddEpisodes", added("slow")),
        "publish": (Parameters, "publish", "PublishParameters", published("p")),
    }[slow]
    with monkeypatch.context() as planted:
        entered, go_on = hold_up(planted, cls, name)
        call = wire.stream(method)
        try:
            call.send(*message)
            call.done_sending()
            assert entered.wait(PATIENCE)
            assert wire.health() == SERVING
            assert wire.info("b").next_index == 4
            assert wire.sample("b", 2)[0]["pixel"].shape == (2,)
            assert wire.columns("b", "pixel")["pixel"].shape == (4,)
            assert wire.latest("p")[0] == 1
            names = [one.name for one in wire.ask("ListBuffers", b"").buffers]
            assert names == (["b"] if slow == "delete" else ["b", "slow"])
        finally:
            go_on.set()
        assert len(list(call)) == 1


def added(buffer: str) -> list[Any]:
    return [start_message(buffer), *episode_messages(1, episode(2))]


def published(name: str) -> list[Any]:
    return pack_messages(replay_pb2.PublishParametersRequest, {}, name=name)


@pytest.mark.usefixtures("local")
def test_peer_that_leaves_before_its_status_is_no_error_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Seen once in some ten thousand calls: gRPC itself then logs an error with a traceback.
    logger = logging.getLogger("grpc._cython.cygrpc")
    for error in (cygrpc.ExecuteBatchError("Failed to send the status"), ValueError("a defect")):
        try:
            raise error
        except (grpc.aio.InternalError, ValueError):
            logger.exception("raised in core by servicer method")
    (record,) = caplog.records
    assert record.exc_info
    assert record.exc_info[0] is ValueError


def test_search_for_eligible_frames_holds_up_nobody_else(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where nearly nothing is eligible every live frame is looked at, later the new ones only.
    entered, go_on = threading.Event(), threading.Event()
    real = UniformSampler._scan
    looked_at: list[int] = []

    def held_up(sampler: Any, live: Any, count: int) -> Any:
        looked_at.append(len(live))
        if len(looked_at) == 1:
            entered.set()
            assert go_on.wait(PATIENCE)
        return real(sampler, live, count)

    monkeypatch.setattr(UniformSampler, "_scan", held_up)
    call = wire.stream("SampleBatch")
    spec = replay_pb2.SampleSpec(buffer="b", batch_size=2, drop_n_last_frames=4)
    call.send(replay_pb2.SampleBatchRequest(spec=spec))
    try:
        assert entered.wait(PATIENCE)
        assert wire.health() == SERVING
        wire.add("b", episode(1), sequence=2)
        assert wire.sample("b", 2)[0]["pixel"].shape == (2,)
    finally:
        go_on.set()
    eventually(lambda: len(looked_at) == 2, "it looks again")
    wire.add("b", episode(5), sequence=3)
    assert set(call.receive_pack(replay_pb2.SampleBatchResponse)[1]["index"].tolist()) == {5}
    assert looked_at == [4, 1, 5]
