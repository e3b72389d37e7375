"""How a server stops: it says so first, finishes what is at work, in bounds, and ends with 0."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2

from replayring_proto.v1 import replay_pb2
from replayring_server.engine import Store
from tests.service.frames import SPEC, episode
from tests.support import PATIENCE, ServerProcess, eventually, plant
from tests.wire import (
    NOT_SERVING,
    SERVING,
    Refused,
    Stream,
    Wire,
    acknowledgements,
    episode_messages,
    start_message,
)

LONG = "300"
"""Seconds that no test waits: whatever ends before was not ended by the passing of time."""

SIGNALS = [signal.SIGTERM, signal.SIGINT]


def watch(wire: Wire) -> Stream:
    """A watch of the server's health, which has said SERVING."""
    stream = wire.stream("/grpc.health.v1.Health/Watch", timeout=PATIENCE)
    stream.send(health_pb2.HealthCheckRequest())
    stream.done_sending()
    assert told(stream) == SERVING
    return stream


def told(stream: Stream) -> int:
    return health_pb2.HealthCheckResponse.FromString(stream.receive()).status


def begin_episode(wire: Wire) -> tuple[Stream, list[replay_pb2.AddEpisodesRequest]]:
    """A call in the middle of an episode, which the server has begun to take, and what is left."""
    call = wire.stream("AddEpisodes", timeout=PATIENCE)
    first, *rest = episode_messages(1, episode(4), chunk=20)
    call.send(start_message("b"), first)
    wire.add("b", episode(1, 50), writer_id="other")  # which comes behind it
    return call, rest


@contextmanager
def serving(folder: Path, *flags: str) -> Iterator[tuple[ServerProcess, Wire]]:
    with ServerProcess(folder / "data", *flags) as server, Wire(server.address) as wire:
        wire.create("b", SPEC)
        yield server, wire


def ends_cleanly(server: ServerProcess, frames: int) -> None:
    """The server ends with 0, and all that was acknowledged is there and needs no recovery."""
    assert server.wait() == 0
    assert "Traceback" not in server.log_text()
    with Store(server.data_dir) as store:
        buffer = store.get("b")
        assert buffer.info().next_index == frames
        assert not buffer.restored


def test_watchers_are_told_while_calls_are_at_work_and_hold_nothing_up(tmp_path: Path) -> None:
    probes = ["--health-listen", "127.0.0.1:0"]
    with serving(tmp_path, "--grace", LONG, *probes) as (server, wire):
        (port,) = re.findall(r"health on 127\.0\.0\.1:(\d+)", server.log_text())
        with Wire(f"127.0.0.1:{port}") as probe:
            call, rest = begin_episode(wire)
            watches = [watch(wire), watch(probe)]
            server.signal(signal.SIGTERM)
            for each in watches:
                assert told(each) == NOT_SERVING
                with pytest.raises(StopIteration):
                    each.receive()
            assert probe.health() == NOT_SERVING
            assert server.running()
            call.send(*rest)
            assert [one.num_frames for one in acknowledgements(call.receive())] == [4]
            ends_cleanly(server, 5)


def test_calls_are_taken_during_the_drain_delay(tmp_path: Path) -> None:
    with serving(tmp_path, "--drain-delay", LONG, "--grace", LONG) as (server, wire):
        actor = wire.stream("AddEpisodes", timeout=PATIENCE)
        actor.send(start_message("b"), *episode_messages(1, episode(1)))
        actor.receive()
        health = watch(wire)
        server.signal(signal.SIGTERM)
        assert told(health) == NOT_SERVING
        actor.send(*episode_messages(2, episode(2)))
        actor.receive()  # what is under way goes on
        with Wire(server.address) as late:  # and what comes is let in
            late.add("b", episode(3), writer_id="late")
        server.signal(signal.SIGTERM)
        with pytest.raises(Refused) as ended:
            actor.receive()
        assert ended.value.code == "UNAVAILABLE"
        ends_cleanly(server, 6)


def test_drain_delay_passes(tmp_path: Path) -> None:
    with serving(tmp_path, "--drain-delay", "0.3", "--grace", LONG) as (server, wire):
        wire.add("b", episode(1))
        server.signal(signal.SIGTERM)
        ends_cleanly(server, 1)


@pytest.mark.parametrize("second", SIGNALS)
def test_second_signal_cuts_what_is_at_work(tmp_path: Path, second: signal.Signals) -> None:
    with serving(tmp_path, "--grace", LONG) as (server, wire):
        call, _ = begin_episode(wire)
        health = watch(wire)
        server.signal(signal.SIGTERM)
        assert told(health) == NOT_SERVING
        assert server.running()
        server.signal(second)
        with pytest.raises(Refused) as ended:
            call.receive()
        assert ended.value.code == "UNAVAILABLE"
        ends_cleanly(server, 1)


def test_any_number_of_signals_at_any_moment_ends_with_0(tmp_path: Path) -> None:
    with serving(tmp_path) as (server, wire):
        wire.add("b", episode(3))
        deadline = time.monotonic() + PATIENCE
        while server.running() and time.monotonic() < deadline:
            for number in SIGNALS:
                server.signal(number)
        ends_cleanly(server, 3)


# A disk that writes no column while the file `slow` exists; `at work` says that it was asked to.
SLOW_DISK = """
import os, pathlib, time
from replayring_server.engine import files
folder = pathlib.Path(os.environ["PLANTED_IN"])
real = files.sync_mapped

def sync(mapped, path):
    deadline = time.monotonic() + 60
    column = path.parent.name == "columns"
    while column and (folder / "slow").exists() and time.monotonic() < deadline:
        (folder / "at work").touch()
        time.sleep(0.01)
    real(mapped, path)

files.sync_mapped = sync
"""


def test_sync_under_way_is_finished_and_buffers_are_closed_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(SLOW_DISK, tmp_path, monkeypatch)
    with serving(tmp_path, "--grace", "0") as (server, wire):
        (tmp_path / "slow").touch()
        wire.add("b", episode(3))
        eventually(lambda: (tmp_path / "at work").exists(), "the sync of every second")
        health = watch(wire)
        server.signal(signal.SIGTERM)
        assert told(health) == NOT_SERVING
        eventually(lambda: "calls in flight have" in server.log_text(), "the end of the calls")
        assert server.running()
        (tmp_path / "slow").unlink()
        ends_cleanly(server, 3)


# gRPC's own loop dies of what comes at some versions; here it is told to.
DEAF = r"""
import asyncio, os, pathlib
from replayring_server.server import Server
check = Server.check

async def deaf(self):
    await check(self)
    if pathlib.Path(os.environ["PLANTED_IN"], "deaf").exists():
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

Server.check = deaf
"""


def test_a_server_that_takes_no_connections_any_more_stops_for_somebody_to_restart_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(DEAF, tmp_path, monkeypatch)
    with serving(tmp_path) as (server, wire):
        wire.add("b", episode(3))
        server.signal(signal.SIGHUP)  # which ends nothing, though there are no tokens to read
        (tmp_path / "deaf").touch()
        assert server.wait() == 1
        log = server.log_text()
        assert "gRPC's own loop died" in log
        assert "stopped because it took no connections any more" in log
    with Store(server.data_dir) as store:
        assert store.get("b").durable_index == 3
