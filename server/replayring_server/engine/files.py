"""Files of fixed size, reserved and mapped. The only module that opens a buffer's files to write.

What only reads is shared with clients on the same machine, and lies in `replayring_proto.files`.

Space is reserved with posix_fallocate, so that a full disk is an error when a buffer is created and
never a SIGBUS when a frame is written. No path component comes from a peer unchecked, and nothing
here follows a symbolic link. Modes are the same whatever the umask of the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from replayring_proto.errors import DiskSpaceError
from replayring_proto.files import Bytes as Bytes
from replayring_proto.files import check_sizes as check_sizes  # for the engine's other modules
from replayring_proto.files import map_file as map_file
from replayring_proto.files import open_file as open_file
from replayring_proto.files import opened_together as opened_together
from replayring_proto.files import read_whole as read_whole

logger = logging.getLogger(__name__)

FILE_MODE = 0o640
FOLDER_MODE = 0o750
MAX_SHARE_OF_FREE = 0.8

HALF = re.compile(r"\.(.+)\.part")
"""What `write_whole` calls a file until it is whole."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.msync.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_MS_SYNC = 4


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
    except FileNotFoundError:
        pass  # nothing is what is wanted
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


def sync_mapped(mapped: Bytes, path: Path) -> None:
    """Writes to the disk what was changed in a mapped file.

    Nothing is opened for that: to have no descriptor left is no failure of the disk. `mmap.flush`
    is the same, but lets no other thread run for as long as the disk takes.

    Raises:
        OSError: the disk failed. It says so once for each change; a later success means nothing.
    """
    if _LIBC.msync(mapped.ctypes.data, mapped.nbytes, _MS_SYNC):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(path))
