"""Peers that stall in every way there is: others are served as before, and nothing stays behind."""

from __future__ import annotations

import signal
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replayring_proto.v1 import buffer_pb2, replay_pb2
from replayring_server.engine import Buffer
from replayring_server.service.budget import Budget, Hold
from replayring_server.service.calls import Call
from tests.service.frames import SPEC, episode, refused
from tests.service.stalling import half_an_episode
from tests.support import PATIENCE, LocalServer, ServerProcess, eventually
from tests.wire import (
    METHODS,
    SERVING,
    Stream,
    Wire,
    episode_messages,
    spec_message,
    start_message,
)

MIB = 1 << 20
LARGE = spec_message({"image": ("uint8", (MIB,))}, capacity=16)
ONE_REQUEST = [method for method, (streams, _) in METHODS.items() if not streams]
BOUND = 10.0
"""Seconds for any call of others, on a loaded machine of two cores."""


TRIM = """
import ctypes, signal

trim = ctypes.CDLL(None).malloc_trim
signal.signal(signal.SIGUSR1, lambda *_: trim(0))
"""
"""Run by Python as the server starts. glibc keeps what was freed below anything still in use, a
hundred megabytes by chance; once it is told to return that, what a process has is what it holds."""


@pytest.fixture
def own_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerProcess]:
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(TRIM)
    monkeypatch.setenv("PYTHONPATH", str(hook))
    with ServerProcess(tmp_path / "data") as server:
        yield server
        assert server.stop() == 0
        assert "Traceback" not in server.log_text()


def images(count: int) -> dict[str, np.ndarray]:
    return {"image": np.ones((count, MIB), np.uint8)}


def held(server: ServerProcess, wire: Wire) -> int:
    """Returns the bytes that the server holds, or more while it still frees some."""
    server.signal(signal.SIGUSR1)
    assert wire.health() == SERVING  # by the thread that the signal has interrupted
    return int(server.stats.memory_info().rss)


def use(wire: Wire, name: str) -> list[Any]:
    """Uses every part of the service once, in bounded time; returns what it answered."""
    begun = time.monotonic()
    wire.create(name, SPEC)
    acknowledged = wire.add(name, episode(4), episode(3, 9))
    columns = wire.columns(name, "index", "pixel")
    answers = [
        [(a.sequence, a.index, a.num_frames, a.duplicate) for a in acknowledged],
        wire.sample(name, 5, seed=1)[0]["index"].tolist(),
        wire.get(name, [0, -1])["pixel"].tolist(),
        {key: values.tolist() for key, values in columns.items()},
        wire.publish(name, {"w": np.arange(3)}) > 0,
        wire.latest(name)[1]["w"].tolist(),
        wire.info(name).next_index,
    ]
    wire.delete(name)
    assert time.monotonic() - begun < BOUND
    return answers


def health_seconds(wire: Wire) -> float:
    """Returns how long the health service takes, but for one unlucky answer or two."""
    taken = []
    for _ in range(9):
        begun = time.monotonic()
        assert wire.health() == SERVING
        taken.append(time.monotonic() - begun)
    return statistics.median(taken)


def stall(wire: Wire, peer: Wire) -> list[Stream]:
    calls = [half_an_episode(peer, "large", f"w{n}", images(16), chunk=MIB) for n in range(16)]
    calls += [peer.stream("AddEpisodes", timeout=None) for _ in range(4)]
    calls += [peer.stream("SampleBatch", timeout=None) for _ in range(4)]
    calls += [peer.stream(method, timeout=None) for method in ONE_REQUEST]
    for _ in range(8):  # that read a megabyte of sixteen
        call = peer.stream("ReadColumn", timeout=None)
        call.send(replay_pb2.ReadColumnRequest(buffer="large", keys=["image"]))
        call.receive()
        calls.append(call)
    assert len(wire.sample("large", 3)[0]["image"]) == 3
    return calls


