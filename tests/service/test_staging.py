"""Memory for packs on their way, in and out: it is bounded, and every way to end gives it back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replayring_proto.limits import ServerLimits
from replayring_proto.ring import RingReader
from replayring_proto.v1 import replay_pb2
from replayring_server.engine import Buffer
from tests.service.frames import refused
from tests.service.stalling import NARROW, follower, half_an_episode, unread_batch
from tests.support import PATIENCE, LocalServer, ServerProcess, eventually, hold_up
from tests.wire import (
    Stream,
    Wire,
    acknowledgements,
    episode_messages,
    pack_messages,
    spec_message,
    start_message,
)

MIB = 1 << 20
SPEC = spec_message({"x": ("uint8", (MIB,))}, capacity=4)
# Time never decides in these tests: stalls last, unless a test is about their end.
LIMITS: dict[str, Any] = {
    "stall_timeout_s": 1e6,
    "stall_patience_s": 1e6,
    "max_episode_bytes": 8 * MIB,
    "max_parameters_bytes": 8 * MIB,
    "max_staging_bytes": 10 * MIB,
    "max_reply_bytes": 70 * MIB,
    "max_sending_bytes": 100 * MIB,
}
ASKED = 64  # frames, so MiB, of a reply that is too large to be sent without being read


def episode(mib: int = 4) -> dict[str, np.ndarray]:
    return {"x": np.ones((mib, MIB), np.uint8)}


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalServer]:
    with LocalServer(tmp_path / "data", ServerLimits(**LIMITS)) as server:
        yield server


@pytest.fixture
def wire(local: LocalServer) -> Iterator[Wire]:
    with Wire(local.address, NARROW) as wire:
        wire.create("b", SPEC)
        wire.add("b", episode(), writer_id="first")
        yield wire


def half(wire: Wire, writer_id: str = "stalled") -> Stream:
    return half_an_episode(wire, "b", writer_id, episode(), chunk=MIB)


def whole(wire: Wire, writer_id: str, mib: int = 4) -> Stream:
    call = wire.stream("AddEpisodes")
    call.send(start_message("b", writer_id), *episode_messages(1, episode(mib)))
    return call


def index_of(call: Stream) -> int:
    (one,) = acknowledgements(call.receive())
    return one.index


def finish(call: Stream) -> None:
    call.send(*episode_messages(1, episode(), chunk=MIB)[1:])


def test_sender_beyond_the_budget_is_told_to_wait_and_served_in_turn(
    local: LocalServer, wire: Wire
) -> None:
    staging = local.calls.staging
    stalled = [half(wire, f"w{number}") for number in range(2)]
    eventually(lambda: staging.free < 3 * MIB, "both have their memory")
    large = whole(wire, "large")
    eventually(lambda: staging.missing > 0, "a third one waits")
    later = whole(wire, "later", mib=2)
    eventually(lambda: len(staging._queue) == 2, "a fourth one waits")
    assert wire.sample("b", 2)[0]["x"].shape == (2, MIB)
    assert wire.info("b").next_index == 4
    finish(stalled[0])
    assert [index_of(call) for call in (stalled[0], large, later)] == [4, 8, 12]
    finish(stalled[1])
    assert index_of(stalled[1]) == 14
    eventually(lambda: staging.free == staging.nbytes, "all of it is given back")


ENDS: dict[str, Callable[[Stream], object]] = {
    "it completes": finish,
    "it is cancelled": Stream.cancel,
    "its caller stops in the middle": Stream.done_sending,
    "it sends nonsense": lambda call: call.send(b"\xff" * 9),
    "it sends too much": lambda call: call.send(*episode_messages(1, episode(6), chunk=MIB)[1:]),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
def test_memory_comes_back_however_an_episode_ends(
    local: LocalServer, wire: Wire, end: Callable[[Stream], object]
) -> None:
    staging = local.calls.staging
    call = half(wire)
    eventually(lambda: staging.free < 7 * MIB, "it has its memory")
    end(call)
    eventually(lambda: staging.free == staging.nbytes, "its memory is given back")
    assert wire.add("b", episode(), writer_id="next")


def test_memory_comes_back_when_a_peer_vanishes_or_its_time_is_up(
    local: LocalServer, wire: Wire
) -> None:
    staging = local.calls.staging
    with Wire(local.address) as peer:
        half(peer)
        eventually(lambda: staging.free < 7 * MIB, "it has its memory")
    eventually(lambda: staging.free == staging.nbytes, "it vanished")
    call = wire.stream("AddEpisodes", timeout=0.5)
    call.send(start_message("b", "late"), episode_messages(1, episode())[0])
    with refused("DEADLINE_EXCEEDED", None):
        call.receive()
    eventually(lambda: staging.free == staging.nbytes, "its time is up")


def test_one_who_stops_waiting_lets_the_next_one_in(local: LocalServer, wire: Wire) -> None:
    staging = local.calls.staging
    half(wire)
    eventually(lambda: staging.free < 7 * MIB, "it has its memory")
    large = whole(wire, "large", mib=8)
    eventually(lambda: staging.missing > 0, "it waits")
    small = whole(wire, "small")
    eventually(lambda: len(staging._queue) == 2, "another one waits")
    large.cancel()
    assert index_of(small) == 4


def test_stopping_server_does_not_wait_for_those_who_wait_for_memory(tmp_path: Path) -> None:
    server = LocalServer(tmp_path / "data", ServerLimits(**LIMITS))
    staging = server.calls.staging
    try:
        with Wire(server.address) as wire:
            wire.create("b", SPEC)
            half(wire)
            eventually(lambda: staging.free < 7 * MIB, "it has its memory")
            waits = whole(wire, "waits", mib=8)
            eventually(lambda: staging.missing > 0, "it waits")
            server.run(_stop(server))
            with refused("UNAVAILABLE", "ServerUnavailableError", "stopping"):
                waits.receive()
    finally:
        server.close()
    assert staging.free == staging.nbytes


async def _stop(server: LocalServer) -> None:
    server.calls.stop()


def test_memory_is_held_until_the_engine_is_done_even_if_nobody_waits(
    local: LocalServer, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = local.calls.staging
    entered, go_on = hold_up(monkeypatch, Buffer, "store_all")
    call = whole(wire, "gone")
    try:
        assert entered.wait(PATIENCE)
        call.cancel()
        eventually(lambda: not local.calls._calls, "the call has ended")
        assert staging.free < staging.nbytes
    finally:
        go_on.set()
    eventually(lambda: staging.free == staging.nbytes, "the engine is done")
    assert wire.info("b").next_index == 8


def test_memory_of_a_reply_is_held_until_the_engine_is_done_even_if_nobody_waits(
    local: LocalServer, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks and leaves, again and again, has the engine take no more than its share."""
    sending = local.calls.sending
    entered, go_on = hold_up(monkeypatch, RingReader, "gather")
    spec = replay_pb2.SampleSpec(buffer="b", batch_size=ASKED)
    sample = ("SampleBatch", replay_pb2.SampleBatchRequest(spec=spec))
    get = ("GetItem", replay_pb2.GetItemRequest(buffer="b", positions=[0] * ASKED))
    for method, request in (sample, get):
        entered.clear()
        go_on.clear()
        call = wire.stream(method)
        call.send(request)
        try:
            assert entered.wait(PATIENCE)
            call.cancel()
            eventually(lambda: not local.calls._calls, "the call has ended")
            assert sending.free < sending.nbytes - ASKED * MIB
        finally:
            go_on.set()
        eventually(lambda: sending.free == sending.nbytes, "the engine is done")


