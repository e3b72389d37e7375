"""Files of fixed size, reserved and mapped. The only module that opens a buffer's files.

Space is reserved with posix_fallocate, so that a full disk is an error when a buffer is created and
never a SIGBUS when a frame is written. No path component comes from a peer unchecked, and nothing
here follows a symbolic link. Modes are the same whatever the umask of the process.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import mmap
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from replayring_proto.errors import DiskSpaceError, StorageError

logger = logging.getLogger(__name__)

Bytes = npt.NDArray[np.uint8]

FILE_MODE = 0o640
FOLDER_MODE = 0o750
MAX_SHARE_OF_FREE = 0.8

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def make_folder(path: Path) -> None:
    """Creates a folder.

    Raises:
        FileExistsError: there is something of that name.
    """
    path.mkdir(mode=FOLDER_MODE)
    with contextlib.suppress(PermissionError):  # file systems without modes of their own
        path.chmod(FOLDER_MODE)


def create_file(path: Path, flags: int) -> int:
    """Opens a file for reading and writing, creating it, and returns the descriptor."""
    flags |= os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(path, flags, FILE_MODE)
    with contextlib.suppress(PermissionError):
        os.fchmod(fd, FILE_MODE)
    return fd


def remove_tree(path: Path) -> None:
    """Removes a folder with all in it, or whatever else lies there; a link, not its target.

    What cannot be removed is logged and stays.
    """
    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        else:
            shutil.rmtree(path)
    except OSError as error:
        logger.warning("cannot remove %s, which takes space for nothing: %s", path, error)


def check_space(folder: Path, needed: int) -> None:
    """Checks that `needed` bytes leave the disk room to breathe.

    Raises:
        DiskSpaceError: they are more than 80% of what is free.
    """
    free = shutil.disk_usage(folder).free
    if needed > free * MAX_SHARE_OF_FREE:
        raise DiskSpaceError(
            f"it needs {needed:,} bytes; {free:,} are free in {folder} and at most "
            f"{MAX_SHARE_OF_FREE:.0%} of that may be taken: lower the capacity, or free space"
        )


def reserve(path: Path, size: int) -> None:
    """Creates a file of `size` zero bytes whose space is really there.

    Raises:
        DiskSpaceError: the disk is full.
    """
    with _when_full(
        f"cannot reserve {size:,} bytes for {path.name}", "lower the capacity, or free"
    ):
        fd = create_file(path, os.O_EXCL)
        try:
            os.posix_fallocate(fd, 0, size)
            os.fsync(fd)
        finally:
            os.close(fd)


def write_whole(path: Path, content: bytes | list[bytes | memoryview]) -> None:
    """Puts `content` at `path` durably and at once: readers see the old file or the new one.

    Raises:
        DiskSpaceError: the disk is full; the old file is as it was.
    """
    part = path.with_name(f".{path.name}.part")
    with _when_full(f"cannot write {path}", "what was there before stays; free"):
        fd = create_file(part, os.O_TRUNC)
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


@contextlib.contextmanager
def _when_full(what: str, remedy: str) -> Iterator[None]:
    """Says of a full disk what could not be done, and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise DiskSpaceError(f"{what}: {error.strerror}; {remedy} space") from None


def sync_folder(path: Path) -> None:
    """Makes names in a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_whole(path: Path) -> bytes:
    """Returns a small file's content.

    Raises:
        StorageError: it is missing, a symbolic link, or not a regular file.
    """
    fd = open_file(path, os.O_RDONLY)
    with os.fdopen(fd, "rb") as file:
        return file.read()


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


def map_file(path: Path, *, writable: bool = True) -> Bytes:
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


def sync_file(path: Path) -> None:
    """Writes a file's changes to the disk, those made through a mapping included."""
    fd = open_file(path, os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def open_file(path: Path, flags: int) -> int:
    """Opens a regular file that is there, and returns the descriptor.

    Raises:
        StorageError: it is missing, a symbolic link, or not a regular file.
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
