"""Where snapshots lie: a folder of this machine, or whatever fsspec reaches.

A place keeps files by name and knows nothing of what they hold. Foreign errors become ours here.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import numpy as np
import numpy.typing as npt

from replayring_proto.errors import (
    DirectoryLockedError,
    InvalidRequestError,
    NotFoundError,
    StorageError,
)
from replayring_proto.pack import aligned_empty
from replayring_server.engine import files
from replayring_server.engine.lock import DirectoryLock, holder_of
from replayring_server.engine.store import is_data_dir
from replayring_server.extras import needs_extra

Bytes = npt.NDArray[np.uint8]

_HALF_URL = re.compile(r"[a-z][a-z0-9+.-]+:/(?!/)")


class Place(Protocol):
    """Files by name. Names have "/" between folders; folders come into being with their files."""

    def sizes(self, folder: str) -> dict[str, int]:
        """Returns the size of each file in a folder, by its name there; none if it is not there."""

    def read(self, name: str) -> Bytes | None:
        """Returns a file's content, or None if there is none of that name.

        Raises:
            StorageError: it cannot be read.
        """

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Puts `content` at `name`: whoever reads it sees what was there before, or all of this.

        Raises:
            DiskSpaceError: the disk is full.
            StorageError: it cannot be written.
        """

    def folders(self, folder: str) -> list[str]:
        """Returns the names of the folders in a folder."""

    def remove(self, name: str) -> None:
        """Removes a file.

        Raises:
            StorageError: it cannot be removed.
        """


@contextlib.contextmanager
def place_to_write(where: str, outside: Path) -> Iterator[Place]:
    """Opens a destination, which is made if need be. A folder is locked meanwhile.

    Args:
        where: a path, or a URL.
        outside: a folder in which it must not lie.

    Raises:
        DirectoryLockedError: another snapshot is being written there.
        InvalidRequestError: it lies in `outside`, is a server's data directory, a URL of no kind
            that can be used, or neither path nor URL.
        StorageError: it cannot be used.
    """
    folder = _folder_of(where)
    if folder is None:
        yield RemotePlace(where)
        return
    folder = folder.resolve()
    if folder.is_relative_to(outside):
        raise InvalidRequestError(f"{folder} lies in {outside}; use a place outside of it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot write to {folder}: {error.strerror}") from None
    if is_data_dir(folder):
        raise InvalidRequestError(
            f"{folder} is a server's data directory; use a folder of the snapshot's own"
        )
    try:
        lock = DirectoryLock(folder)
    except DirectoryLockedError:
        raise DirectoryLockedError(
            f"something is at work in {folder} ({holder_of(folder)}); wait until it has ended, or "
            "use another destination"
        ) from None
    with lock:
        yield FolderPlace(folder)


def place_to_read(where: str) -> Place:
    """Opens a source.

    Raises:
        InvalidRequestError: the URL is of no kind that can be used, or is none.
        NotFoundError: there is no such folder.
        StorageError: the store does not let itself be opened.
    """
    folder = _folder_of(where)
    if folder is None:
        return RemotePlace(where)
    if not folder.is_dir():
        raise NotFoundError(f"there is no directory {folder}")
    return FolderPlace(folder.resolve())


def _folder_of(where: str) -> Path | None:
    """Returns the folder that a path or a file:// URL names, or None for other URLs.

    Raises:
        InvalidRequestError: it is neither: what it was meant for would lie elsewhere.
    """
    if where.startswith("file:"):
        found = urlsplit(where)
        named = where.startswith("file:/") and found.path.strip("/")
        if not named or found.netloc not in ("", "localhost") or found.query or found.fragment:
            raise InvalidRequestError(
                f"{where} names no folder of this machine; file:///FOLDER does, with FOLDER from "
                "the root on. Or give the path itself"
            )
        return Path(unquote(found.path))
    if _HALF_URL.match(where):
        raise InvalidRequestError(
            f"{where} is neither a URL, which has '://', nor a path; if it is a path, give "
            f"./{where}"
        )
    return None if "://" in where else Path(where)


