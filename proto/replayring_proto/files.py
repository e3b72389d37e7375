"""Opening a buffer's files: regular files only, never through a symbolic link.

What creates, replaces and syncs them is the engine's.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from replayring_proto.errors import StorageError

Bytes = npt.NDArray[np.uint8]

SMALL_BYTES = 1 << 20
"""What a small file has at most: several times as much as the longest buffer.json."""

_WANTS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def is_want(error: BaseException) -> bool:
    """Whether an error is no word on a file: descriptors or memory were used up at the moment."""
    cause = error.__context__ if isinstance(error, StorageError) else error
    return isinstance(cause, MemoryError) or getattr(cause, "errno", None) in _WANTS


def open_file(path: Path, flags: int) -> int:
    """Opens a regular file; returns the descriptor.

    Raises:
        StorageError: it cannot be opened, is a symbolic link, or not a regular file.
    """
    try:
        # Without O_NONBLOCK, a pipe put in a file's place would be waited for.
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StorageError(f"{path} is a symbolic link; refused") from None
        raise StorageError(f"cannot open {path}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise StorageError(f"{path} is not a regular file; refused")
    return fd


def is_at(path: Path, identity: tuple[int, int]) -> bool:
    """Whether a file that is open or mapped still has its name; see `opened_together`."""
    try:
        return _identity(os.lstat(path)) == identity
    except OSError:
        return False


@contextlib.contextmanager
def opened_together(path: Path) -> Iterator[tuple[int, int]]:
    """Checks that all that is opened in a folder meanwhile is of one life of that folder.

    A buffer may be deleted at any moment and another be made under its name.

    Args:
        path: a file in it, which is open for as long, so that no other file gets its identity.

    Yields:
        The file's identity, for `is_at`. It stays the file's own while that is open or mapped.

    Raises:
        StorageError: the file cannot be opened, or its name is another file's by now.
    """
    fd = open_file(path, os.O_RDONLY)
    try:
        identity = _identity(os.fstat(fd))
        yield identity
        if not is_at(path, identity):
            raise StorageError(f"{path.parent} was deleted or replaced while it was opened")
    finally:
        os.close(fd)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def read_whole(path: Path, at_most: int | None = SMALL_BYTES) -> bytes:
    """Returns a file's content.

    Raises:
        StorageError: it is missing, a symbolic link, not a regular file, or larger than `at_most`,
            or the disk cannot read it.
    """
    fd = open_file(path, os.O_RDONLY)
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd).st_size
        if at_most is not None and found > at_most:
            raise StorageError(
                f"{path} has {found:,} bytes, where {at_most:,} are the most; it was changed by "
                "another program. Restore it"
            )
        try:
            return file.read()
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror}; check the disk") from None


def check_sizes(folder: Path, sizes: Mapping[str, int]) -> None:
    """Checks that files are there with exactly these sizes, before any is mapped.

    Raises:
        StorageError: one is missing or of another size, or it or its folder is a symbolic link.
    """
    for parent in {(folder / name).parent for name in sizes}:
        if parent.is_symlink():
            raise StorageError(f"{parent} is a symbolic link; refused")
    for name, size in sizes.items():
        fd = open_file(folder / name, os.O_RDONLY)
        try:
            found = os.fstat(fd).st_size
        finally:
            os.close(fd)
        if found != size:
            raise StorageError(
                f"{folder / name} has {found:,} bytes, but the buffer's spec says {size:,}; it was "
                "changed by another program or a copy was cut short. Restore it, or delete the "
                "buffer"
            )


def map_file(path: Path, *, writable: bool = False) -> Bytes:
    """Maps a file; it is unmapped when the last array of it is gone.

    Raises:
        StorageError: it cannot be, for lack of descriptors, say: each mapping holds one.
    """
    fd = open_file(path, os.O_RDWR if writable else os.O_RDONLY)
    try:
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        return np.frombuffer(mmap.mmap(fd, 0, access=access), np.uint8)
    except OSError as error:
        raise StorageError(f"cannot map {path}: {error.strerror}") from None
    finally:
        os.close(fd)
