"""Which frames a window means: offsets in frames or seconds, resolved for a whole batch at once.

Everything is numpy over (batch, offsets); no Python loop runs per frame. Frames are named by their
`index`; rows of the ring appear only where timestamps are looked up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
Times = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
TimesAt = Callable[[Indices], Times]

_ROUNDING_S = 1e-6
"""By how much a time may miss the one that is meant, since 0.1 + 0.2 is not 0.3."""

_ENTRIES_AT_ONCE = 1 << 14
"""Anchors times offsets looked up together, so that what this makes on the way stays in the
processor's cache: four million at once take about three times as long each."""


@dataclass(frozen=True)
class Anchors:
    """The frames that windows are built around.

    Attributes:
        index: their `index`, shape (batch,).
        first: first live `index` of each one's episode, shape (batch,).
        last: last `index` of each one's episode, shape (batch,).
    """

    index: Indices
    first: Indices
    last: Indices

    def split(self, size: int) -> Iterator[Anchors]:
        """Yields these anchors in order, at most `size` of them at a time."""
        for start in range(0, len(self.index), size):
            part = slice(start, start + size)
            yield Anchors(self.index[part], self.first[part], self.last[part])


@dataclass(frozen=True)
class Resolved:
    """A window's frames.

    Attributes:
        index: the frames meant, shape (batch, offsets).
        is_pad: where the episode has no such frame and its nearest was taken instead.
        misses: where no frame is within tolerance although the window lies inside the episode.
    """

    index: Indices
    is_pad: Mask
    misses: Mask | None = None


def by_frames(anchors: Anchors, offsets: Indices) -> Resolved:
    """Resolves offsets in frames: clipped to the episode, padded where clipped."""
    wanted = anchors.index[:, None] + offsets
    index = np.maximum(wanted, anchors.first[:, None])
    np.minimum(index, anchors.last[:, None], out=index)  # np.clip takes longer, for its checks
    return Resolved(index, index != wanted)


def by_seconds(anchors: Anchors, offsets: Times, tolerance: float, times_at: TimesAt) -> Resolved:
    """Resolves offsets in seconds: the frame of the episode nearest in time.

    As in LeRobot's `load_previous_and_future_frames`: padded where the nearest frame is further off
    than `tolerance`, which is allowed only outside the episode's time range. At equal distance the
    earlier time wins, as argmin has it. Frames with equal timestamps (rollouts repeat their last
    one) are told apart by their order: asked from beyond, the outermost answers; asked for
    their time, but for rounding, the one nearest to the anchor.

    Args:
        anchors: the frames to build windows around.
        offsets: seconds, shape (offsets,).
        tolerance: seconds.
        times_at: returns the timestamps of frames given by `index`; they never decrease within an
            episode.
    """
    size = max(1, _ENTRIES_AT_ONCE // len(offsets))
    if len(anchors.index) <= size:
        return _by_seconds(anchors, offsets, tolerance, times_at)
    parts = [_by_seconds(part, offsets, tolerance, times_at) for part in anchors.split(size)]
    return Resolved(
        np.concatenate([part.index for part in parts]),
        np.concatenate([part.is_pad for part in parts]),
        np.concatenate([part.misses for part in parts]),
    )


def _by_seconds(anchors: Anchors, offsets: Times, tolerance: float, times_at: TimesAt) -> Resolved:
    first, last = anchors.first[:, None], anchors.last[:, None]
    query = times_at(anchors.index)[:, None] + offsets
    # The last frame before the query, and the first one at or after it; either may be missing.
    after = _bisect(first, last, lambda index: times_at(index) < query, query.shape)
    before = np.maximum(after - 1, first)
    after = np.minimum(after, last)
    before_off = np.abs(query - times_at(before))
    after_off = np.abs(query - times_at(after))
    index = np.where(before_off <= after_off, before, after)
    index = _among_equals(anchors, index, query, times_at)
    is_pad = np.minimum(before_off, after_off) > tolerance
    inside = (query >= times_at(anchors.first)[:, None]) & (
        query <= times_at(anchors.last)[:, None]
    )
    return Resolved(index, is_pad, is_pad & inside)


def _among_equals(anchors: Anchors, index: Indices, query: Times, times_at: TimesAt) -> Indices:
    """Of frames that all have the time asked for, takes the one nearest to the anchor."""
    first, last = anchors.first[:, None], anchors.last[:, None]
    times = times_at(index)
    has_twin = (index > first) & (times_at(np.maximum(index - 1, first)) == times)
    has_twin |= (index < last) & (times_at(np.minimum(index + 1, last)) == times)
    meant = has_twin & (np.abs(times - query) <= _ROUNDING_S)
    if not meant.any():
        return index
    rows = np.nonzero(meant)[0]
    chosen, asked = index[meant], times[meant]
    low = _bisect(anchors.first[rows], chosen, lambda index: times_at(index) < asked, asked.shape)
    end = _bisect(chosen, anchors.last[rows], lambda index: times_at(index) <= asked, asked.shape)
    index[meant] = np.clip(anchors.index[rows], low, end - 1)
    return index


def _bisect(
    first: Indices, last: Indices, is_before: Callable[[Indices], Mask], shape: tuple[int, ...]
) -> Indices:
    """Returns for each element the first frame in [first, last] not before, or last + 1."""
    low = np.broadcast_to(first, shape).copy()
    high = np.broadcast_to(last + 1, shape).copy()
    # The longest episode decides the rounds; a torn row may claim any length, hence the bound.
    for _ in range(min(int((high - low).max(initial=0)).bit_length(), 63)):
        middle = (low + high) >> 1
        before = is_before(np.minimum(middle, high - 1)) & (low < high)
        low = np.where(before, middle + 1, low)
        high = np.where(before, high, middle)
    return low
