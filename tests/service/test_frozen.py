"""SIGSTOP of either side for five seconds: it heals by itself, and nobody sees an error."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import replayring
from replayring_proto.limits import ServerLimits
from tests.service.frozen_actor import BUFFER, DATA_SPEC, FRAMES
from tests.support import PATIENCE, LocalServer, ServerProcess, eventually

ROOT = Path(__file__).parents[2]
FROZEN_SECONDS = 5.0  # what the promise is about


class Actor:
    """A `frozen_actor` process, and what it has printed so far."""

    def __init__(self, address: str) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.service.frozen_actor", address],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line.strip())

    def finish(self) -> list[str]:
        assert self.process.stdin
        self.process.stdin.close()
        self._reading.join(PATIENCE)
        return self.lines

    def close(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        self._reading.join(PATIENCE)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()


@contextmanager
def acting(address: str) -> Iterator[tuple[replayring.Buffer, Actor]]:
    with replayring.connect(address, timeout=PATIENCE) as client:
        buffer = client.create_buffer(BUFFER, DATA_SPEC, 10 * FRAMES)
        actor = Actor(address)
        try:
            eventually(lambda: len(actor.lines) > 1, "it writes")
            yield buffer, actor
        finally:
            actor.close()


def goes_on(actor: Actor) -> None:
    lines = len(actor.lines)
    eventually(lambda: len(actor.lines) > lines + 1, "it goes on")


def check(buffer: replayring.Buffer, lines: list[str], others: int = 0) -> None:
    """Checks that the actor saw no error, and that all its episodes are there, once, in order."""
    *acknowledged, errors = lines
    assert errors == "errors: []"
    assert acknowledged == [str(number + 1) for number in range(len(acknowledged))]
    info = buffer.info()
    assert info.next_episode_index == len(acknowledged) + others
    live = buffer.read_columns(["image", "episode_index"])
    frames = live["image"][np.argsort(live["episode_index"], kind="stable"), 0]
    whole = frames[len(frames) % FRAMES :].reshape(-1, FRAMES)
    assert (whole == whole[:, :1]).all(), "an episode is mixed with another"
    values = [value for value in whole[:, 0].tolist() if value != 255]
    last = len(acknowledged)
    assert values == [n % 251 for n in range(last + 1 - len(values), last + 1)]


def test_a_frozen_server(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server, acting(server.address) as (buffer, actor):
        buffer.sample(1)  # a ping of gRPC's own is under way when it freezes
        begun = time.monotonic()
        server.signal(signal.SIGSTOP)
        asking = threading.Thread(target=buffer.sample, args=(1,))
        asking.start()
        outage = buffer.client._channel.outage
        eventually(lambda: outage.seconds, "it is missed, though its connection stands", 20)
        time.sleep(max(0.0, begun + FROZEN_SECONDS - time.monotonic()))
        server.signal(signal.SIGCONT)
        asking.join()
        assert buffer.sample(1)["image"].shape[0] == 1
        goes_on(actor)
        check(buffer, actor.finish())


def freeze_midway(actor: Actor, server: LocalServer) -> None:
    """Stops the actor when the server has a part of an episode of his."""
    staging = server.calls.staging
    while True:
        actor.process.send_signal(signal.SIGSTOP)
        time.sleep(0.1)  # what is on its way arrives; nothing more comes
        if staging.free < staging.nbytes and all(call.hold for call in list(server.calls._calls)):
            return
        actor.process.send_signal(signal.SIGCONT)
        time.sleep(0.01)


def test_a_frozen_actor_that_others_wait_for(tmp_path: Path) -> None:
    # Room for one episode at a time: an actor that freezes in the middle is in the way.
    limits = ServerLimits(
        max_episode_bytes=16 << 20, max_parameters_bytes=1, max_staging_bytes=16 << 20
    )
    with (
        LocalServer(tmp_path / "data", limits) as server,
        acting(server.address) as (buffer, actor),
    ):
        freeze_midway(actor, server)
        mark = {"image": np.full((FRAMES, DATA_SPEC["image"]["shape"][0]), 255, np.uint8)}
        thaws, others = time.monotonic() + FROZEN_SECONDS, 0
        while time.monotonic() < thaws or others < 2:  # for ever, if it stayed in the way
            others += len(buffer.add_episodes([mark]))
        actor.process.send_signal(signal.SIGCONT)
        goes_on(actor)
        check(buffer, actor.finish(), others)
