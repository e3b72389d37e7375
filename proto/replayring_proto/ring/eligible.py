"""Counting the frames that may be drawn, without looking at each of them.

A frame is eligible if at least `drop` frames follow it in its episode. Every frame's row says where
its episode ends (`_bounds`), so one look per episode is enough: the walk goes from end to end. What
is counted once stays counted. The next look takes in the episodes that came since and lets go of
those that were overwritten, whose ends are kept for that; so its cost follows what is new.
"""

from __future__ import annotations

from array import array

import numpy as np

from replayring_proto.ring.live import Indices, Live
from replayring_proto.ring.reader import RingReader

# Walking costs by the episode, scanning by the frame. After so many episodes of a walk that were
# shorter than so many frames on average, a piece of the ring is scanned instead.
_WALKED_AT_ONCE = 256
_SCANNED_AT_ONCE = 1 << 16
_FRAMES_WORTH_A_STEP = 256


class EligibleCount:
    """The number of eligible frames of one ring, for one `drop`. Not thread-safe."""

    def __init__(self, reader: RingReader, drop: int) -> None:
        """Prepares to count; the first count looks at every episode once.

        Args:
            reader: the ring.
            drop: frames at the end of each episode that are not eligible; at least 0.
        """
        self._reader = reader
        self._drop = drop
        self._restart(0)

    def _restart(self, start: int) -> None:
        self._total = 0
        self._first = start  # where the oldest episode known begins, as far as it is counted
        self._end = start  # where the newest one known ends
        self._ends = array("q")
        self._oldest = 0  # place in `_ends` of the oldest one that is not overwritten

    def at(self, live: Live) -> int | None:
        """Returns the eligible frames of a live window; None if writers overtook the look at it.

        Windows must come in the order in which they were taken. One that ends before those that
        came before it tells that frames were lost with a disk: then all is counted anew.
        """
        if not self._drop:
            return len(live)
        if live.start >= self._end or live.end < self._end:
            self._restart(live.start)
        while self._end < live.end:
            if not self._extend(live.end):
                return None
        self._forget(live.start)
        return self._total

    def behind(self, live: Live) -> int:
        """Returns how many frames of a live window the next count is to look at."""
        return live.end - max(self._end, live.start) if self._drop else 0

    def _extend(self, end: int) -> bool:
        """Takes in some episodes; False if writers overtook that."""
        walked = self._walk(end)
        if walked is None:
            return False
        short = self._take(walked) < len(walked) * _FRAMES_WORTH_A_STEP
        if not short or self._end >= end:
            return True
        window = np.arange(self._end, min(self._end + _SCANNED_AT_ONCE, end))
        ends = self._reader.ends_of(window)
        if ends is None:
            return False
        self._take(window[ends == window + 1] + 1)
        return True

    def _walk(self, end: int) -> Indices | None:
        """Returns the ends of the next episodes, going from one to the next."""
        found: list[int] = []
        at = self._end
        while at < end and len(found) < _WALKED_AT_ONCE:
            ends = self._reader.ends_of(np.array([at]))
            if ends is None or not at < ends[0] <= end:  # episodes become visible whole
                return None
            at = int(ends[0])
            found.append(at)
        return np.array(found, np.int64)

    def _take(self, ends: Indices) -> int:
        """Counts consecutive episodes that end at `ends`; returns how many frames they have."""
        if not len(ends):
            return 0
        lengths = np.diff(ends, prepend=self._end)
        self._total += int(np.maximum(lengths - self._drop, 0).sum())
        self._ends.frombytes(np.ascontiguousarray(ends, np.int64).tobytes())
        self._end = int(ends[-1])
        return int(lengths.sum())

    def _forget(self, start: int) -> None:
        """Lets go of the frames before `start`."""
        while self._oldest < len(self._ends) and self._ends[self._oldest] <= start:
            self._shorten(self._ends[self._oldest], self._ends[self._oldest])
            self._oldest += 1
        if self._oldest < len(self._ends) and self._first < start:
            self._shorten(start, self._ends[self._oldest])
        if self._oldest > _WALKED_AT_ONCE and 2 * self._oldest > len(self._ends):
            del self._ends[: self._oldest]
            self._oldest = 0

    def _shorten(self, start: int, end: int) -> None:
        """Has the oldest episode, which ends at `end`, begin at `start`."""
        before, after = end - self._first - self._drop, end - start - self._drop
        self._total -= max(before, 0) - max(after, 0)
        self._first = start
