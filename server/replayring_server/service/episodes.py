"""Episodes as they come in: made of the messages that carried them, which are copied but once.

An episode's body is spread over messages of about 2 MiB. What is large stays in them until it goes
into the ring; a copy in between, only to have each column in one piece, would be the dearest part
of receiving it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from replayring_proto.limits import CHUNK_BYTES
from replayring_proto.pack import PackLayout, TensorSpec
from replayring_server.engine import Rows

Array: TypeAlias = "npt.NDArray[Any]"

# Less than this is copied: views of many small pieces would take more memory than they hold.
_WORTH_LEAVING = 64 << 10


@dataclass(frozen=True, slots=True)
class ReceivedEpisode:
    """An episode that came whole. Its bool columns are not checked yet.

    Attributes:
        layout: its columns' names, dtypes and shapes.
        arrays: the columns, by name: read-only, not aligned; the large ones in runs of rows.
    """

    layout: PackLayout
    arrays: Mapping[str, Array | Rows]

    @classmethod
    def within(cls, layout: PackLayout, body: memoryview) -> ReceivedEpisode:
        """Returns the episode whose body lies in one message."""
        return cls(layout, layout.views(np.frombuffer(body, np.uint8)))


class EpisodeAssembler:
    """Takes an episode's body piece by piece. Make one per episode. Not thread-safe.

    However the body is cut, it takes hardly more memory than the bytes that came.
    """

    __slots__ = ("_filled", "_layout", "_loose", "_pieces")

    def __init__(self, layout: PackLayout) -> None:
        self._layout = layout
        self._filled = 0
        self._pieces: list[memoryview] = []
        self._loose = bytearray()  # small pieces that came after them

    @property
    def complete(self) -> bool:
        """Whether the whole body is there."""
        return self._filled == self._layout.nbytes

    def add(self, piece: memoryview) -> None:
        """Appends the next bytes of the body, part of a message.

        Raises:
            MalformedMessageError: more came than the header announced.
        """
        self._layout.check_filled(self._filled + len(piece))
        self._filled += len(piece)
        # A view keeps all of its message in memory, and that may be much besides this field.
        message = cast("bytes", piece.obj)
        if len(piece) < max(_WORTH_LEAVING, len(message) * 15 // 16):
            self._loose += piece
            if len(self._loose) >= CHUNK_BYTES:
                self._gather()
        else:
            self._gather()
            self._pieces.append(piece)

    @property
    def pack(self) -> ReceivedEpisode:
        """The episode, once it is complete."""
        self._gather()
        body = _Body(self._pieces)
        tensors = zip(self._layout.tensors, self._layout.offsets, strict=True)
        return ReceivedEpisode(
            self._layout, {tensor.name: _column(body, tensor, start) for tensor, start in tensors}
        )

    def _gather(self) -> None:
        if self._loose:
            self._pieces.append(memoryview(self._loose))
            self._loose = bytearray()


class _Body:
    """The bytes of an episode, which lie in several places."""

    def __init__(self, pieces: Sequence[memoryview]) -> None:
        self._pieces = pieces
        self._ends = list(accumulate(map(len, pieces)))

    def part(self, start: int, end: int) -> memoryview:
        """Returns the bytes from `start` on that lie in one place, up to `end` at most."""
        place = bisect_right(self._ends, start)
        piece = self._pieces[place]
        first = self._ends[place] - len(piece)
        return piece[start - first : end - first]

    def joined(self, start: int, end: int) -> memoryview:
        """Returns the bytes from `start` to `end`; a copy, if they lie in several places."""
        parts = []
        while start < end:
            parts.append(self.part(start, end))
            start += len(parts[-1])
        return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))


def _column(body: _Body, tensor: TensorSpec, start: int) -> Array | Rows:
    """Returns the tensor that begins at `start`."""
    end = start + tensor.nbytes
    # Every byte of a bool column is to be looked at; as one array it is easier to deal with.
    in_runs = tensor.shape and tensor.dtype.kind != "b" and tensor.nbytes >= _WORTH_LEAVING
    if not in_runs:
        return np.ndarray(tensor.shape, tensor.dtype, body.joined(start, end))
    row_bytes = tensor.nbytes // tensor.shape[0]
    runs: list[Array] = []
    while start < end:
        run = body.part(start, end)
        rows = len(run) // row_bytes
        if not rows:  # one that begins in a piece, and ends in a later one
            rows, run = 1, body.joined(start, start + row_bytes)
        runs.append(np.ndarray((rows, *tensor.shape[1:]), tensor.dtype, run))
        start += rows * row_bytes
    return Rows(runs)
