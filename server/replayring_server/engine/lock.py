"""One server per data directory, held by a lock that dies with the server.

A POSIX record lock belongs to a process: the kernel releases it when the process ends, however it
ends, and a forked child does not inherit it. Within one process it does not exclude anybody, hence
the set of held files besides.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
import struct
import threading
from pathlib import Path
from types import TracebackType

from replayring_proto.errors import DirectoryLockedError, StorageError
from replayring_proto.files import open_file
from replayring_proto.layout import LOCK
from replayring_server.engine import files

logger = logging.getLogger(__name__)

# The kernel's struct flock on 64-bit Linux: type, whence, start, length, pid.
_FLOCK = struct.Struct("hhqqi4x")

_HOLDER_BYTES = 200

_held: set[tuple[int, int]] = set()
_held_guard = threading.Lock()


class DirectoryLock:
    """The right to serve one data directory. Take it once, `release` it when done.

    Raises:
        DirectoryLockedError: another server, or this process, has it; the message names the holder.
        StorageError: the folder cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / LOCK
        # Closing any descriptor of the file would drop a lock this process holds on it, so a second
        # taker in this process must be turned away before it opens one.
        with _held_guard:
            if _held_here(path):
                raise DirectoryLockedError(f"{folder} is already open in this process")
            self._fd = _open(path)
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = _description(self._fd)
                os.close(self._fd)
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise StorageError(
                        f"cannot lock {path}: {error.strerror}; use a data directory on a file "
                        "system that has locks"
                    ) from None
                raise DirectoryLockedError(
                    f"{folder} is served by another process ({holder}); stop it, or use another "
                    "data directory"
                ) from None
            self._identity = _identity(os.fstat(self._fd))
            _held.add(self._identity)
        self.describe(f"pid {os.getpid()}")

    def describe(self, holder: str) -> None:
        """Writes who holds the lock, for the error that others get.

        In place: what is given back to a full disk may not be had again.
        """
        # Always as long, since another's longer text may stand there.
        text = f"{holder:{_HOLDER_BYTES - 1}.{_HOLDER_BYTES - 1}}\n"
        try:
            os.pwrite(self._fd, text.encode(errors="replace"), 0)
        except OSError as error:
            logger.warning("others will not be told who has this directory: %s", error)

    def release(self) -> None:
        """Gives the lock up. May be called again."""
        with _held_guard:
            if self._fd >= 0:
                _held.remove(self._identity)
                os.close(self._fd)
                self._fd = -1  # that number may soon be another file's

    def __enter__(self) -> DirectoryLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def holder_of(folder: Path) -> str | None:
    """Returns who serves a data directory, or None if nobody does. Takes no lock itself.

    Raises:
        StorageError: the lock's file is no regular file, or cannot be read.
    """
    path = folder / LOCK
    with _held_guard:
        if _held_here(path):
            return f"pid {os.getpid()}, this process"
        if not os.path.lexists(path):
            return None
        fd = open_file(path, os.O_RDONLY)
        try:
            asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))[0]
            return None if kind == fcntl.F_UNLCK else _description(fd)
        finally:
            os.close(fd)


def _open(path: Path) -> int:
    try:
        fd = files.create_file(path, 0)
    except OSError as error:
        raise StorageError(f"cannot open {path}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise StorageError(f"{path} is not a regular file; remove it")
    return fd


def _held_here(path: Path) -> bool:
    return path.exists() and _identity(os.stat(path)) in _held


def _description(fd: int) -> str:
    return os.pread(fd, _HOLDER_BYTES, 0).decode(errors="replace").strip() or "unknown"


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
