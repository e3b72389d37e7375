"""Reading a buffer's files in pieces of bounded size, through `pread` and not through a mapping.

A sector that the disk cannot read is then an error to report, and not the end of the process.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from replayring_proto import layout
from replayring_proto.errors import StorageError
from replayring_proto.spec import BufferSpec
from replayring_server.engine import files

Array = npt.NDArray[Any]

PIECE_BYTES = 4 << 20


class FrameReader:
    """Some of a buffer's columns, read by `index` as the ring has it. A context manager."""

    def __init__(self, folder: Path, spec: BufferSpec, keys: Iterable[str]) -> None:
        """Opens the files in a buffer's `folder` that have the columns `keys`.

        Raises:
            StorageError: one is missing, a link, or no regular file.
        """
        keys = set(keys)
        columns = layout.stored_columns(spec)
        self._columns = {key: columns[key] for key in keys}
        self._rows = layout.physical_rows(spec.capacity)
        with ExitStack() as opening:
            self._files = [
                (opening.enter_context(_Records(folder, file)), keys.intersection(file.columns))
                for file in layout.frame_files(spec)
                if not keys.isdisjoint(file.columns)
            ]
            self._closing = opening.pop_all()

    def read(self, start: int, end: int) -> dict[str, Array]:
        """Returns the frames from `start` to `end`, exclusively, wrapped or not: (n, *shape) each.

        Raises:
            StorageError: the disk cannot read them.
        """
        arrays = {
            key: np.empty((end - start, *column.shape), column.dtype)
            for key, column in self._columns.items()
        }
        self.read_into(start, arrays)
        return arrays

    def read_into(self, start: int, arrays: Mapping[str, Array]) -> None:
        """Fills contiguous arrays of shape (n, *shape), one for each column, from `start` on.

        Raises:
            StorageError: the disk cannot read them.
        """
        frames = len(next(iter(arrays.values())))
        row = start % self._rows
        until_end = min(frames, self._rows - row)
        for file, keys in self._files:
            wanted = {key: arrays[key] for key in keys}
            file.read_into(row, {key: array[:until_end] for key, array in wanted.items()})
            file.read_into(0, {key: array[until_end:] for key, array in wanted.items()})

    def pieces(self, start: int, end: int) -> Iterator[tuple[int, dict[str, Array]]]:
        """Yields these frames in pieces of some 4 MiB, each with the `index` of its first."""
        step = min(file.at_once for file, _ in self._files)
        for first in range(start, end, step):
            yield first, self.read(first, min(first + step, end))

    def close(self) -> None:
        """Closes the files."""
        self._closing.close()

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Records:
    """One file of frames. A context manager."""

    def __init__(self, folder: Path, file: layout.FrameFile) -> None:
        self._path = folder / file.name
        self._file = file
        self._fd = files.open_file(self._path, os.O_RDONLY)

    @property
    def at_once(self) -> int:
        """How many records are read together at most."""
        return max(1, PIECE_BYTES // self._file.record_bytes)

    def read_into(self, row: int, arrays: Mapping[str, Array]) -> None:
        """Fills arrays, one for each column that is wanted, with consecutive rows."""
        if len(self._file.columns) > 1:
            self._tell_apart(row, arrays)
            return
        for array in arrays.values():
            self._read(row, array.reshape(-1).view(np.uint8))

    def _tell_apart(self, row: int, arrays: Mapping[str, Array]) -> None:
        frames = len(next(iter(arrays.values())))
        for first in range(0, frames, self.at_once):
            end = min(first + self.at_once, frames)
            records = np.empty((end - first) * self._file.record_bytes, np.uint8)
            self._read(row + first, records)
            for key, array in arrays.items():
                array[first:end] = self._file.view(records, key)

    def _read(self, row: int, content: npt.NDArray[np.uint8]) -> None:
        read_at(self._fd, self._path, row * self._file.record_bytes, content.data)

    def __enter__(self) -> _Records:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def read_file(path: Path) -> Array:
    """Returns a small file as bytes.

    Raises:
        StorageError: it is missing, a link, no regular file, or cannot be read.
    """
    fd = files.open_file(path, os.O_RDONLY)
    try:
        content = np.empty(os.fstat(fd).st_size, np.uint8)
        read_at(fd, path, 0, content.data)
        return content
    finally:
        os.close(fd)


def read_at(fd: int, path: Path, offset: int, content: memoryview) -> None:
    """Fills `content` with the bytes of an open file from `offset` on.

    Raises:
        StorageError: they cannot be read, or the file ends before.
    """
    done = 0
    while done < len(content):
        try:
            count = os.preadv(fd, [content[done:]], offset + done)
        except OSError as error:
            raise StorageError(
                f"{path} cannot be read at byte {offset + done:,}: {error.strerror}"
            ) from None
        if not count:
            raise StorageError(f"{path} ends before byte {offset + len(content):,}")
        done += count
