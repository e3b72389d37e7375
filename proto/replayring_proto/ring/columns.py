"""A ring's columns as arrays, and gathering frames from them: small columns all at once.

Where a column lies is `layout`'s to say. A frame's small columns lie side by side in one record, so
that fetching the record fetches them all; they are told apart in the cache, where it costs little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from replayring_proto import layout
from replayring_proto.spec import BufferSpec

Array = npt.NDArray[Any]

_WORTH_WHOLE = 4
"""Records are fetched whole where at least one in so many of their bytes is wanted."""

_AT_ONCE_BYTES = 1 << 17
"""Of records that are fetched together before they are told apart. More would drive out of the
cache what is read next and the interpreter itself."""


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
            self._gather_together(fetch.together, rows, out)
        for key in fetch.apart:
            _as_runs(out[key], rows.shape, self._runs.dtype[key])[...] = self._runs[key][rows]
        for key in fetch.large:
            # With "clip", numpy writes into `out` directly; by the modulo, rows are in range.
            self._columns[key].take(rows, 0, out[key], "clip")

    def _gather_together(
        self, keys: Sequence[str], rows: npt.NDArray[np.int64], out: Mapping[str, Array]
    ) -> None:
        form = self._runs.dtype
        targets = [(key, _as_runs(out[key], rows.shape, form[key])) for key in keys]
        step = max(1, _AT_ONCE_BYTES * len(rows) // max(1, rows.size * form.itemsize))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            records = self._records.take(rows[part], 0, None, "clip").view(form)
            for key, target in targets:
                target[part] = records[key]


def _as_runs(array: Array, shape: tuple[int, ...], run: np.dtype[Any]) -> Array:
    """Returns a contiguous array seen as its items' bytes."""
    return np.ndarray(shape, run, array)
