"""Every limit that a server's owner may change: what reaches it is served, more is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from replayring_proto.errors import InvalidRequestError
from replayring_proto.limits import ServerLimits
from replayring_proto.v1 import replay_pb2
from replayring_server.engine import Buffer
from replayring_server.server import _max_connections
from replayring_server.service.budget import Budget
from replayring_server.service.calls import Call
from tests.service.frames import refused
from tests.service.stalling import NARROW, follower, half_an_episode, unread_batch
from tests.support import PATIENCE, LocalServer, eventually
from tests.wire import (
    METHODS,
    SERVING,
    Refused,
    Stream,
    Wire,
    episode_messages,
    spec_message,
    start_message,
    view_message,
)

SPEC = spec_message({"x": ("uint8", (10,))}, capacity=100)
LIMITS = ServerLimits(
    max_buffers=3,
    max_parameter_sets=1,
    max_batch_size=20,
    max_window_entries=60,
    max_reply_bytes=2000,
    max_column_bytes=1000,
    max_episode_bytes=500,
    max_parameters_bytes=100,
    max_batches_in_flight=3,
    max_staging_bytes=2500,
    max_sending_bytes=2000,
)
WINDOWS = {key: range(10) for key in ("x", "index", "frame_index", "episode_index", "timestamp")}


class Case(NamedTuple):
    """A use that reaches a limit, one that goes beyond it, and words of the refusal."""

    fits: Callable[[Wire], Any]
    exceeds: Callable[[Wire], Any]
    words: str


def frames(count: int) -> dict[str, np.ndarray]:
    return {"x": np.ones((count, 10), np.uint8)}


def tensor(size: int) -> dict[str, np.ndarray]:
    return {"w": np.zeros(size, np.uint8)}


CASES = {
    "max_buffers": Case(
        lambda wire: wire.create("b2", SPEC),
        lambda wire: wire.create("b3", SPEC),
        "buffers in one data directory: received 4, the limit is 3; delete one",
    ),
    "max_parameter_sets": Case(
        lambda wire: wire.publish("p", {}),
        lambda wire: wire.publish("q", {}),
        "names of parameters: received 2, the limit is 1; reuse a name",
    ),
    "max_batch_size": Case(
        lambda wire: (wire.get("b", [0] * 20), wire.sample("b", 20)),
        lambda wire: wire.get("b", [0] * 21),
        "frames asked for at once: received 21, the limit is 20; ask for fewer",
    ),
    "max_window_entries": Case(
        lambda wire: wire.get("b", [0, 1], view=view_message(frames={"x": range(30)})),
        lambda wire: wire.get("b", [0, 1], view=view_message(frames={"x": range(31)})),
        "offsets of its longest window: received 62, the limit is 60; ask for fewer",
    ),
    "max_reply_bytes": Case(
        lambda wire: wire.get("b", [0] * 3, view=view_message(frames=WINDOWS)),
        lambda wire: wire.get("b", [0] * 6, view=view_message(frames=WINDOWS)),
        "bytes of one reply: received",
    ),
    "max_column_bytes": Case(
        lambda wire: wire.columns("b", "x"),
        lambda wire: wire.columns("b", "x", "timestamp"),
        "bytes of these columns: received 1,824, the limit is 1,000; read fewer",
    ),
    "max_episode_bytes": Case(
        lambda wire: wire.add("b", frames(50), sequence=3),
        lambda wire: wire.add("b", frames(51), sequence=4),
        "bytes of an episode: received 510, the limit is 500; split it",
    ),
    "max_parameters_bytes": Case(
        lambda wire: wire.publish("p", tensor(100)),
        lambda wire: wire.publish("p", tensor(101)),
        "bytes of parameters: received 101, the limit is 100; split it",
    ),
    "max_batches_in_flight": Case(
        lambda wire: wire.sample("b", 1, batches=3),
        lambda wire: wire.sample("b", 1, batches=4),
        "batches asked for at once: received 4, the limit is 3; ask for more when",
    ),
    "max_staging_bytes": Case(
        lambda wire: wire.add("wide", {"z": np.ones(50, bool)}, sequence=3),
        lambda wire: wire.add("wide", {"z": np.ones(51, bool)}, sequence=4),
        # The bytes that came, twice, a complex128 and the preset columns for each.
        "bytes needed to store an episode: received 2,550, the limit is 2,500; split it",
    ),
}


TOO_MUCH = ("RESOURCE_EXHAUSTED", "LimitExceededError")
TRY_AGAIN = ("UNAVAILABLE", "ServerUnavailableError")


@contextmanager
def serving(tmp_path: Path, **limits: Any) -> Iterator[tuple[LocalServer, Wire]]:
    with (
        LocalServer(tmp_path / "data", ServerLimits(**limits)) as server,
        Wire(server.address) as wire,
    ):
        yield server, wire


def get(name: str) -> replay_pb2.GetBufferRequest:
    return replay_pb2.GetBufferRequest(name=name)


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    with LocalServer(tmp_path / "data", LIMITS) as server, Wire(server.address) as wire:
        wire.create("b", SPEC)
        wire.create("wide", spec_message({"z": ("complex128", ())}, capacity=100))
        wire.add("b", frames(50), frames(50))
        yield wire


@pytest.mark.parametrize("limit", CASES)
def test_limit_can_be_reached_and_not_passed(wire: Wire, limit: str) -> None:
    case = CASES[limit]
    case.fits(wire)
    remedy = f", or raise the server's {limit}"
    with refused("RESOURCE_EXHAUSTED", "LimitExceededError", case.words, remedy):
        case.exceeds(wire)
    case.fits(wire)


def test_calls_in_flight(tmp_path: Path) -> None:
    with serving(tmp_path, max_calls=3) as (_, wire):
        wire.create("b", SPEC)
        streams = [wire.stream("AddEpisodes") for _ in range(3)]
        for number, stream in enumerate(streams):
            stream.send(start_message("b", f"w{number}"), *episode_messages(1, frames(1)))
            stream.receive()
        busy = "calls in flight: received 4, the limit is 3; end some"
        with refused("UNAVAILABLE", "ServerUnavailableError", busy):
            wire.info("b")
        assert wire.health() == SERVING
        streams.pop().cancel()
        eventually(lambda: wire.refusal("GetBuffer", get("b")) is None, "there is room again")


@pytest.mark.parametrize(("kind", "entry_bytes"), [("frames", 25), ("seconds", 100)])
def test_the_memory_that_windows_take_is_counted_with_what_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, entry_bytes: int
) -> None:
    """What 400,000 places take is far more than what they give; nobody is charged too much."""
    charged: list[int] = []
    take = Call.take

    async def noted(call: Call, budget: Budget, nbytes: int) -> None:
        charged.append(nbytes)
        await take(call, budget, nbytes)

    monkeypatch.setattr(Call, "take", noted)
    with serving(tmp_path, max_reply_bytes=1 << 22, max_sending_bytes=1 << 23) as (_, wire):
        wire.create("b", spec_message({"x": ("uint8", ())}, 10))
        wire.add("b", {"x": np.arange(10, dtype=np.uint8)})
        charged.clear()
        for offsets in (100, 4000):
            window = view_message(**{kind: {"x": [0] * offsets}})
            wire.get("b", [0] * 100, view=window)
            wire.sample("b", 100, view=window)
    entries = 100 * 100 * entry_bytes
    assert all(entries < nbytes < 2 * entries for nbytes in charged[:2])
    assert charged[2:] == [1 << 23] * 2


def test_watchers(tmp_path: Path) -> None:
    with serving(tmp_path, max_watchers=2) as (_, wire):
        wire.publish("p", tensor(1))
        streams = [follower(wire, "p") for _ in range(2)]
        for stream in streams:
            stream.receive()
        words = "calls that follow parameters: received 3, the limit is 2; end some"
        with refused(*TOO_MUCH, words):
            follower(wire, "p").receive()
        assert wire.latest("p")[0] == 1
        streams.pop().cancel()
        again = replay_pb2.WatchParametersRequest(name="p", follow=True)

        def follows() -> bool:
            call = wire.stream("WatchParameters")
            call.send(again)
            with contextlib.suppress(Refused):
                return bool(call.receive())
            return False

        eventually(follows, "there is room again")


def test_connections(tmp_path: Path) -> None:
    with serving(tmp_path, max_connections=2) as (server, wire):
        wire.create("b", SPEC)
        with Wire(server.address) as second:
            assert second.health() == SERVING
            with Wire(server.address) as third:
                error = third.refusal("GetBuffer", get("b"))
                assert error
                assert error.code == "UNAVAILABLE"
            assert wire.info("b").name == second.info("b").name == "b"
        eventually(lambda: connects(server.address), "there is room again")


def test_descriptors_without_limit_limit_no_connections(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    endless = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda _: endless)
    assert _max_connections(4096) == 4096
    assert not caplog.text
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    assert _max_connections(4096) == 512
    assert "taking 512 connections at most, not 4096" in caplog.text


def connects(address: str) -> bool:
    with Wire(address) as wire:
        return wire.refusal("GetBuffer", get("b")) is None


QUICK: dict[str, Any] = {"stall_timeout_s": 0.4, "stall_patience_s": 0.2}
SLOW: dict[str, Any] = {"stall_timeout_s": 1e6, "stall_patience_s": 0.2}
PATIENT: dict[str, Any] = {"stall_timeout_s": 1e6, "stall_patience_s": 1e6}


def test_stalls_that_nobody_minds(tmp_path: Path) -> None:
    """A peer that owes something is given up; one that rests between two things is not."""
    with serving(tmp_path, **QUICK) as (_, wire):
        create = replay_pb2.CreateBufferRequest(name="b", spec=SPEC)

        def begun() -> Stream | None:
            call = wire.stream("AddEpisodes", timeout=None)
            call.send(start_message("b", "resting"), *episode_messages(1, frames(1)))
            with contextlib.suppress(Refused):
                call.receive()
                return call
            return None

        # On a machine at its limit, an honest first request may take as long as the stall.
        eventually(lambda: wire.refusal("CreateBuffer", create) is None, "it is created")
        resting = eventually(begun, "it has begun")
        assert resting
        calls = [half_an_episode(wire, "b", "stalled", frames(50), chunk=100)]
        calls += [wire.stream(method, timeout=None) for method in METHODS]
        for call in calls:
            with refused(*TRY_AGAIN, "neither sent nor took anything for 0.4 s"):
                call.receive()
        resting.send(*episode_messages(2, frames(1)))
        assert resting.receive()


def test_stalls_that_others_wait_for(tmp_path: Path) -> None:
    limits = dict.fromkeys(("max_episode_bytes", "max_parameters_bytes"), 4 << 20)
    with serving(tmp_path, **SLOW, **limits, max_staging_bytes=6 << 20) as (server, wire):
        wire.create("b", spec_message({"x": ("uint8", (1 << 20,))}, capacity=4))
        images = np.ones((4, 1 << 20), np.uint8)
        stalled = half_an_episode(wire, "b", "stalled", {"x": images[:3]}, chunk=1 << 20)
        eventually(lambda: server.calls.staging.free < 4 << 20, "it has its memory")
        wire.add("b", {"x": images[:2]}, writer_id="other")  # there is room for both
        assert wire.add("b", {"x": images[:3]}, writer_id="other", sequence=2)
        with refused(*TRY_AGAIN, "for 0.2 s, and others wait for the memory"):
            stalled.receive()


def test_replies_that_others_wait_for(tmp_path: Path) -> None:
    limits = {"max_reply_bytes": 41 << 20, "max_sending_bytes": 60 << 20}
    with serving(tmp_path, **SLOW, **limits) as (server, wire):
        wire.create("b", spec_message({"x": ("uint8", (1 << 20,))}, capacity=2))
        wire.add("b", {"x": np.ones((1, 1 << 20), np.uint8)})
        with Wire(server.address, NARROW) as peer:
            stalled = unread_batch(peer, "b", 40)
            assert len(wire.sample("b", 10)[0]["x"]) == 10  # there is room for both
            assert len(wire.sample("b", 30)[0]["x"]) == 30
            with refused(*TRY_AGAIN, "for 0.2 s, and others wait for the memory"):
                list(stalled)


@pytest.mark.parametrize("stalls", [SLOW, PATIENT], ids=["short", "long"])
def test_unary_calls_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stalls: dict[str, Any]
) -> None:
    """However long peers may stall, which is what the server looks out for more often."""
    go_on = threading.Event()

    def held_up(*_: Any) -> None:
        assert go_on.wait(PATIENCE)
        raise OSError("the end of the test")

    monkeypatch.setattr(Buffer, "create", held_up)
    with serving(tmp_path, unary_timeout_s=0.3, **stalls) as (_, wire):
        call = wire.stream("CreateBuffer", timeout=PATIENCE)
        try:
            call.send(replay_pb2.CreateBufferRequest(name="b", spec=SPEC))
            with refused("DEADLINE_EXCEEDED", "DeadlineError", "took 0.3 s", "raise unary"):
                call.receive()
        finally:
            go_on.set()


OTHERS = {
    "max_calls": test_calls_in_flight,
    "max_watchers": test_watchers,
    "max_connections": test_connections,
    "max_sending_bytes": test_replies_that_others_wait_for,
    "stall_timeout_s": test_stalls_that_nobody_minds,
    "stall_patience_s": test_stalls_that_others_wait_for,
    "unary_timeout_s": test_unary_calls_end,
}


# A limit that is no answer to a call.
ELSEWHERE = {"max_streams_per_connection"}


def test_every_limit_is_tested() -> None:
    found = CASES.keys() | OTHERS.keys() | ELSEWHERE
    assert found == {field.name for field in dataclasses.fields(ServerLimits)}


@pytest.mark.parametrize(
    ("whole", "part", "others"),
    [
        ("max_staging_bytes", "max_episode_bytes", {"max_parameters_bytes": 1}),
        ("max_staging_bytes", "max_parameters_bytes", {"max_episode_bytes": 1}),
        ("max_sending_bytes", "max_reply_bytes", {}),
        ("stall_timeout_s", "stall_patience_s", {}),
    ],
)
def test_limits_that_contradict_each_other_are_refused(
    whole: str, part: str, others: dict[str, Any]
) -> None:
    value = getattr(ServerLimits(), part)
    ServerLimits(**{whole: value, **others})
    expected = rf"{whole} is .*, below {part}, which is {value:,}; raise {whole}, or lower {part}"
    with pytest.raises(InvalidRequestError, match=expected):
        ServerLimits(**{whole: value - 1, **others})


RANGES: dict[str, tuple[float, float]] = {
    field.name: (1, (1 << 63) - 1) for field in dataclasses.fields(ServerLimits)
}
RANGES |= dict.fromkeys(("max_connections", "max_streams_per_connection"), (1, (1 << 31) - 1))
RANGES |= dict.fromkeys(("stall_timeout_s", "stall_patience_s", "unary_timeout_s"), (0.001, 10**9))


@pytest.mark.parametrize("limit", RANGES)
def test_no_limit_is_beyond_what_can_be_kept_and_told(limit: str) -> None:
    """Numbers are C's int in gRPC, and 64 bits in a server's status; and clocks have ticks."""
    low, high = RANGES[limit]
    for value in (low / 2, 2 * high):
        text = re.escape(f"{limit} is {value:,}; it must be from {low:,} to {high:,}")
        with pytest.raises(InvalidRequestError, match=text):
            ServerLimits(**{limit: value})


@pytest.mark.parametrize("shortest", [{}, {"stall_patience_s": 0.001}])
def test_the_largest_limits_are_served_and_told(tmp_path: Path, shortest: dict[str, Any]) -> None:
    largest = {name: high for name, (_, high) in RANGES.items()}
    with serving(tmp_path, **{**largest, **shortest}) as (_, wire):
        wire.create("b", SPEC)
        wire.add("b", frames(50))
        assert wire.sample("b", 100_000)
        status = wire.ask("GetServerStatus", b"").status
    told = {use.name: use.limit for use in status.limits}
    assert told.keys() < largest.keys()
    assert set(told.values()) == {(1 << 63) - 1}


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ("max_staging_bytes=1000", "max_staging_bytes is 1,000, below max_episode_bytes"),
        ("max_streams_per_connection=3000000000", "is 3,000,000,000; it must be from 1 to 2,147,"),
        ("stall_timeout_s=1e308", "it must be from 0.001 to 1,000,000,000"),
    ],
)
def test_server_does_not_start_with_limits_that_make_no_sense(
    tmp_path: Path, limit: str, words: str
) -> None:
    command = [sys.executable, "-m", "replayring_server", "serve", "--listen", "127.0.0.1:0"]
    command += ["--data-dir", str(tmp_path / "data"), "--limit", limit]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 1
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("limit", [field.name for field in dataclasses.fields(ServerLimits)])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_no_limit_is_zero_or_endless(limit: str, value: float) -> None:
    with pytest.raises(InvalidRequestError, match=f"{limit} is .*; it must be above zero"):
        ServerLimits(**{limit: value})
