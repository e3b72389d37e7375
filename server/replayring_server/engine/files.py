"""Files of fixed size, reserved and mapped. The only module that opens a buffer's files to write.

What only reads is shared with clients on the same machine, and lies in `replayring_proto.files`.

Space is reserved with posix_fallocate, so that a full disk is an error when a buffer is created and
never a SIGBUS when a frame is written. No path component comes from a peer unchecked, and nothing
here follows a symbolic link.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
from pathlib import Path

import numpy as np

from replayring_proto.errors import DiskSpaceError, StorageError
from replayring_proto.files import Bytes, check_sizes, open_regular, read_whole

__all__ = [
    "check_sizes",
    "check_space",
    "map_file",
    "read_whole",
    "reserve",
    "sync_file",
    "sync_folder",
    "write_whole",
]

FILE_MODE = 0o640
FOLDER_MODE = 0o750
MAX_SHARE_OF_FREE = 0.8


def check_space(folder: Path, needed: int) -> None:
    """Checks that `needed` bytes leave the disk room to breathe.

    Raises:
        DiskSpaceError: they are more than 80% of what is free.
    """
    free = shutil.disk_usage(folder).free
    if needed > free * MAX_SHARE_OF_FREE:
        raise DiskSpaceError(
            f"the buffer needs {needed:,} bytes; {free:,} are free in {folder} and at most "
            f"{MAX_SHARE_OF_FREE:.0%} of that may be taken: lower the capacity, or free space"
        )


def reserve(path: Path, size: int) -> None:
    """Creates a file of `size` zero bytes whose space is really there.

    Raises:
        DiskSpaceError: the disk is full.
    """
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW, FILE_MODE)
    try:
        os.posix_fallocate(fd, 0, size)
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise DiskSpaceError(
            f"cannot reserve {size:,} bytes for {path.name}: {error.strerror}; lower the capacity, "
            "or free space"
        ) from None
    finally:
        os.close(fd)


def write_whole(path: Path, content: bytes | list[bytes | memoryview]) -> None:
    """Puts `content` at `path` durably and at once: readers see the old file or the new one."""
    part = path.with_name(f".{path.name}.part")
    fd = os.open(part, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_NOFOLLOW, FILE_MODE)
    try:
        with os.fdopen(fd, "wb") as file:
            file.writelines([content] if isinstance(content, bytes) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Makes names in a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def map_file(path: Path) -> Bytes:
    """Maps a file for reading and writing; it is unmapped when the last array of it is gone.

    Raises:
        StorageError: it cannot be, for lack of descriptors, say: each mapping holds one.
    """
    fd = open_regular(path, os.O_RDWR)
    try:
        return np.frombuffer(mmap.mmap(fd, 0), np.uint8)
    except OSError as error:
        raise StorageError(f"cannot map {path}: {error.strerror}") from None
    finally:
        os.close(fd)


def sync_file(path: Path) -> None:
    """Writes a file's changes to the disk, those made through a mapping included."""
    fd = open_regular(path, os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
