"""The live window at one moment, the order of positions in it, and rows. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from replayring_proto.errors import FrameNotFoundError

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Live:
    """The live frames at one moment: those whose `index` lies in [start, end).

    Position i is the i-th of them in order of `index % capacity`. At most `capacity` consecutive
    frames live, so that order is two runs of consecutive indices at most.

    Attributes:
        start: `index` of the oldest live frame.
        end: `index` that the next frame will get.
        capacity: live frames at most.
    """

    start: int
    end: int
    capacity: int

    def __len__(self) -> int:
        return self.end - self.start

    @property
    def short(self) -> bool:
        """Whether frames are missing at the old end, which the capacity would still hold."""
        return self.start > max(0, self.end - self.capacity)

    @property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """The live frames as runs [from, to) of indices, in position order; none is empty."""
        turn = -(-self.start // self.capacity) * self.capacity  # first slot 0 at or after start
        if turn >= self.end:
            turn = self.start
        return tuple(run for run in ((turn, self.end), (self.start, turn)) if run[0] < run[1])

    def index_at(self, positions: Indices) -> Indices:
        """Returns the `index` at each position; negative ones count from the end.

        Raises:
            FrameNotFoundError: a position is outside [-n, n) of the n live frames.
        """
        count = len(self)
        outside = (positions < -count) | (positions >= count)
        if outside.any():
            raise FrameNotFoundError(
                f"position {int(positions[outside][0])} is out of range: {count:,} frames are "
                f"live, so positions go from {-count} to {count - 1}"
                if count
                else f"position {int(positions[outside][0])} is out of range: the buffer is empty"
            )
        positions = np.where(positions < 0, positions + count, positions)
        if not count:
            return positions
        first, first_end = self.runs[0]
        length = first_end - first
        return np.where(positions < length, first + positions, self.start + positions - length)

    def check_indices(self, indices: Indices) -> None:
        """Checks that every `index` is alive.

        Raises:
            FrameNotFoundError: one is not; the message says whether it is gone or yet to come.
        """
        outside = (indices < self.start) | (indices >= self.end)
        if outside.any():
            index = int(indices[outside][0])
            state = "was overwritten" if 0 <= index < self.start else "does not exist yet"
            raise FrameNotFoundError(
                f"the frame with index {index} {state}: live are {self.start} to {self.end - 1}"
                if len(self)
                else f"the frame with index {index} {state}: the buffer is empty"
            )


def rows_of(index: Indices, physical_rows: int) -> Indices:
    """Returns the rows that frames lie in: their `index` modulo P, whatever it is."""
    rows = index // physical_rows  # numpy's own remainder takes twice as long as all of this
    rows *= -physical_rows
    rows += index
    return rows
