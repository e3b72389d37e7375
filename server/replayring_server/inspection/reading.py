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
        frames = np.empty((end - start, *self._column.shape), self._column.dtype)
        self.read_into(start, frames)
        return frames

    def read_into(self, start: int, frames: Array) -> None:
        """Fills `frames`, contiguous and of shape (n, *shape), with those from `start` on.

        Raises:
            StorageError: the disk cannot read them.
        """
        size = self._column.frame_bytes
        content = frames.reshape(-1).view(np.uint8).data
        row = start % self._rows
        until_end = min(len(frames), self._rows - row) * size
        read_at(self._fd, self._path, row * size, content[:until_end])
        read_at(self._fd, self._path, 0, content[until_end:])

    def pieces(self, start: int, end: int) -> Iterator[tuple[int, Array]]:
        """Yields these frames in pieces of about 4 MiB, each with the `index` of its first."""
        step = max(1, PIECE_BYTES // self._column.frame_bytes)
        for first in range(start, end, step):
            yield first, self.read(first, min(first + step, end))

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
