"""Runs a soak: see the package."""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

import replayring
from tests.soak.measure import MIB, Footprint, Ledger, Life
from tests.soak.workers import BUFFER, CAPACITY, ROLES, SPEC
from tests.support import ServerProcess, eventually

ROOT = Path(__file__).parents[2]
MAX_DESCRIPTORS = 500
MAX_THREADS = 120


class Soak:
    """A server and its workers. A context manager; leaving it ends all of them."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self._arguments = arguments
        self._folder = folder
        self._workers: list[tuple[str, subprocess.Popen[str]]] = []
        self._readers: list[threading.Thread] = []
        self._numbers = 0
        self.ledger = Ledger()
        self.lives: list[Life] = []

    def __enter__(self) -> Soak:
        with contextlib.ExitStack() as undo:
            self._begin(undo)
            self._ending = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    def _begin(self, ending: contextlib.ExitStack) -> None:
        self.server = ServerProcess(self._folder / "data")
        ending.callback(lambda: self.server.close())
        self.address = self.server.address
        self.lives.append(Life())
        self.client = ending.enter_context(replayring.connect(self.address, timeout=60))
        self.client.create_buffer(BUFFER, SPEC, CAPACITY, fps=30)
        ending.callback(self._end_workers)
        for role in ROLES:
            for _ in range(getattr(self._arguments, f"{role}s", 1)):
                self._start(role)
        words = ("frames", "rows", "published", "seen") if self._workers else ()
        eventually(lambda: all(self.ledger.counts[word] for word in words), "all are at work")

    def _end_workers(self) -> None:
        for _, worker in self._workers:
            worker.kill()
            worker.wait()
        for reader in self._readers:
            reader.join()

    def _start(self, role: str) -> None:
        self._numbers += 1
        worker = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.workers", role, self.address, str(self._numbers)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for this process alone
        )
        self._workers.append((role, worker))
        self._readers.append(threading.Thread(target=self._listen, args=(worker,)))
        self._readers[-1].start()

    def _listen(self, worker: subprocess.Popen[str]) -> None:
        assert worker.stdin
        assert worker.stdout
        with worker.stdin, worker.stdout:
            for line in worker.stdout:
                with contextlib.suppress(ValueError):  # the kill cut it short
                    self.ledger.take(*json.loads(line))

    def kill_server(self) -> None:
        """Kills the server and starts it again on the same port."""
        self.server.kill()
        self.server.close()
        self.server = ServerProcess(self._folder / "data", listen=self.address)
        self.lives.append(Life())
        self.ledger.counts["server kills"] += 1

    def kill_actor(self) -> None:
        """Kills the oldest actor and starts another."""
        at = next(i for i, (role, _) in enumerate(self._workers) if role == "actor")
        _, worker = self._workers.pop(at)
        worker.kill()
        worker.wait()
        self._readers = [reader for reader in self._readers if reader.is_alive()]
        self._start("actor")
        self.ledger.counts["actor kills"] += 1

    def check(self) -> None:
        """Holds the server to what it acknowledged, and to its bounds."""
        head, stored = self.ledger.promised()
        buffer = self.client.buffer(BUFFER)
        info = buffer.info()
        if info.next_index < head:
            self.ledger.errors.append(f"frames to {info.next_index} of {head} acknowledged ones")
        self._check_episodes(buffer, stored)
        footprint = Footprint.of(self.server)
        self.lives[-1].footprints.append(footprint)
        if footprint.descriptors > MAX_DESCRIPTORS or footprint.threads > MAX_THREADS:
            self.ledger.errors.append(f"beyond its bounds: {footprint}")

    def _check_episodes(
        self, buffer: replayring.Buffer, stored: list[tuple[int, int, int]]
    ) -> None:
        """Checks that what was acknowledged last is there, as far as it is not overwritten."""
        for tag, index, frames in stored[:: len(stored) // 10 + 1]:
            try:
                found = buffer.get(indices=range(index, index + frames), keys=["tag"])
            except replayring.FrameNotFoundError:
                if index >= buffer.info().oldest_index:
                    self.ledger.errors.append(f"the episode at {index} was lost")
                continue
            self.ledger.counts["checked"] += 1
            if not np.array_equal(found["tag"], np.full(frames, tag)):
                self.ledger.errors.append(f"the episode at {index} is another one")

    def slope(self) -> float | None:
        """Returns the memory slope of the life that was watched longest."""
        return max(self.lives, key=lambda life: len(life.footprints)).slope()


def run(soak: Soak, seconds: float, interval: float, kill_every: float) -> None:
    """Lets it run, checks and prints every interval, and kills now and then."""
    began, last, kills = time.monotonic(), Counter[str](), 0
    while (elapsed := time.monotonic() - began) < seconds:
        time.sleep(min(interval, seconds - elapsed))
        if kill_every and time.monotonic() - began > (kills + 1) * kill_every:
            kills += 1
            soak.kill_server() if kills % 2 else soak.kill_actor()
        soak.check()
        counts = Counter(soak.ledger.counts)
        report(soak, time.monotonic() - began, counts - last, interval)
        last = counts


def report(soak: Soak, elapsed: float, new: Counter[str], interval: float) -> None:
    """Prints one line."""
    now, slope = soak.lives[-1].footprints[-1], soak.slope()
    rates = " ".join(f"{name} {new[name] / interval:,.0f}/s" for name in ("frames", "rows", "seen"))
    print(
        f"{elapsed:7.0f} s  {rates}  rss {now.total / MIB:.0f} MiB"
        f" (anonymous {now.anonymous / MIB:.1f})  descriptors {now.descriptors}"
        f"  threads {now.threads}  slope {'-' if slope is None else f'{slope:+.1f}'} MiB/h"
        f"  errors {len(soak.ledger.errors)}",
        flush=True,
    )


def verdict(soak: Soak, max_slope: float) -> int:
    """Prints how it went, and returns the exit code."""
    errors, counts, slope = soak.ledger.errors, soak.ledger.counts, soak.slope()
    if counts["torn"]:
        errors.append(f"{counts['torn']} torn rows")
    if slope is not None and slope > max_slope:
        errors.append(f"memory grows by {slope:.1f} MiB/h; {max_slope:.0f} are allowed")
    print("in all:", ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())))
    for error in errors[:20]:
        print("ERROR", error)
    return 1 if errors else 0


def main(arguments: list[str] | None = None) -> int:
    """Runs a soak for as long as asked, or until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, help="instead of --hours")
    parser.add_argument("--interval", type=float, default=10.0, help="seconds between lines")
    parser.add_argument(
        "--kill-every", type=float, default=900.0, help="seconds between kills; 0 for none"
    )
    parser.add_argument("--actors", type=int, default=4)
    parser.add_argument("--learners", type=int, default=2)
    parser.add_argument("--readers", type=int, default=1)
    parser.add_argument("--watchers", type=int, default=2)
    parser.add_argument("--max-slope", type=float, default=20.0, help="MiB/h of anonymous memory")
    options = parser.parse_args(arguments)
    seconds = options.hours * 3600 if options.seconds is None else options.seconds
    with (
        tempfile.TemporaryDirectory(prefix="soak-") as folder,
        Soak(options, Path(folder)) as soak,
    ):
        with contextlib.suppress(KeyboardInterrupt):
            run(soak, seconds, options.interval, options.kill_every)
        return verdict(soak, options.max_slope)


if __name__ == "__main__":
    sys.exit(main())
