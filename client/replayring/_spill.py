"""A writer's overflow on disk: episodes in files, kept until the server has acknowledged them.

A spill directory holds the state of one writer, and outlives its process:

    writer              JSON: format, buffer, writer_id, and `reserved`: sequences up to this one
                        may have been used; the next process goes on above it
    <sequence>.episode  one episode: MAGIC, its pack's header behind the header's length (8 bytes,
                        little-endian), the pack's body, and XXH3-128 of all that (16 bytes)
    shard               the shard that they are for, where there are several servers
    lock                held by the process whose writer uses the directory

A file appears whole, by rename, and is gone when its episode is acknowledged. Nothing is synced:
what is here survives the death of the process, and the checksum tells what a power loss did to it.
Sequences are reserved by the thousand, so that the next process needs no trace of each.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from replayring._adding import new_writer_id
from replayring_proto.errors import (
    DirectoryLockedError,
    InvalidRequestError,
    ReplayRingError,
    StorageError,
)
from replayring_proto.files import is_want
from replayring_proto.pack import Pack, PackLayout, parse_header
from replayring_proto.spec import check_name

_MAGIC = b"RRSPILL1"
_LENGTH_BYTES = 8
_DIGEST_BYTES = 16
_SUFFIX = ".episode"
_FORMAT = 1
_RESERVED_AT_ONCE = 1000
_FILE_MODE = 0o640
_FOLDER_MODE = 0o750

_held: set[tuple[int, int]] = set()
_held_guard = threading.Lock()


def _hold_nothing() -> None:
    """In a forked child, which has none of its parent's locks."""
    global _held_guard
    _held_guard = threading.Lock()
    _held.clear()


os.register_at_fork(after_in_child=_hold_nothing)


def owner_of(folder: Path) -> str | None:
    """Returns the identity of the writer whose spill directory this is, if it is one.

    Raises:
        StorageError: its state is damaged.
    """
    path = folder / "writer"
    if not path.exists():
        return None
    with _storage_errors(f"cannot use the spill directory {folder}"):
        return str(_parse_state(path.read_bytes(), path)["writer_id"])


def shard_of(folder: Path) -> str | None:
    """Returns the shard that the episodes in a spill directory are for, if that was noted."""
    path = folder / "shard"
    if not path.exists():
        return None
    with _storage_errors(f"cannot use the spill directory {folder}"):
        return path.read_text()


def note_shard(folder: Path, name: str) -> None:
    """Notes the shard that the episodes in a spill directory are for."""
    with _storage_errors(f"cannot write to {folder}"):
        _write_whole(folder / "shard", [name.encode()], sync=True)


class DamagedError(StorageError):
    """The file of a spilled episode cannot be read."""


@dataclass(frozen=True)
class Spilled:
    """An episode in a file. Has what `Outgoing` has.

    Attributes:
        sequence: its number among its writer's.
        path: the file.
        nbytes: the file's size.
    """

    sequence: int
    path: Path
    nbytes: int

    def packed(self) -> Pack:
        """Reads the episode.

        Raises:
            DamagedError: the file is damaged, or cannot be read.
            StorageError: this process lacks what it takes to read it, at present.
        """
        try:
            with open(_open(self.path, os.O_RDONLY), "rb") as file:
                return _read(file, self.nbytes)
        except (OSError, MemoryError, ReplayRingError) as error:
            if is_want(error):
                raise StorageError(f"{self.path} cannot be read at present: {error!r}") from None
            raise DamagedError(f"{self.path} cannot be sent: {error}") from None


