"""What survives a power loss: invariant 7 of the design, against `PowerDisk`.

REPLAYRING_POWER_LOSSES sets how many losses are tried; millions take a while.
"""

from __future__ import annotations

import itertools
import os
import shutil
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
CAPACITY = 24


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


class Run:
    """One buffer's life on a disk that loses power again and again, without harm to the run."""

    def __init__(self, disk: PowerDisk, folder: Path, durability: str) -> None:
        spec = BufferSpec.from_data_spec(
            {
                "tag": {"shape": (), "dtype": "int64"},
                "wide": {"shape": (20,), "dtype": "int64"},
            },
            CAPACITY,
            durability=durability,
        )
        self.disk, self.spec = disk, spec
        self.home = folder / "home"
        self.home.mkdir()
        Buffer.create(self.home, "id", spec)
        disk.watch(self.home)
        self.buffer = Buffer(self.home, "b")
        self.folder = folder
        self.losses = 0
        self.expected = Expected([], 0, 0)
        disk.watcher = self.maybe_lose

    def step(self) -> None:
        frames = self.disk.random.choice((1, 2, 5, 11, CAPACITY))
        sequence = len(self.expected.acknowledged) + 1
        self.expected.intended_head += frames
        stored = self.buffer.append(make_episode(sequence, frames), Origin("w", sequence))
        self.expected.acknowledged.append((sequence, stored.index, frames))
        if self.spec.durability == "commit":
            self.expected.durable_head = stored.index + frames
        self.disk.pass_moment()
        if self.spec.durability == "interval" and self.disk.random.random() < 0.3:
            self.buffer.sync()
            self.expected.durable_head = stored.index + frames

    def maybe_lose(self) -> None:
        if self.disk.random.random() < 0.25:
            self.losses += 1
            target = self.folder / "lost"
            target.mkdir()
            watcher, self.disk.watcher = self.disk.watcher, lambda: None
            self.disk.lose(target)
            self.disk.restart_machine()
            check(target, self.expected)
            self.disk.watcher = watcher
            shutil.rmtree(target)


def check(folder: Path, expected: Expected) -> None:
    """Opens what a loss left and holds it against what was promised."""
    buffer = Buffer(folder, "b")
    live = buffer.reader.live
    assert live.end >= expected.durable_head, "frames that were durable are lost"
    # Given up is only what the appends since then evicted, finished or not.
    assert live.start <= max(0, expected.intended_head - CAPACITY)
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
    retry(buffer, expected)


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
) -> int:
    """Lives through at least that many losses, checking each; returns how many there were."""
    disk = PowerDisk(monkeypatch, seed=len(durability))
    write = EpisodeLog.write

    def write_and_pass_a_moment(log: EpisodeLog, record: Record) -> None:
        write(log, record)
        disk.pass_moment()

    monkeypatch.setattr(EpisodeLog, "write", write_and_pass_a_moment)
    seen = 0
    for life in itertools.count():
        home = folder / str(life)
        home.mkdir()
        run = Run(disk, home, durability)
        for _ in range(60):
            run.step()
        seen += run.losses
        disk.watcher = lambda: None
        shutil.rmtree(home)
        if seen >= losses:
            break
    return seen


@pytest.mark.parametrize("durability", ["interval", "commit", "none"])
def test_power_loss_at_any_moment_keeps_what_was_promised(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    assert live_through(memory_path, monkeypatch, durability, LOSSES) >= LOSSES