def test_others_do_not_notice_and_nothing_stays(own_server: ServerProcess) -> None:
    with Wire(own_server.address) as wire:
        wire.create("large", LARGE)
        wire.add("large", images(16))
        expected = use(wire, "a")
        with Wire(own_server.address) as peer:  # gRPC's own buffers grow, once
            stall(wire, peer)
        eventually(lambda: use(wire, "a") == expected, "they are gone")
        memory = min(held(own_server, wire) for _ in range(9))
        descriptors = own_server.stats.num_fds()
        threads = own_server.stats.num_threads()
        for _ in range(3):
            with Wire(own_server.address) as peer:
                stall(wire, peer)
                assert health_seconds(wire) < 1
                assert use(wire, "a") == expected
                assert (
                    own_server.stats.num_threads() <= threads + 24
                )  # the engine's lanes, and gRPC's own pool
        eventually(lambda: own_server.stats.num_fds() <= descriptors, "connections are closed")
        assert use(wire, "a") == expected
        eventually(lambda: held(own_server, wire) < memory + 32 * MIB, "memory is given back")


@pytest.mark.parametrize("method", [*ONE_REQUEST, "PublishParameters"])
def test_call_that_ends_without_its_request_is_refused_at_once(wire: Wire, method: str) -> None:
    call = wire.stream(method, timeout=None)
    call.done_sending()
    words = "without any parameters" if method == "PublishParameters" else "before its request came"
    with refused("INVALID_ARGUMENT", "MalformedMessageError", "the call ended", words):
        call.receive()


def test_waiting_learners_and_a_fast_actor_harm_nobody(own_server: ServerProcess) -> None:
    """Each episode of the actor makes sixty-four learners look for frames that are not there."""
    capacity, length = 200_000, 1_000
    spec = spec_message({"x": ("uint8", ())}, capacity=capacity)
    frames = {"x": np.zeros(length, np.uint8)}
    with Wire(own_server.address) as wire, Wire(own_server.address) as peer:
        wire.create("b", spec)
        wire.add("b", *[frames] * (capacity // length))
        expected = use(wire, "a")
        query = replay_pb2.SampleSpec(buffer="b", batch_size=8, drop_n_last_frames=length)
        learners = [peer.stream("SampleBatch", timeout=None) for _ in range(64)]
        for learner in learners:
            learner.send(replay_pb2.SampleBatchRequest(spec=query))
        for number in range(10):
            wire.add("b", *[frames] * 50, writer_id=f"fast{number}")
            assert health_seconds(wire) < 1
            assert use(wire, "a") == expected
        wire.add("b", {"x": np.ones(length + 1, np.uint8)}, writer_id="long")
        for learner in learners:
            _, arrays = learner.receive_pack(replay_pb2.SampleBatchResponse)
            assert arrays["x"].tolist() == [1] * 8


def test_slow_syncs_of_one_buffer_hold_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under durability "commit" an actor waits for the disk; sixty-four of them do so alone."""
    go_on, entered = threading.Event(), threading.Event()
    real = Buffer.sync

    def held_up(buffer: Buffer, until: int | None = None) -> None:
        if buffer.name == "slow":
            entered.set()
            assert go_on.wait(PATIENCE)
        real(buffer, until)

    monkeypatch.setattr(Buffer, "sync", held_up)
    with LocalServer(tmp_path / "data") as server, Wire(server.address) as wire:
        slow = spec_message({"x": ("uint8", ())}, capacity=1000)
        slow.durability = buffer_pb2.DURABILITY_COMMIT
        wire.create("slow", slow)
        actors = [wire.stream("AddEpisodes", timeout=None) for _ in range(64)]
        try:
            for number, actor in enumerate(actors):
                frames = {"x": np.full(2, number, np.uint8)}
                actor.send(start_message("slow", f"w{number}"), *episode_messages(1, frames))
            assert entered.wait(PATIENCE)
            assert use(wire, "a")[-1] == 7
        finally:
            go_on.set()
        for actor in actors:
            actor.receive()


@pytest.mark.parametrize(("held", "step"), [(0, 64 << 10), (1 << 20, 64 << 10), (1 << 30, 1 << 20)])
def test_who_holds_much_has_to_move_much(held: int, step: int) -> None:
    """Two who move 47 KB a second each would otherwise hold all there is for hours."""
    call: Any = Call.__new__(Call)
    call.hold = Hold(Budget(held), held)
    call.begin_pack()
    call.idle = 3
    call._count(step - 1)
    assert call.idle == 3
    call._count(1)
    assert call.idle == 0
