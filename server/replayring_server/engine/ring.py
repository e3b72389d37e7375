"""The ring's write side: how episodes are appended so that a death at any instant costs nothing.

The rules, with N the capacity and P the physical rows (N and some slack):

    0. The disk is told, now and then, how far rows may be touched from here on (see `cursor`).
    1. `low` rises first, if the rows to be written still hold live frames: what is about to be
       overwritten is dead before it changes. (`intent` rises before it as far as it may, so that
       whoever finds the window short sees at any moment that an append is why.)
    2. `intent` rises next: readers that picked such a row before will see that it may have changed.
    3. The rows are written. They hold no live frame, and nobody picks them: they are not published.
    4. `head` rises last. That publishes what was appended, all at once: one episode, or several
       small ones, which then share the cost of an append.

A process killed between any two of these leaves counters under which every live row is whole. The
slack makes rule 1 rare: it bites only for appends longer than the slack, so one that dies half-way
usually costs nothing that was live. `intent` never falls, not even when an append died before
publishing: its rows stay suspect to readers that picked them earlier.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from replayring_proto.errors import StorageError
from replayring_proto.layout import BOUNDS, physical_rows
from replayring_proto.ring import Counters, Live
from replayring_proto.spec import EPISODE_INDEX, FRAME_INDEX, INDEX, TIMESTAMP, BufferSpec

Array = npt.NDArray[Any]


class RingWriter:
    """Appends episodes to one ring. Not thread-safe; readers need no care."""

    def __init__(
        self,
        spec: BufferSpec,
        counters: Counters,
        columns: Mapping[str, Array],
        reserve: Callable[[int], None],
    ) -> None:
        """Takes over a ring as its last writer left it.

        Args:
            spec: what the ring holds.
            counters: its counters.
            columns: its columns, by name.
            reserve: called before rows of frames below its argument are touched.

        Raises:
            StorageError: the counters contradict each other.
        """
        self._spec = spec
        self._counters = counters
        self._columns = columns
        self._reserve = reserve
        self._rows = physical_rows(spec.capacity)
        low, head, intent = self._counters.low, self._counters.head, self._counters.intent
        check_counters(spec.capacity, low, head, intent)

    @property
    def slack(self) -> int:
        """Frames that can be appended at once while those live before stay whole until the end."""
        return self._rows - self._spec.capacity

    def append(
        self,
        arrays: Mapping[str, Sequence[Array]],
        episode_index: int,
        lengths: Sequence[int],
        before_publish: Callable[[], None] | None = None,
    ) -> int:
        """Appends episodes, already checked against the spec, and returns their first `index`.

        Args:
            arrays: the declared columns, and `timestamp` and `frame_index` if given, each as arrays
                whose rows follow each other.
            episode_index: the first one's number.
            lengths: frames of each.
            before_publish: called when the rows are written, before they can be seen.
        """
        start = self._counters.head
        end = start + sum(lengths)
        self._reserve(end)
        oldest = max(self._counters.low, start - self._spec.capacity)
        if end - self._rows > oldest:
            self._counters.intent = max(self._counters.intent, oldest + self._rows)
            self._counters.low = end - self._rows
        self._counters.intent = max(self._counters.intent, end)
        for name, pieces in self._complete(arrays, episode_index, lengths, start).items():
            self._write(self._columns[name], start, pieces)
        if before_publish is not None:
            before_publish()
        self._counters.head = end
        return start

    def _complete(
        self,
        arrays: Mapping[str, Sequence[Array]],
        episode_index: int,
        lengths: Sequence[int],
        start: int,
    ) -> dict[str, Sequence[Array]]:
        """Adds the preset columns, and ours."""
        ends = list(accumulate(lengths, initial=start))
        # Number, first and end of each frame's episode.
        episodes = [(episode_index + n, *bounds) for n, bounds in enumerate(pairwise(ends))]
        of_frames = np.repeat(np.array(episodes, np.int64), lengths, axis=0)
        index = np.arange(start, ends[-1])
        frame_index = index - of_frames[:, 1]
        presets: dict[str, Sequence[Array]] = {
            INDEX: [index],
            EPISODE_INDEX: [of_frames[:, 0]],
            BOUNDS.name: [of_frames[:, 1:]],
            FRAME_INDEX: [frame_index],
        }
        if TIMESTAMP not in arrays:
            presets[TIMESTAMP] = [frame_index / (self._spec.fps or 1.0)]
        return {**presets, **arrays}

    def _write(self, column: Array, start: int, pieces: Sequence[Array]) -> None:
        for values in pieces:
            row = start % self._rows
            before_end = self._rows - row
            column[row : row + len(values)] = values[:before_end]
            if len(values) > before_end:
                column[: len(values) - before_end] = values[before_end:]
            start += len(values)


def check_counters(capacity: int, low: int, head: int, intent: int) -> None:
    """Checks that the counters of a ring fit together.

    Raises:
        StorageError: they contradict each other.
    """
    rows = physical_rows(capacity)
    if not (0 <= low <= head <= intent and intent - rows <= max(low, head - capacity)):
        raise StorageError(
            f"the cursor is damaged: low={low}, head={head}, intent={intent} contradict each "
            f"other in a ring of {rows} rows. Restore the buffer, or delete it"
        )


def check_ends(live: Live, columns: Mapping[str, Array]) -> None:
    """Checks that the oldest and the newest frame lie where the counters say.

    They do not after a file was put in another's place, or a counter was spoilt.

    Raises:
        StorageError: they do not.
    """
    for index in {live.start, live.end - 1} if len(live) else ():
        row = index % len(columns[INDEX])
        found = int(columns[INDEX][row])
        first, end = columns[BOUNDS.name][row].tolist()
        if found != index or not first <= index < end <= live.end:
            raise StorageError(
                f"by the cursor frames {live.start} to {live.end - 1} live, but in the place of "
                f"{index} lies {found}, of an episode from {first} to {end - 1}: the cursor or a "
                "column is damaged, or of another buffer. Restore it, or delete the buffer"
            )
