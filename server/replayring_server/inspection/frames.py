"""Checking every live frame of a buffer: that it lies in its place and continues the one before.

Reads the columns that say so in slices, and never more than that at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from replayring_proto import layout
from replayring_proto.ring import Live
from replayring_proto.spec import EPISODE_INDEX, INDEX, TIMESTAMP, BufferSpec
from replayring_server.inspection.reading import FrameReader
from replayring_server.inspection.report import Finding

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

SLICE = 1 << 16

_CHECKED = (INDEX, layout.BOUNDS.name, EPISODE_INDEX, TIMESTAMP)
_RESTORE = "restore the column from a copy, or delete the buffer"

_WHAT = {
    INDEX: (
        "hold another number than their place says",
        "they are frames of another buffer or of another time, or spoilt; samples may show them",
    ),
    layout.BOUNDS.name: (
        "name bounds of their episode that contradict their place or their neighbours",
        "windows around them may reach into other episodes, or be refused",
    ),
    EPISODE_INDEX: (
        "have a number of their episode that does not continue the one before",
        "they are taken for frames of another episode, and episodes may be miscounted",
    ),
    TIMESTAMP: (
        "have a time that is not finite or lies before that of the frame before",
        "windows in seconds around them find the wrong frames",
    ),
}


@dataclass
class Episodes:
    """The newest live episodes, as their frames say: one row each of number, first, end.

    As many as the log of records can hold; `end` is the `index` after the last frame.
    """

    rows: Array = field(default_factory=lambda: np.zeros((0, 3), np.int64))

    def add(self, rows: Array) -> None:
        """Appends newer ones, and drops what is too many."""
        self.rows = np.concatenate([self.rows, rows])[-layout.MAX_EPISODE_RECORDS :]


@dataclass
class Tally:
    """How many frames break one rule, and the first of them."""

    count: int = 0
    first: int = 0

    def add(self, begin: int, bad: Mask) -> None:
        """Counts the frames marked in `bad`, of which the first has `index` `begin`."""
        if bad.any():
            self.first = self.first if self.count else begin + int(np.argmax(bad))
            self.count += int(bad.sum())


def check_frames(
    folder: Path, where: Path, spec: BufferSpec, live: Live, episodes: Episodes
) -> Iterator[Finding]:
    """Checks the preset columns of all live frames, and that bools are bools.

    Args:
        folder: the buffer's.
        where: the same, below the data directory.
        spec: what the buffer holds.
        live: which frames live.
        episodes: gets the episodes that were found.
    """
    tallies = {name: Tally() for name in _CHECKED}
    with FrameReader(folder, spec, _CHECKED) as reader:
        for start in range(live.start, live.end, SLICE):
            # With the frame before, so that every step from one to the next is seen once.
            begin, end = max(start - 1, live.start), min(start + SLICE, live.end)
            values = reader.read(begin, end)
            for name, bad in _broken_rules(begin, live.end, values).items():
                tallies[name].add(start, bad[start - begin :])
            episodes.add(_episodes_in(begin, start, values))
    tallies.update(_count_odd_bools(folder, spec, live))
    for name, tally in tallies.items():
        if tally.count:
            yield _finding(where / layout.frame_file(spec, name).name, name, tally)


def _broken_rules(begin: int, head: int, values: dict[str, Array]) -> dict[str, Mask]:
    """Marks the frames that break a rule, by the column that breaks it."""
    index, bounds, episode, time = (values[name] for name in _CHECKED)
    place = np.arange(begin, begin + len(index))
    first, end = bounds.T
    outside = (first > place) | (end <= place) | (end > head) | (first < 0)
    same = (first[1:] == first[:-1]) & (end[1:] == end[:-1])
    new = (first[1:] == place[1:]) & (end[:-1] == place[1:])
    return {
        INDEX: index != place,
        layout.BOUNDS.name: outside | _after_first(~(same | new)),
        EPISODE_INDEX: (episode < 0) | _after_first(np.diff(episode) != new),
        TIMESTAMP: ~np.isfinite(time) | _after_first(~(time[1:] >= time[:-1]) & ~new),
    }


def _after_first(bad: Mask) -> Mask:
    return np.concatenate([[False], bad])


def _episodes_in(begin: int, start: int, values: dict[str, Array]) -> Array:
    """Returns number, first and end of the episodes whose first live frame is at `start` or later.

    The window's first frame counts as such wherever its episode began.
    """
    first = values[layout.BOUNDS.name][:, 0]
    begins = np.concatenate([[begin == start], first[1:] != first[:-1]])
    rows: Array = np.column_stack([values[EPISODE_INDEX], values[layout.BOUNDS.name]])[begins]
    return rows


def _count_odd_bools(folder: Path, spec: BufferSpec, live: Live) -> dict[str, Tally]:
    tallies = {column.name: Tally() for column in spec.columns if column.dtype == np.bool_}
    if tallies:
        with FrameReader(folder, spec, tallies) as reader:
            for first, piece in reader.pieces(live.start, live.end):
                for name, values in piece.items():
                    odd: Mask = values.view(np.uint8).reshape(len(values), -1).max(axis=1) > 1
                    tallies[name].add(first, odd)
    return tallies


def _finding(where: Path, name: str, tally: Tally) -> Finding:
    what, means = _WHAT.get(
        name,
        ("hold bytes other than 0 and 1, which are no bools", "numpy and torch misread them"),
    )
    return Finding(
        str(where),
        f"column {name!r}: {tally.count:,} frames, the first at index {tally.first:,}, {what}",
        means,
        _RESTORE,
    )
