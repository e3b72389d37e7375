"""A busy process that forks: run as `python -m tests.client.fork_stress ADDRESS CHILDREN`.

Threads sample, write, add, publish and watch through one client while the main thread forks
children that use the same client. Prints a JSON object of what went wrong and what was done.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

import replayring
from replayring import _fork

CHILD_SECONDS = 30
EPISODE = {"state": np.zeros((50, 2)), "image": np.zeros((50, 32, 32), np.uint8)}
SPEC = {
    "state": {"shape": (2,), "dtype": "float32"},
    "image": {"shape": (32, 32), "dtype": "uint8"},
}

alive_at_forks: list[bool] = []
"""For each fork, whether gRPC's core still had threads in that instant."""


class Busy:
    """Threads that use one client in every way, until they are stopped."""

    def __init__(self, client: replayring.Client, buffer: replayring.Buffer) -> None:
        self.done: Counter[str] = Counter()
        self.errors: list[str] = []
        self._client = client
        self._buffer = buffer
        self._stop = threading.Event()
        uses = (self._stream, self._write, self._watch, self._call, self._add)
        self._threads = [threading.Thread(target=self._guard, args=(use,)) for use in uses]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Lets every thread finish what it does."""
        self._stop.set()
        self._client.publish("stress", {"w": np.ones(1)})  # so that the watch wakes up
        for thread in self._threads:
            thread.join(60)
            if thread.is_alive():
                self.errors.append(f"{thread.name} hangs")

    def _guard(self, use: Callable[[], None]) -> None:
        try:
            use()
        except BaseException as error:
            self.errors.append(f"{use.__name__}: {error!r}")

    def _stream(self) -> None:
        with self._buffer.sample_stream(64) as stream:
            while not self._stop.is_set():
                next(stream)
                self.done["batches"] += 1

    def _write(self) -> None:
        with self._buffer.writer() as writer:
            while not self._stop.is_set():
                writer.add_episode(EPISODE)
                self.done["written"] += 1
            writer.flush()
            self.done["acknowledged"] = writer.acknowledged

    def _watch(self) -> None:
        newest = 0
        for version, _ in self._client.watch("stress"):
            if version <= newest:
                self.errors.append(f"version {version} after {newest}")
            newest = version
            self.done["versions"] += 1
            if self._stop.is_set():
                return

    def _call(self) -> None:
        while not self._stop.is_set():
            self._buffer.sample(32)
            self._buffer.info()
            self._client.publish("stress", {"w": np.ones(10)})
            self.done["calls"] += 3

    def _add(self) -> None:
        while not self._stop.is_set():
            self._buffer.add_episode(EPISODE)
            self.done["added"] += 1


def in_child(number: int, client: replayring.Client, buffer: replayring.Buffer) -> None:
    """What each child does with the objects that it inherited."""
    buffer.info(timeout=CHILD_SECONDS / 2)
    buffer.sample(8)
    if buffer.add_episode(EPISODE).duplicate:
        raise AssertionError("taken for an episode of the parent's")
    if number % 3 == 0:
        with buffer.sample_stream(4) as stream:
            next(stream)
    if number % 2:
        client.close()


def fork_child(number: int, client: replayring.Client, buffer: replayring.Buffer) -> str:
    """Forks and waits; returns what went wrong in the child, if anything."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            in_child(number, client, buffer)
            code = 0
        finally:
            os._exit(code)
    until = time.monotonic() + CHILD_SECONDS
    while time.monotonic() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return f"child {number} ended with {status}" if status else ""
        time.sleep(0.002)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return f"child {number} hung"


def main(address: str, children: int, *, gate: bool) -> dict[str, Any]:
    """Runs it all; returns what is printed."""
    # Handlers run in reverse order of registration: this one, being first, after the gate's.
    os.register_at_fork(before=lambda: alive_at_forks.append(any(_fork.core_threads())))
    if not gate:
        _fork.GATE._registered = True  # it never will be
    with replayring.connect(address) as client:
        buffer = client.create_buffer(f"stress-{os.getpid()}", SPEC, 20_000, fps=10)
        buffer.add_episodes([EPISODE] * 20)
        busy = Busy(client, buffer)
        failed = [fork_child(number, client, buffer) for number in range(children)] if gate else []
        if not gate:
            pid = os.fork()
            if not pid:
                os._exit(0)
            os.waitpid(pid, 0)
        busy.stop()
        expected = 20 + busy.done["written"] + busy.done["added"] + len(failed)
        episodes = buffer.info().next_episode_index
        buffer.delete()
    return {
        "failed": [text for text in failed if text],
        "errors": busy.errors,
        "done": busy.done,
        "lost": expected - episodes,
        "alive": alive_at_forks,
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), gate="--without-gate" not in sys.argv)))
