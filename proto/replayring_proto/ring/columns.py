"""A ring's columns as arrays, and gathering frames from them: small columns all at once.

Where a column lies is `layout`'s to say. A frame's small columns lie side by side in one record, so
that fetching the record fetches them all; they are told apart in the cache, where it costs little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from replayring_proto import layout
from replayring_proto.spec import BufferSpec

Array = npt.NDArray[Any]

_WORTH_WHOLE = 4
"""Records are fetched whole where at least one in so many of their bytes is wanted."""


@dataclass(frozen=True)
class Fetch:
    """How to fetch some columns.

    Attributes:
        together: small ones, to be taken from whole records.
        apart: small ones, to be taken each for itself.
        large: those that have a file of their own.
    """

    together: tuple[str, ...]
    apart: tuple[str, ...]
    large: tuple[str, ...]

    @classmethod
    def of(cls, spec: BufferSpec, keys: Iterable[str]) -> Fetch:
        """Returns how to fetch the columns `keys`."""
        record = layout.small_record(spec)
        columns = layout.stored_columns(spec)
        keys = tuple(keys)
        small = tuple(key for key in keys if key in (record.names or ()))
        large = tuple(key for key in keys if key not in small)
        wanted = sum(columns[key].frame_bytes for key in small)
        if len(small) > 1 and wanted * _WORTH_WHOLE >= record.itemsize:
            return cls(small, (), large)
        return cls((), small, large)


class FrameColumns(Mapping[str, Array]):
    """Every stored column by name, each of shape (physical_rows, *shape), as it is at present."""

    def __init__(self, spec: BufferSpec, content: Callable[[str], npt.NDArray[np.uint8]]) -> None:
        """Views the files of a ring.

        Args:
            spec: what the ring holds.
            content: returns the bytes of a file, by its name below the buffer's directory.
        """
        small, *large = layout.frame_files(spec)
        records = content(small.name)
        self._columns = {key: small.view(records, key) for key in small.columns}
        for file in large:
            held = content(file.name)
            self._columns.update({key: file.view(held, key) for key in file.columns})
        # Values as runs of bytes: numpy copies those twice as fast as arrays of few elements.
        runs = np.dtype(
            {
                "names": list(small.columns),
                "formats": [np.dtype((np.void, c.frame_bytes)) for c in small.columns.values()],
                "offsets": list(small.offsets.values()),
                "itemsize": small.record_bytes,
            }
        )
        self._records: Array = records.view(np.dtype((np.void, small.record_bytes)))
        self._runs: Array = records.view(runs)

    def __getitem__(self, key: str) -> Array:
        return self._columns[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def gather(self, fetch: Fetch, rows: npt.NDArray[np.int64], out: Mapping[str, Array]) -> None:
        """Copies the frames in some rows to `out`.

        Args:
            fetch: the columns.
            rows: rows of the ring, of any shape.
            out: for each column an array of shape (*rows.shape, *shape).
        """
        if fetch.together:
            records = self._records.take(rows, 0, None, "clip").view(self._runs.dtype)
            for key in fetch.together:
                _fill(out[key], records[key])
        for key in fetch.apart:
            _fill(out[key], self._runs[key][rows])
        for key in fetch.large:
            # With "clip", numpy writes into `out` directly; by the modulo, rows are in range.
            self._columns[key].take(rows, 0, out[key], "clip")


def _fill(array: Array, runs: Array) -> None:
    """Fills a contiguous array with the bytes of its items."""
    np.ndarray(runs.shape, runs.dtype, array)[...] = runs
