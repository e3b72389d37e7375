"""Forking, spawning and pickling: a client works on both sides, whatever it was doing."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replayring
from replayring import _channel, _fork
from tests.client.fake_server import FakeServer
from tests.support import eventually

# Python 3.12 and later warn of what the fork gate is there for.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")

ROOT = Path(__file__).parents[2]


def stress(address: str, children: int, *arguments: str, **environment: str) -> dict[str, Any]:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.client.fork_stress", address, str(children), *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    result: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return result


@pytest.mark.timeout(300)
@pytest.mark.parametrize("grpc_handlers", ["", "0", "1"], ids=["default", "off", "on"])
def test_a_busy_process_forks(core_server: str, grpc_handlers: str) -> None:
    environment = {"GRPC_ENABLE_FORK_SUPPORT": grpc_handlers} if grpc_handlers else {}
    result = stress(core_server, 50, **environment)
    assert result["failed"] == []
    assert result["errors"] == []
    assert result["lost"] == 0, "every episode was stored, and none twice"
    assert result["alive"] == [False] * 50, "gRPC's core had ended before each fork"
    done = result["done"]
    assert done["acknowledged"] == done["written"] > 0
    assert min(done[key] for key in ("batches", "versions", "calls", "added")) > 0


def test_the_stress_would_notice_a_missing_gate(core_server: str) -> None:
    assert stress(core_server, 1, "--without-gate")["alive"] == [True]


def use(buffer: replayring.Buffer) -> int:
    """What a worker process does with a buffer that was sent to it."""
    with buffer.client:
        buffer.add_episode({"state": np.zeros((2, 2)), "reward": [0, 1]})
        with buffer.sample_stream(4) as stream:
            return len(next(stream)["index"])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_worker_processes(method: str, buffer: replayring.Buffer) -> None:
    buffer.add_episode({"state": np.zeros((2, 2)), "reward": [0, 1]})
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(use, [buffer] * 4) == [4] * 4
    assert buffer.info().num_episodes == 5


def test_a_closed_client_stays_closed_in_a_child(fake: FakeServer) -> None:
    client = replayring.connect(fake.address)
    client.buffer("fake")
    client.close()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            with pytest.raises(replayring.ClosedError):
                client.buffer("fake")
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


class FakeChannel:
    """A channel that the gate may drop."""

    def __init__(self) -> None:
        self.dropped = threading.Event()
        self.forgot = False

    def drop(self) -> None:
        self.dropped.set()

    def forget(self) -> None:
        self.forgot = True


@pytest.fixture
def gate() -> _fork.ForkGate:
    """A gate of its own, which real forks do not move."""
    gate = _fork.ForkGate()
    gate._registered = True
    return gate


class TestGate:
    def test_keeps_out_until_the_fork_is_done(self, gate: _fork.ForkGate) -> None:
        entered = threading.Event()

        def enter() -> None:
            with gate.entered():
                entered.set()

        gate._before()
        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.wait(0.1)
        gate._after()
        assert entered.wait(30)
        thread.join(30)

    def test_short_uses_end_before_channels_are_dropped(self, gate: _fork.ForkGate) -> None:
        gate.add(channel := FakeChannel())
        inside, leave = threading.Event(), threading.Event()
        early: list[bool] = []

        def call() -> None:
            with gate.entered():
                inside.set()
                leave.wait(30)
                early.append(channel.dropped.is_set())

        thread = threading.Thread(target=call)
        thread.start()
        assert inside.wait(30)
        forking = threading.Thread(target=gate._before)
        forking.start()
        eventually(lambda: gate._forking, "the gate closes")
        leave.set()
        thread.join(30)
        forking.join(30)
        assert early == [False]
        assert channel.dropped.is_set()

    def test_lasting_uses_end_because_channels_are_dropped(self, gate: _fork.ForkGate) -> None:
        gate.add(channel := FakeChannel())
        inside = threading.Event()

        def stream() -> None:
            with gate.entered(lasting=True):
                inside.set()
                channel.dropped.wait(30)

        thread = threading.Thread(target=stream)
        thread.start()
        assert inside.wait(30)
        began = time.monotonic()
        gate._before()
        assert time.monotonic() - began < _fork.DRAIN_SECONDS
        assert not gate._inside
        thread.join(30)

    def test_who_is_inside_opens_no_channel_any_more(
        self, gate: _fork.ForkGate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It would be open in the instant of the fork, since it came after all were dropped."""
        monkeypatch.setattr(_channel, "GATE", gate)
        channel = _channel.Channel("127.0.0.1:1")
        forked = threading.Event()

        def fork() -> None:
            gate._before()
            forked.wait(30)
            gate._after()

        forking = threading.Thread(target=fork)
        with gate.entered():
            forking.start()
            eventually(gate.closed, "the gate closes")
            with pytest.raises(_channel.Interrupted):
                channel._open()
        forked.set()
        forking.join(30)
        with channel.use():
            assert channel._grpc is not None
        channel.close()

    def test_does_not_wait_for_ever(
        self,
        gate: _fork.ForkGate,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(_fork, "DRAIN_SECONDS", 0.1)
        inside, leave = threading.Event(), threading.Event()

        def hang() -> None:
            with gate.entered():
                inside.set()
                leave.wait(30)

        thread = threading.Thread(target=hang)
        thread.start()
        assert inside.wait(30)
        with caplog.at_level(logging.WARNING, "replayring"):
            gate._before()
        assert "threads still use gRPC" in caplog.text
        gate._after()
        leave.set()
        thread.join(30)
        assert not gate._inside

    def test_the_thread_that_forks_may_be_inside(self, gate: _fork.ForkGate) -> None:
        with gate.entered():
            began = time.monotonic()
            gate._before()
            assert time.monotonic() - began < _fork.GRACE_SECONDS
            with gate.entered():
                pass
            gate._after()
        assert not gate._inside

    def test_forgets_in_the_child(self, gate: _fork.ForkGate) -> None:
        gate.add(channel := FakeChannel())
        with gate.entered():
            gate._before()
            gate._lock.acquire()  # as a thread does that is not there in the child
            gate._in_child()
        assert channel.forgot
        with gate.entered():
            assert len(gate._inside) == 1
