"""Callers who stop, stall or vanish leave nothing behind, and others do not notice them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from replayring_proto.v1 import replay_pb2
from tests.service.frames import CAPACITY, SPEC, episode, refused, state
from tests.support import ServerProcess, eventually
from tests.wire import METHODS, SERVING, Stream, Wire, episode_messages, spec_message, start_message

ROOT = Path(__file__).parents[2]
LARGE = spec_message({"image": ("uint8", (512, 512)), "x": ("int32", ())}, capacity=100)


def half_an_episode(wire: Wire, buffer: str, writer_id: str) -> Stream:
    """Begins an episode and stops in the middle of it."""
    call = wire.stream("AddEpisodes")
    messages = episode_messages(1, episode(4), chunk=40)
    assert len(messages) > 2
    call.send(start_message(buffer, writer_id), *messages[:2])
    return call


def sampling_for_ever(wire: Wire, buffer: str) -> Stream:
    """Waits for an episode longer than any that is added here."""
    call = wire.stream("SampleBatch", timeout=None)
    spec = replay_pb2.SampleSpec(buffer=buffer, batch_size=4, drop_n_last_frames=CAPACITY - 1)
    call.send(replay_pb2.SampleBatchRequest(spec=spec))
    return call


def following(wire: Wire, name: str) -> Stream:
    """Waits for parameters that nobody publishes."""
    call = wire.stream("WatchParameters", timeout=None)
    call.send(replay_pb2.WatchParametersRequest(name=name, follow=True))
    return call


def works(wire: Wire, name: str) -> None:
    """Uses every part of the service once."""
    wire.create(name, SPEC)
    wire.add(name, episode(4))
    assert wire.sample(name, 3)[0]["pixel"].shape == (3,)
    assert wire.get(name, [0])["pixel"].tolist() == [0]
    assert wire.columns(name, "pixel")["pixel"].tolist() == [0, 1, 2, 3]
    assert wire.publish(name, {"w": np.ones(2)}) == 1
    assert wire.latest(name)[0] == 1
    wire.delete(name)
    assert wire.health() == SERVING


@pytest.mark.parametrize("end", ["half-close", "cancel", "vanish"])
def test_half_an_episode_leaves_nothing_behind(
    server: ServerProcess, wire: Wire, name: str, end: str
) -> None:
    wire.create(name, SPEC)
    wire.add(name, episode(3), writer_id="other")
    before = state(wire, name)
    with Wire(server.address) as peer:
        call = half_an_episode(peer, name, "writer")
        if end == "half-close":
            call.done_sending()
            with refused("INVALID_ARGUMENT", "MalformedMessageError", "in the middle"):
                call.receive()
        elif end == "cancel":
            call.cancel()
    assert state(wire, name) == before
    (acknowledged,) = wire.add(name, episode(4))
    assert (acknowledged.index, acknowledged.duplicate) == (3, False)


def test_a_hundred_waiting_calls_cost_no_threads(
    server: ServerProcess, wire: Wire, name: str
) -> None:
    wire.create(name, SPEC)
    works(wire, name + "-before")
    threads = server.stats.num_threads()
    with Wire(server.address) as peer:
        calls = [peer.stream("AddEpisodes", timeout=None) for _ in range(20)]  # and say nothing
        calls += [half_an_episode(peer, name, f"w{number}") for number in range(20)]
        calls += [sampling_for_ever(peer, name) for _ in range(20)]
        calls += [following(peer, f"{name}{number}") for number in range(20)]
        calls += [peer.stream("PublishParameters", timeout=None) for _ in range(10)]
        calls += [peer.stream("GetItem", timeout=None) for _ in range(10)]
        idle = peer.stream("AddEpisodes")
        idle.send(start_message(name, "last"), *episode_messages(1, episode(1)))
        idle.receive()  # the server has come to the last of them
        assert len(calls) == 100
        assert server.stats.num_threads() <= threads + 8  # gRPC's own pool comes and goes
        works(wire, name + "-during")
    works(wire, name + "-after")
    descriptors = server.stats.num_fds()
    with Wire(server.address) as peer:
        for number in range(50):
            half_an_episode(peer, name, f"w{number}")
            sampling_for_ever(peer, name)
    eventually(lambda: server.stats.num_fds() <= descriptors, "connections are closed")


VANISHING = """
import os, signal, sys
from replayring_proto.v1 import replay_pb2
from tests.wire import Wire, episode_messages, start_message
import numpy as np

address, buffer = sys.argv[1:]
wire = Wire(address)
reading = wire.stream("ReadColumn")
reading.send(replay_pb2.ReadColumnRequest(buffer=buffer, keys=["image"]))
reading.receive()
sampling = wire.stream("SampleBatch")
spec = replay_pb2.SampleSpec(buffer=buffer, batch_size=50)
sampling.send(replay_pb2.SampleBatchRequest(spec=spec, batches=1000))
sampling.receive()
adding = wire.stream("AddEpisodes")
episode = {"image": np.ones((50, 512, 512), np.uint8), "x": np.ones(50, np.int32)}
adding.send(start_message(buffer, "vanishing"), *episode_messages(1, episode)[:5])
wire.info(buffer)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_peer_leaves_nothing_behind(server: ServerProcess, wire: Wire, name: str) -> None:
    wire.create(name, LARGE)
    frames = {"image": np.zeros((50, 512, 512), np.uint8), "x": np.arange(50, dtype=np.int32)}
    wire.add(name, frames, {**frames, "x": frames["x"] + 50})
    descriptors = server.stats.num_fds()
    for _ in range(3):
        command = [sys.executable, "-c", VANISHING, server.address, name]
        killed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert killed.returncode == -9, killed.stderr
    assert wire.columns(name, "x")["x"].tolist() == list(range(100))
    assert wire.info(name).next_index == 100
    eventually(lambda: server.stats.num_fds() <= descriptors, "connections are closed")


@pytest.mark.parametrize("method", METHODS)
def test_call_without_a_message_harms_nobody(wire: Wire, name: str, method: str) -> None:
    call = wire.stream(method)
    call.done_sending()
    call.cancel()
    works(wire, name)


def test_cancelled_reply_harms_nobody(server: ServerProcess, wire: Wire, name: str) -> None:
    wire.create(name, LARGE)
    frames = {"image": np.zeros((50, 512, 512), np.uint8), "x": np.zeros(50, np.int32)}
    wire.add(name, frames)
    for _ in range(5):
        call = wire.stream("ReadColumn")
        call.send(replay_pb2.ReadColumnRequest(buffer=name, keys=["image"]))
        call.receive()
        call.cancel()
        with Wire(server.address) as peer:
            stream = peer.stream("ReadColumn")
            stream.send(replay_pb2.ReadColumnRequest(buffer=name, keys=["image"]))
            stream.receive()
    works(wire, name + "-after")
