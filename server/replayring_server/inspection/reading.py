"""Reading a buffer's files in pieces of bounded size, through `pread` and not through a mapping.

A sector that the disk cannot read is then an error to report, and not the end of the process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from replayring_proto.errors import StorageError
from replayring_proto.spec import Column
from replayring_server.engine import files

Array = npt.NDArray[Any]

PIECE_BYTES = 4 << 20


class ColumnFile:
    """One column's file, read by `index` as the ring has it. A context manager."""

    def __init__(self, path: Path, column: Column, rows: int) -> None:
        """Opens the file of a column of so many physical rows.

        Raises:
            StorageError: it is missing, a link, or no regular file.
        """
        self._path = path
        self._column = column
        self._rows = rows
        self._fd = files.open_file(path, os.O_RDONLY)

    def read(self, start: int, end: int) -> Array:
        """Returns the frames from `start` to `end`, exclusively, wrapped or not: (n, *shape).

        Raises:
            StorageError: the disk cannot read them.
        """
        row = start % self._rows
        before_end = min(end - start, self._rows - row)
        until_end = self._read_rows(row, before_end)
        if before_end == end - start:
            return until_end
        return np.concatenate([until_end, self._read_rows(0, end - start - before_end)])

    def pieces(self, start: int, end: int) -> Iterator[tuple[int, Array]]:
        """Yields these frames in pieces of about 4 MiB, each with the `index` of its first."""
        step = max(1, PIECE_BYTES // self._column.frame_bytes)
        for first in range(start, end, step):
            yield first, self.read(first, min(first + step, end))

    def _read_rows(self, row: int, count: int) -> Array:
        size = self._column.frame_bytes
        content = read_at(self._fd, self._path, row * size, count * size)
        return np.frombuffer(content, self._column.dtype).reshape(count, *self._column.shape)

    def __enter__(self) -> ColumnFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._fd)


def read_file(path: Path) -> Array:
    """Returns a small file as bytes.

    Raises:
        StorageError: it is missing, a link, no regular file, or cannot be read.
    """
    fd = files.open_file(path, os.O_RDONLY)
    try:
        return np.frombuffer(read_at(fd, path, 0, os.fstat(fd).st_size), np.uint8)
    finally:
        os.close(fd)


def read_at(fd: int, path: Path, offset: int, size: int) -> bytearray:
    """Returns exactly `size` bytes of an open file.

    Raises:
        StorageError: they cannot be read, or the file ends before.
    """
    content = bytearray(size)
    view, done = memoryview(content), 0
    while done < size:
        try:
            count = os.preadv(fd, [view[done:]], offset + done)
        except OSError as error:
            raise StorageError(
                f"{path} cannot be read at byte {offset + done:,}: {error.strerror}"
            ) from None
        if not count:
            raise StorageError(f"{path} ends before byte {offset + size:,}")
        done += count
    return content