class Spill:
    """A spill directory, in use by one writer. Not thread-safe; the writer closes it.

    Attributes:
        folder: the directory.
        writer_id: the identity of the writer whose directory it is.
        reserved: sequences up to this one may have been used.
        nbytes: bytes of all episodes in it.
    """

    def __init__(self, folder: Path, buffer: str, writer_id: str | None, max_bytes: int) -> None:
        """Opens the directory, or makes it.

        Args:
            folder: where it is.
            buffer: the name of the buffer that episodes are for.
            writer_id: the identity to use; None for the directory's own, or a new one.
            max_bytes: bytes of all episodes at most.

        Raises:
            DirectoryLockedError: another writer uses it.
            InvalidRequestError: it belongs to another buffer or identity.
            StorageError: it cannot be used.
        """
        self.folder = folder
        self.max_bytes = max_bytes
        self.nbytes = 0
        self.reserved = 0
        self.writer_id = writer_id or new_writer_id()
        self._buffer = buffer
        with _storage_errors(f"cannot spill to {folder}"):
            folder.mkdir(_FOLDER_MODE, parents=True, exist_ok=True)
            self._lock, self._identity = _lock(folder)
        try:
            self._read_state(writer_id)
        except BaseException:
            self.close()
            raise

    def waiting(self) -> list[Spilled]:
        """Returns the episodes that are there, in order. For the beginning."""
        found = []
        for path in self.folder.glob(f"*{_SUFFIX}"):
            with suppress(ValueError):  # a name that is not ours
                found.append(Spilled(int(path.stem), path, path.stat().st_size))
        found.sort(key=lambda spilled: spilled.sequence)
        self.nbytes = sum(spilled.nbytes for spilled in found)
        return found

    def reserve(self, sequence: int) -> None:
        """Makes sure that no later process uses `sequence` again.

        Raises:
            StorageError: that cannot be written.
        """
        if sequence > self.reserved:
            reserved = sequence + _RESERVED_AT_ONCE
            with _storage_errors(f"cannot write to {self.folder}"):
                self._write_state(reserved)
            self.reserved = reserved

    def fits(self, layout: PackLayout) -> bool:
        """Whether there is room for an episode."""
        return self.nbytes + _file_bytes(layout) <= self.max_bytes

    def add(self, sequence: int, pack: Pack) -> Spilled:
        """Writes an episode.

        Raises:
            StorageError: the disk is full, or fails. Nothing is left of it.
        """
        path = self.folder / f"{sequence:020d}{_SUFFIX}"
        header = pack.layout.header()
        parts: list[Any] = [
            _MAGIC,
            len(header).to_bytes(_LENGTH_BYTES, "little"),
            header,
            pack.body.data,
        ]
        digest = xxhash.xxh3_128()
        for part in parts:
            digest.update(part)
        with _storage_errors(f"cannot spill to {self.folder}"):
            _write_whole(path, [*parts, digest.digest()])
        spilled = Spilled(sequence, path, _file_bytes(pack.layout))
        self.nbytes += spilled.nbytes
        return spilled

    def remove(self, spilled: Spilled) -> None:
        """Deletes an episode that was acknowledged or refused."""
        self.nbytes -= spilled.nbytes
        with suppress(OSError):  # one that stays is sent again, and recognised
            spilled.path.unlink()

    def set_aside(self, spilled: Spilled) -> None:
        """Renames a file that cannot be read, for whoever wants to look at it."""
        self.nbytes -= spilled.nbytes
        with suppress(OSError):
            spilled.path.rename(spilled.path.with_suffix(".damaged"))

    def close(self) -> None:
        """Lets another writer use the directory. Again, does nothing."""
        with _held_guard:
            if self._lock >= 0:
                _held.discard(self._identity)
                os.close(self._lock)
                self._lock = -1

    def _read_state(self, writer_id: str | None) -> None:
        path = self.folder / "writer"
        for unfinished in self.folder.glob("*.tmp"):
            unfinished.unlink(missing_ok=True)
        with _storage_errors(f"cannot use the spill directory {self.folder}"):
            if not path.exists():
                self._write_state(0)
                return
            with open(_open(path, os.O_RDONLY), "rb") as file:
                state = _parse_state(file.read(1 << 16), path)
        for what, theirs, ours in (
            ("buffer", state["buffer"], self._buffer),
            ("writer_id", state["writer_id"], writer_id or state["writer_id"]),
        ):
            if theirs != ours:
                raise InvalidRequestError(
                    f"the spill directory {self.folder} belongs to {what} {theirs!r}, not "
                    f"{ours!r}; give every writer a directory of its own"
                )
        self.writer_id = check_name(state["writer_id"], "writer_id")
        self.reserved = state["reserved"]

    def _write_state(self, reserved: int) -> None:
        state = {
            "format": _FORMAT,
            "buffer": self._buffer,
            "writer_id": self.writer_id,
            "reserved": reserved,
        }
        _write_whole(self.folder / "writer", [json.dumps(state).encode()], sync=True)