def test_parameters_take_memory_as_episodes_do(local: LocalServer, wire: Wire) -> None:
    staging = local.calls.staging
    weights = {"w": np.ones(6 * MIB, np.uint8)}
    first, *rest = pack_messages(replay_pb2.PublishParametersRequest, weights, name="p")
    stalled = wire.stream("PublishParameters")
    stalled.send(first)
    eventually(lambda: staging.free == 4 * MIB, "it has its memory")
    waits = wire.stream("PublishParameters")
    waits.send(first, *rest)
    waits.done_sending()
    eventually(lambda: staging.missing == 2 * MIB, "another one waits")
    stalled.send(*rest)
    stalled.done_sending()
    assert [
        replay_pb2.PublishParametersResponse.FromString(call.receive()).version
        for call in (stalled, waits)
    ] == [1, 2]
    eventually(lambda: staging.free == staging.nbytes, "all of it is given back")


REPLY_ENDS: dict[str, Callable[[Stream], object]] = {
    "it is read": list,
    "it is cancelled": Stream.cancel,
}


@pytest.mark.parametrize("end", REPLY_ENDS.values(), ids=REPLY_ENDS.keys())
def test_memory_comes_back_however_a_reply_ends(
    local: LocalServer, wire: Wire, end: Callable[[Stream], object]
) -> None:
    sending = local.calls.sending
    call = unread_batch(wire, "b", ASKED)
    get = replay_pb2.GetItemRequest(buffer="b", positions=[0] * ASKED)
    waits = wire.stream("GetItem")
    waits.send(get)
    eventually(lambda: sending.missing > 0, "another one waits")
    call.done_sending()
    end(call)
    _, arrays = waits.receive_pack(replay_pb2.GetItemResponse)
    assert arrays["x"].shape == (ASKED, MIB)
    eventually(lambda: sending.free == sending.nbytes, "all of it is given back")


