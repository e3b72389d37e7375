"""What survives a power loss: invariant 7 of the design, against `PowerDisk`.

REPLAYRING_POWER_LOSSES sets how many losses are tried; millions take a while.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from replayring_proto.query import View
from replayring_proto.ring import Plan
from replayring_proto.spec import BufferSpec
from replayring_server.engine import Buffer, Origin
from replayring_server.engine.records import EpisodeLog, Record
from tests.engine.power import PowerDisk

LOSSES = int(os.environ.get("REPLAYRING_POWER_LOSSES", "1700"))  # for each durability
IN_A_ROW = 3
CAPACITY = 24
SPEC = BufferSpec.from_data_spec(
    {"tag": {"shape": (), "dtype": "int64"}, "wide": {"shape": (20,), "dtype": "int64"}}, CAPACITY
)


def make_episode(sequence: int, frames: int) -> dict[str, np.ndarray]:
    """Frames that tell a torn or foreign row: every value follows from (sequence, frame)."""
    tag = np.full(frames, sequence, np.int64)
    wide = tag[:, None] * 1000 + np.arange(frames)[:, None] + np.zeros((1, 20), np.int64)
    return {"tag": tag, "wide": wide}


@dataclass
class Expected:
    """What was promised at the moment of the loss."""

    acknowledged: list[tuple[int, int, int]]  # sequence, first index, frames
    durable_head: int
    intended_head: int
    given_up: int = 0  # frames below this an earlier loss cost


class Run:
    """One buffer's life on a disk that loses power again and again, without harm to the run.

    What each loss leaves is opened in a copy, and power is lost once more while that recovers. Now
    and then it is also lived on with, by a run of its own.

    Attributes:
        losses: how many there were, by how many had come before them in a row.
    """

    def __init__(
        self,
        disk: PowerDisk,
        home: Path,
        expected: Expected,
        losses: Counter[int],
        earlier: int = 0,
    ) -> None:
        """Prepares for a life in `home`, after so many `earlier` losses."""
        self.disk, self.home, self.expected = disk, home, expected
        self.losses, self.earlier = losses, earlier
        self.sequence = 1000 * earlier

    def open(self) -> None:
        self.buffer = Buffer(self.home, "b")

    def step(self) -> None:
        frames = self.disk.random.choice((1, 2, 5, 11, CAPACITY))
        self.sequence += 1
        self.expected.intended_head += frames
        stored = self.buffer.append(make_episode(self.sequence, frames), Origin("w", self.sequence))
        self.expected.acknowledged.append((self.sequence, stored.index, frames))
        durability = self.buffer.spec.durability
        if durability == "commit":
            self.expected.durable_head = stored.index + frames
        self.disk.pass_moment()
        if durability == "interval" and self.disk.random.random() < 0.3:
            self.buffer.sync()
            self.expected.durable_head = stored.index + frames

    def maybe_lose(self) -> None:
        if self.earlier < IN_A_ROW and self.disk.random.random() < 0.25:
            self.losses[self.earlier] += 1
            target = self.home.with_name(f"lost{self.earlier}")
            target.mkdir()
            self.disk.lose(target)
            self.disk.restart_machine()
            self._live_on(target)
            shutil.rmtree(target)

    def _live_on(self, target: Path) -> None:
        """Opens what a loss left, holds it against what was promised, and goes on with it."""
        successor = Run(self.disk, target, self.expected, self.losses, self.earlier + 1)
        with self.disk.watching(target, successor.maybe_lose):
            successor.open()
            check(successor.buffer, self.expected)
            if self.disk.random.random() < 0.3:
                successor.settle()
                successor.step()
                successor.step()
            else:
                self.disk.watcher = lambda: None
                retry(successor.buffer, self.expected)

    def settle(self) -> None:
        """Takes what is there now for all that there is: it came from the disk."""
        live = self.buffer.reader.live
        sent = [place for place in self.expected.acknowledged if place[1] + place[2] <= live.end]
        self.expected = Expected(sent, live.end, live.end, live.start)


def check(buffer: Buffer, expected: Expected) -> None:
    """Holds what a loss left against what was promised."""
    live = buffer.reader.live
    assert live.end >= expected.durable_head, "frames that were durable are lost"
    # Given up is only what the appends since then evicted, finished or not.
    assert live.start <= max(expected.given_up, expected.intended_head - CAPACITY)
    pack = buffer.reader.at_indices(
        Plan(buffer.spec, View()), np.arange(live.start, live.end, dtype=np.int64)
    )
    sent = {sequence: (index, frames) for sequence, index, frames in expected.acknowledged}
    for i in range(len(live)):
        tag, frame = int(pack.arrays["tag"][i]), int(pack.arrays["frame_index"][i])
        assert (pack.arrays["wide"][i] == tag * 1000 + frame).all(), "a torn row"
        assert pack.arrays["index"][i] == live.start + i, "a row of another frame"
        if tag in sent:
            assert sent[tag][0] + frame == live.start + i, "a row of another episode"


def retry(buffer: Buffer, expected: Expected) -> None:
    """The writer sends its last episodes again: each is there once afterwards."""
    head = buffer.reader.live.end
    for sequence, index, frames in expected.acknowledged[-2:]:
        stored = buffer.append(make_episode(sequence, frames), Origin("w", sequence))
        if index + frames <= head:
            assert stored.duplicate, "stored twice"
            assert stored.index == index
        else:
            assert not stored.duplicate, "acknowledged although it was lost"


def live_through(
    folder: Path, monkeypatch: pytest.MonkeyPatch, durability: str, losses: int
) -> Counter[int]:
    """Lives through at least that many losses, checking each; returns how many there were."""
    disk = PowerDisk(monkeypatch, seed=len(durability))
    write = EpisodeLog.write

    def write_and_pass_a_moment(log: EpisodeLog, record: Record) -> None:
        write(log, record)
        disk.pass_moment()

    monkeypatch.setattr(EpisodeLog, "write", write_and_pass_a_moment)
    seen: Counter[int] = Counter()
    while seen.total() < losses:
        home = folder / "home"
        home.mkdir()
        Buffer.create(home, "id", dataclasses.replace(SPEC, durability=durability))
        run = Run(disk, home, Expected([], 0, 0), seen)
        with disk.watching(home, lambda: None):
            run.open()
            disk.watcher = run.maybe_lose
            for _ in range(60):
                if seen.total() < losses:
                    run.step()
        shutil.rmtree(home)
    return seen


@pytest.mark.parametrize("durability", ["interval", "commit", "none"])
def test_power_loss_at_any_moment_keeps_what_was_promised(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    losses = live_through(memory_path, monkeypatch, durability, LOSSES)
    assert losses.total() >= LOSSES
    assert losses[1] > LOSSES // 10, "too few losses of power while what another left recovered"
    assert losses[2] > 0
