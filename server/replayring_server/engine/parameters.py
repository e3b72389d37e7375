"""Published parameters: the newest tensors of each name, in memory and on disk.

The way back from learner to actors. How a file of them is laid out is `parameter_files`'.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

from replayring_proto.errors import (
    AlreadyExistsError,
    InvalidRequestError,
    NotFoundError,
    StorageError,
)
from replayring_proto.limits import check_limit
from replayring_proto.pack import Pack
from replayring_proto.spec import check_name, is_name
from replayring_server.engine import files
from replayring_server.engine.parameter_files import ParameterSet, decode, encode, load

logger = logging.getLogger(__name__)

FOLDER = ".parameters"

_MAX_MIN_VERSION = 1 << 62


class Parameters:
    """All published parameters of a data directory. Thread-safe; holds no open files."""

    def __init__(self, data_dir: Path, max_sets: int, max_bytes: int) -> None:
        """Loads what was published before.

        A damaged file, or one of more than `max_bytes`, is logged and left untouched; asking for
        its name raises what is wrong.

        Raises:
            StorageError: the folder of them cannot be used.
        """
        self._folder = data_dir / FOLDER
        self._max_sets = max_sets
        self._publishing = threading.Lock()
        self._sets: dict[str, ParameterSet] = {}
        self._damaged: dict[str, str] = {}
        self._remove_leftovers(data_dir)
        for path in files_of(data_dir):
            try:
                self._sets[path.name] = load(path, max_bytes)
            except StorageError as error:
                logger.error("parameters %r cannot be served: %s", path.name, error)
                self._damaged[path.name] = str(error)
        if not self._folder.is_dir():
            files.make_folder(self._folder)

    def get(self, name: str) -> ParameterSet:
        """Returns the newest version.

        Raises:
            NotFoundError: nothing was published under that name.
            StorageError: something was, but its file is damaged.
        """
        if (damage := self._damaged.get(name)) is not None:
            raise StorageError(damage)
        try:
            return self._sets[name]
        except KeyError:
            raise NotFoundError(
                f"no parameters named {name!r} were published; there are "
                f"{', '.join(sorted(self._sets)) or 'none'}"
            ) from None

    def newest(self) -> dict[str, ParameterSet]:
        """Returns the newest version of every name, sorted."""
        return dict(sorted(self._sets.items()))

    def damaged(self) -> list[str]:
        """Returns the names whose files are damaged, sorted."""
        return sorted(self._damaged)

    def publish(self, name: str, pack: Pack, min_version: int = 0) -> int:
        """Makes `pack` the newest version, on disk first, and returns its number.

        Args:
            name: what they are called.
            pack: the tensors.
            min_version: what the number is to be at least.

        Raises:
            InvalidRequestError: the name is not valid, or the number too large.
            LimitExceededError: too many names.
            DiskSpaceError: the disk is full; the version before stays the newest.
            StorageError: a damaged file has that name; it is not replaced, because versions would
                begin anew under the eyes of those who follow them.
        """
        check_name(name, "parameters' name")
        if min_version > _MAX_MIN_VERSION:
            raise InvalidRequestError(
                f"min_version is {min_version:,}; it must be at most 2^62: versions are to grow"
            )
        path = self._folder / name
        with self._publishing:
            if name in self._damaged and os.path.lexists(path):
                raise StorageError(self._damaged[name])
            previous = self._sets.get(name)
            if previous is None:
                check_limit(
                    len(self._sets.keys() | self._damaged.keys() | {name}),
                    self._max_sets,
                    "names of parameters",
                    "reuse a name",
                    "max_parameter_sets",
                )
            version = max(previous.version + 1 if previous else 1, min_version)
            files.write_whole(path, encode(name, version, pack))
            self._sets[name] = ParameterSet(version, pack)
            self._damaged.pop(name, None)
            return version

    def restore(self, name: str, encoded: bytes) -> int:
        """Takes over the content of such a file as it was written, and returns its version.

        Raises:
            AlreadyExistsError: others were published under that name.
            StorageError: it is not what was published under that name.
        """
        restored = decode(name, encoded, f"the copy of parameters {name!r}")
        with self._publishing:
            if name in self._sets or name in self._damaged:
                raise AlreadyExistsError(
                    f"there are parameters {name!r}, which are not overwritten; move "
                    f"{self._folder / name} away first"
                )
            files.write_whole(self._folder / name, encoded)
            self._sets[name] = restored
        return restored.version

    @staticmethod
    def _remove_leftovers(data_dir: Path) -> None:
        """Removes what a death in the middle of publishing left behind: it was not acknowledged."""
        for path in _content_of(data_dir):
            if is_half(path):
                logger.warning("removing %s, left by a server that died", path)
                files.remove_tree(path)


def is_half(path: Path) -> bool:
    """Returns whether something in the folder of parameters was left by a death in publishing."""
    half = files.HALF.fullmatch(path.name)
    if half is None or not is_name(half[1]):
        return False
    return os.path.isfile(path) and not os.path.islink(path)  # False where it cannot be told


def files_of(data_dir: Path) -> list[Path]:
    """Returns the files of a data directory's published parameters, sorted.

    Those being written have other names, as have files that are none of ours.

    Raises:
        StorageError: what should be their folder is none, or cannot be read.
    """
    return [path for path in _content_of(data_dir) if is_name(path.name)]


def _content_of(data_dir: Path) -> list[Path]:
    folder = data_dir / FOLDER
    if folder.is_symlink():
        raise StorageError(f"{folder} is a symbolic link; refused. Put the folder itself there")
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"cannot use {folder}: {error.strerror}; move it away") from None