class FolderPlace:
    """A folder. Files are on the disk when `write` returns, and are read through no link."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __str__(self) -> str:
        return str(self._root)

    def sizes(self, folder: str) -> dict[str, int]:
        """See `Place`."""
        return {
            entry.name: entry.stat(follow_symlinks=False).st_size
            for entry in self._entries(folder)
            if entry.is_file(follow_symlinks=False)
        }

    def folders(self, folder: str) -> list[str]:
        """See `Place`."""
        return [
            entry.name for entry in self._entries(folder) if entry.is_dir(follow_symlinks=False)
        ]

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self._root / folder) as entries:
                return list(entries)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"cannot list {self._root / folder}: {error.strerror}") from None

    def read(self, name: str) -> Bytes | None:
        """See `Place`."""
        path = self._root / name
        if not os.path.lexists(path):
            return None
        with os.fdopen(files.open_file(path, os.O_RDONLY), "rb", buffering=0) as file:
            content = aligned_empty(os.fstat(file.fileno()).st_size)
            done = 0
            try:
                while count := file.readinto(content[done:].data):
                    done += count
            except OSError as error:
                raise StorageError(f"cannot read {path}: {error.strerror}") from None
        return content[:done]

    def write(self, name: str, content: bytes | memoryview) -> None:
        """See `Place`."""
        path = self._root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_whole(path, [content])
            _drop_from_memory(path)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}") from None

    def remove(self, name: str) -> None:
        """See `Place`."""
        path = self._root / name
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"cannot remove {path}: {error.strerror}") from None


def _drop_from_memory(path: Path) -> None:
    """Lets the machine's memory keep the ring's frames rather than their copies."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


class RemotePlace:
    """What fsspec reaches under a URL; credentials are taken from where its kind looks for them.

    Whether a file is there at once and as a whole is the store's own affair, as it is in object
    stores and is not over sftp. The manifest is therefore moved into its place.
    """

    def __init__(self, url: str) -> None:
        """Opens it.

        Raises:
            InvalidRequestError: fsspec, or what it needs for such URLs, is not installed; or the
                URL has characters of patterns.
            StorageError: the store does not let itself be opened.
        """
        try:
            core = importlib.import_module("fsspec.core")
        except ImportError as error:
            raise needs_extra(f"the URL {url}", "snapshot", error) from None
        try:
            found: tuple[Any, str] = core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise InvalidRequestError(f"{url} cannot be used: {error}") from None
        except Exception as error:  # some connect at once, and each kind has errors of its own
            raise StorageError(f"cannot open {url}: {error!r:.300}") from error
        self._url = url
        self._system, self._root = found[0], found[1].rstrip("/")
        if not {"*", "?", "["}.isdisjoint(self._root):  # the manifest would be moved elsewhere
            raise InvalidRequestError(
                f"{url} cannot be used: fsspec takes '*', '?' and '[' for patterns; use other names"
            )

    def __str__(self) -> str:
        return self._url

    def sizes(self, folder: str) -> dict[str, int]:
        """See `Place`."""
        return {name: size for name, kind, size in self._entries(folder) if kind == "file"}

    def folders(self, folder: str) -> list[str]:
        """See `Place`."""
        return [name for name, kind, _ in self._entries(folder) if kind == "directory"]

    def _entries(self, folder: str) -> list[tuple[str, str, int]]:
        """Returns name, kind and size of what lies in a folder."""
        with self._ours("list", folder):
            self._system.invalidate_cache()
            try:
                found = self._system.ls(self._path(folder), detail=True)
            except FileNotFoundError:
                return []
        names = ((one["name"].rstrip("/").rpartition("/")[2], one) for one in found)
        return [(name, one["type"], int(one["size"] or 0)) for name, one in names]

    def read(self, name: str) -> Bytes | None:
        """See `Place`."""
        with self._ours("read", name):
            try:
                content = self._system.cat_file(self._path(name))
            except FileNotFoundError:
                return None
        return np.frombuffer(content, np.uint8)

    def write(self, name: str, content: bytes | memoryview) -> None:
        """See `Place`."""
        path = self._path(name)
        with self._ours("write", name):
            self._system.makedirs(path.rpartition("/")[0], exist_ok=True)
            if "/" in name:
                self._system.pipe_file(path, bytes(content))
            else:
                self._move_into_place(path, bytes(content))

    def _move_into_place(self, path: str, content: bytes) -> None:
        self._system.pipe_file(f"{path}.part", content)
        try:
            self._system.mv(f"{path}.part", path)
        except Exception:  # most copy, then remove; some stores let nothing be removed
            if self._system.cat_file(path) != content:
                raise

    def remove(self, name: str) -> None:
        """See `Place`."""
        with self._ours("remove", name):
            self._system.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextlib.contextmanager
    def _ours(self, deed: str, name: str) -> Iterator[None]:
        """Makes errors ours, whatever kind of store they come from."""
        try:
            yield
        except Exception as error:
            raise StorageError(f"cannot {deed} {self._url}/{name}: {error!r:.300}") from error