def test_learners_that_wait_for_frames_hold_no_memory(local: LocalServer, wire: Wire) -> None:
    sending = local.calls.sending
    wire.add("b", episode(1), writer_id="second")  # of the first episode three frames are left
    spec = replay_pb2.SampleSpec(buffer="b", batch_size=ASKED, drop_n_last_frames=3)
    learners = [wire.stream("SampleBatch", timeout=None) for _ in range(3)]
    for learner in learners:
        learner.send(replay_pb2.SampleBatchRequest(spec=spec))
    watches = local.server._service._changes._watches
    eventually(lambda: sum(map(len, watches.values())) == 3, "they have looked once")
    eventually(lambda: len(local.calls._resting) == 3, "they wait")
    assert sending.free == sending.nbytes
    assert len(wire.sample("b", ASKED)[0]["x"]) == ASKED


def test_watcher_that_stalls_does_not_keep_an_old_version(tmp_path: Path) -> None:
    limits = ServerLimits(stall_timeout_s=1e6, stall_patience_s=0.2)
    with LocalServer(tmp_path / "data", limits) as server, Wire(server.address, NARROW) as wire:
        weights = {"w": np.ones(64 * MIB, np.uint8)}
        wire.publish("p", weights)
        stalled = follower(wire, "p")
        stalled.receive()
        eventually(lambda: max(c.idle for c in list(server.calls._calls)) > 8, "it takes nothing")
        wire.publish("p", {"w": np.ones(1)})
        eventually(lambda: any(c.ended_with for c in list(server.calls._calls)), "it is given up")
        with refused("UNAVAILABLE", "ServerUnavailableError", "a newer version is there"):
            list(stalled)
        assert wire.latest("p")[0] == 2


def test_stalled_learners_do_not_hold_gigabytes(tmp_path: Path) -> None:
    """64 learners ask for 64 MiB each, and none reads on: 4 GiB without a budget."""
    arguments = []
    for limit in (
        "max_sending_bytes=134217728",
        "max_reply_bytes=134217728",
        "stall_patience_s=0.05",
    ):
        arguments += ["--limit", limit]
    with (
        ServerProcess(tmp_path / "data", *arguments) as server,
        Wire(server.address) as wire,
    ):
        wire.create("b", SPEC)
        wire.add("b", episode())
        wire.sample("b", ASKED)
        with server.memory_peak() as peak, Wire(server.address, NARROW) as peer:
            spec = replay_pb2.SampleSpec(buffer="b", batch_size=ASKED)
            learners = [peer.stream("SampleBatch", timeout=None) for _ in range(64)]
            for learner in learners:
                learner.send(replay_pb2.SampleBatchRequest(spec=spec))
            for learner in learners:
                learner.receive()
            assert wire.sample("b", 2)[0]["x"].shape == (2, MIB)
        assert peak.growth < 800 * MIB


def test_small_packs_wait_for_nobody(local: LocalServer, wire: Wire) -> None:
    small = spec_message({"y": ("uint8", (1000,))}, capacity=1000)
    wire.create("small", small)
    for number in range(2):
        half(wire, f"w{number}")
    eventually(lambda: local.calls.staging.free < 3 * MIB, "both have their memory")
    whole(wire, "large")
    eventually(lambda: local.calls.staging.missing > 0, "large episodes wait")
    unread_batch(wire, "b", ASKED)
    waits = wire.stream("GetItem")
    waits.send(replay_pb2.GetItemRequest(buffer="b", positions=[0] * ASKED))
    eventually(lambda: local.calls.sending.missing > 0, "large replies wait")
    assert wire.add("small", {"y": np.ones((500, 1000), np.uint8)})
    assert wire.sample("small", 900)[0]["y"].shape == (900, 1000)
    assert wire.publish("p", {"w": np.ones(1000)}) == 1