def _file_bytes(layout: PackLayout) -> int:
    return len(_MAGIC) + _LENGTH_BYTES + len(layout.header()) + layout.nbytes + _DIGEST_BYTES


def _parse_state(encoded: bytes, path: Path) -> dict[str, Any]:
    kinds = {"format": int, "buffer": str, "writer_id": str, "reserved": int}
    try:
        state: Any = json.loads(encoded)
    except ValueError:
        state = None
    if (
        not isinstance(state, dict)
        or not all(isinstance(state.get(key), kind) for key, kind in kinds.items())
        or state["format"] != _FORMAT
    ):
        raise StorageError(
            f"{path} is damaged, or of another version of replayring; use another directory"
        )
    return state


def _read(file: Any, size: int) -> Pack:
    digest = xxhash.xxh3_128()
    prefix = file.read(len(_MAGIC) + _LENGTH_BYTES)
    length = int.from_bytes(prefix[len(_MAGIC) :], "little")
    if not prefix.startswith(_MAGIC) or length > size:
        raise StorageError("it is no spilled episode")
    header = file.read(length)
    layout = parse_header(header)
    if len(prefix) + length + layout.nbytes + _DIGEST_BYTES != size:  # before memory is taken
        raise StorageError(f"its size of {size:,} bytes is not what its header says")
    pack = Pack(layout)
    file.readinto(pack.body.data)
    for part in (prefix, header, pack.body.data):
        digest.update(part)
    if file.read() != digest.digest():
        raise StorageError("its checksum does not match")
    return pack


def _write_whole(path: Path, parts: list[Any], *, sync: bool = False) -> None:
    """Writes a file that appears whole or not at all."""
    unfinished = path.with_suffix(".tmp")
    unfinished.unlink(missing_ok=True)
    try:
        with open(_open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
            for part in parts:
                file.write(part)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        unfinished.rename(path)
        if sync:
            folder = _open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError:
        with suppress(OSError):
            unfinished.unlink()
        raise


def _open(path: Path, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, _FILE_MODE)


@contextmanager
def _storage_errors(what: str) -> Iterator[None]:
    try:
        yield
    except ReplayRingError:
        raise
    except OSError as error:
        raise StorageError(f"{what}: {error.strerror}; make room, or use another one") from None


def _lock(folder: Path) -> tuple[int, tuple[int, int]]:
    """Locks the directory for this process, and within it for one writer.

    A POSIX record lock dies with the process, also where a forked child lives on. Closing any
    descriptor of its file drops it, so within one process a set has to do, asked first.
    """
    path = folder / "lock"
    with _held_guard:
        if path.exists() and _identity(os.stat(path)) in _held:
            raise DirectoryLockedError(
                f"another writer of this process spills to {folder}; close it, or use another one"
            )
        lock = _open(path, os.O_CREAT | os.O_RDWR)
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(lock, 200).decode(errors="replace").strip() or "unknown"
            os.close(lock)
            raise DirectoryLockedError(
                f"another process ({holder}) spills to {folder}; give every writer a directory of "
                "its own"
            ) from None
        identity = _identity(os.fstat(lock))
        _held.add(identity)
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"pid {os.getpid()}\n".encode(), 0)
    return lock, identity


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
