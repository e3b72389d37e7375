"""All buffers of one data directory: opening, creating, deleting, and the lock on it."""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from replayring_proto import layout
from replayring_proto.errors import (
    AlreadyExistsError,
    DiskSpaceError,
    NotFoundError,
    StorageError,
)
from replayring_proto.limits import MAX_NAME, ServerLimits, check_limit
from replayring_proto.spec import BufferSpec, check_name, is_name
from replayring_server.engine import file_systems, files
from replayring_server.engine.buffer import NOTHING, Buffer, Content
from replayring_server.engine.lock import DirectoryLock
from replayring_server.engine.parameters import FOLDER as PARAMETERS
from replayring_server.engine.parameters import Parameters
from replayring_server.engine.syncer import Syncer

logger = logging.getLogger(__name__)

_NAMES_IN_MESSAGE = 10

# Names of buffers begin with a letter or digit, so these never meet one.
CREATING = ".creating-"
DELETING = ".deleting-"


class Store:
    """An open data directory. Thread-safe. A context manager; `close` releases the directory.

    Attributes:
        data_dir: the directory, absolute.
        parameters: the published parameters.
    """

    def __init__(
        self,
        data_dir: Path | str,
        limits: ServerLimits | None = None,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        """Opens a data directory, creating it if need be.

        A buffer that cannot be opened is logged and left untouched; its name stays taken, and
        asking for it raises what was wrong, until it is deleted. The others are served, and so it
        is with parameters.

        Args:
            data_dir: the directory.
            limits: of the server.
            on_failure: called, from any thread, when the disk fails under a buffer, which then
                takes nothing any more.

        Raises:
            DirectoryLockedError: another server has it.
            StorageError: it cannot be created or used.
        """
        self.limits = limits or ServerLimits()
        self.data_dir = _make_data_dir(Path(data_dir))
        self._on_failure = on_failure
        # Held while the set of buffers changes, which may take as long as reserving a disk's worth
        # of space does. Looking one up takes no lock: the event loop does that.
        self._guard = threading.Lock()
        self._buffers: dict[str, Buffer] = {}
        self._damaged: dict[str, str] = {}  # what is wrong, by name; an error would hold its frame
        with contextlib.ExitStack() as undo:
            self.lock = undo.enter_context(DirectoryLock(self.data_dir))
            if is_snapshot(self.data_dir):
                raise StorageError(
                    f"{self.data_dir} is a snapshot: `replayring restore {self.data_dir} DATA_DIR` "
                    "makes buffers of it in another directory, to be served"
                )
            self._concern = file_systems.concern(self.data_dir)
            if self._concern:
                logger.warning("%s", self._concern)
            self._remove_leftovers()
            limits = self.limits
            self.parameters = Parameters(
                self.data_dir, limits.max_parameter_sets, limits.max_parameters_bytes
            )
            self._syncer = Syncer(lambda: list(self._buffers.values()))
            undo.callback(self._syncer.stop)
            self._open_all()
            undo.pop_all()

    def get(self, name: str) -> Buffer:
        """Returns an open buffer.

        Raises:
            NotFoundError: there is none of that name.
            StorageError: there is, but it could not be opened.
        """
        if (damage := self._damaged.get(name)) is not None:
            raise StorageError(
                f"buffer {name!r} is not served: {damage}. On the server's machine, "
                f"`replayring verify {self.data_dir}` says more; deleting the buffer frees its name"
            )
        try:
            return self._buffers[name]
        except KeyError:
            raise NotFoundError(no_such_buffer(name, self.names())) from None

    def names(self) -> list[str]:
        """Returns the names of all open buffers, sorted."""
        return sorted(self._buffers)

    def buffers(self) -> list[Buffer]:
        """Returns all open buffers, by name. One deleted meanwhile still says what it was."""
        return sorted(self._buffers.values(), key=lambda buffer: buffer.name)

    def warnings(self) -> list[str]:
        """Returns what the owner of the data directory should know, a sentence each."""
        damaged = {"buffers": sorted(self._damaged), "parameters": self.parameters.damaged()}
        found = [self._concern] if self._concern else []
        return found + [
            f"damaged {what}, which are not served: {_some(names)}; `replayring verify "
            f"{self.data_dir}` says more"
            for what, names in damaged.items()
            if names
        ]

    def create(self, name: str, spec: BufferSpec) -> tuple[Buffer, bool]:
        """Returns the buffer of this name and spec, and whether it was made just now.

        Raises:
            AlreadyExistsError: the name is taken by another spec, or by files that are no buffer.
            DiskSpaceError: there is not enough room.
            LimitExceededError: there are too many buffers.
            InvalidRequestError: the name is not valid.
            StorageError: the name is taken by a buffer that cannot be opened.
        """
        check_name(name, "buffer name")
        with self._guard:
            if name in self._buffers or name in self._damaged:
                return _same_spec(self.get(name), spec), False
            check_limit(
                len(self._buffers) + 1,
                self.limits.max_buffers,
                "buffers in one data directory",
                "delete one",
                "max_buffers",
            )
            buffer = self._create(name, spec, NOTHING)
        logger.info("created buffer %r: %d frames, %s", name, spec.capacity, buffer.buffer_id)
        return buffer, True

    def restore(self, name: str, spec: BufferSpec, content: Content) -> Buffer:
        """Makes a buffer that begins with `content`; its owner's deed, so no limit counts.

        Raises:
            AlreadyExistsError: the name is taken.
            DiskSpaceError: there is not enough room.
            InvalidRequestError: the name is not valid.
            StorageError: `content` cannot be read, or made no sound buffer.
        """
        check_name(name, "buffer name")
        with self._guard:
            return self._create(name, spec, content)

    def delete(self, name: str) -> None:
        """Deletes a buffer and its files, also one that cannot be opened.

        Raises:
            NotFoundError: there is none of that name.
            OSError: its folder cannot be renamed, and it is as it was; or the disk failed.
        """
        doomed = self.data_dir / f"{DELETING}{uuid.uuid4().hex}"
        with self._guard:
            buffer = None if name in self._damaged else self.get(name)
            # One rename makes the deletion certain; if it fails, nothing has happened.
            with contextlib.suppress(FileNotFoundError):  # somebody has removed it by hand
                (self.data_dir / name).rename(doomed)
            self._buffers.pop(name, None)
            self._damaged.pop(name, None)
            if buffer:
                buffer.close(sync=False)
            files.sync_folder(self.data_dir)
        files.remove_tree(doomed)
        logger.info("deleted buffer %r", name)

    def close(self) -> None:
        """Writes everything to the disk and releases the directory. May be called again."""
        self._syncer.stop()
        # A buffer whose disk failed must not keep the others from being written.
        with self._guard, contextlib.ExitStack() as closing:
            closing.callback(self.lock.release)
            for buffer in self._buffers.values():
                closing.callback(buffer.close)
            self._buffers.clear()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _create(self, name: str, spec: BufferSpec, content: Content) -> Buffer:
        """Makes a buffer's files aside, gives them their name in one step, and opens it."""
        path = self.data_dir / name
        if os.path.lexists(path):
            raise AlreadyExistsError(
                f"{path} is there already and is no buffer; use another name, or move it away"
            )
        buffer_id = uuid.uuid4().hex
        folder = self.data_dir / f"{CREATING}{buffer_id}"
        try:
            files.check_space(self.data_dir, sum(layout.file_sizes(spec).values()))
            files.make_folder(folder)
            Buffer.create(folder, buffer_id, spec, content)
            folder.rename(path)
            with _undone(path, folder):
                files.sync_folder(self.data_dir)
                buffer = self._buffers[name] = self._buffer(path)
        except BaseException as error:
            files.remove_tree(folder)
            if isinstance(error, DiskSpaceError):
                raise DiskSpaceError(f"no room for buffer {name!r}: {error}") from None
            raise
        return buffer

    def _open_all(self) -> None:
        for folder in buffer_folders(self.data_dir):
            try:
                self._buffers[folder.name] = self._open(folder)
            except Exception as error:  # whatever is wrong with it, the others are served
                text = str(error)  # and no more of it: it holds what was mapped so far
                logger.error("buffer %r cannot be served: %s", folder.name, text)
                if not isinstance(error, OSError):
                    logger.exception("this is a defect of replayring")
                self._damaged[folder.name] = text

    def _open(self, folder: Path) -> Buffer:
        if folder.is_symlink():
            raise StorageError(f"{folder} is a symbolic link; refused")
        buffer = self._buffer(folder)
        live = buffer.reader.live
        logger.info("opened buffer %r: %d of %d frames", folder.name, len(live), live.capacity)
        if buffer.restored:
            logger.warning(
                "buffer %r was restored as of its last sync: the machine has restarted since, "
                "or the disk failed",
                folder.name,
            )
        return buffer

    def _buffer(self, folder: Path) -> Buffer:
        return Buffer(folder, folder.name, self._on_failure, self._syncer.renew)

    def _remove_leftovers(self) -> None:
        """Removes what a death in the middle of creating or deleting a buffer left behind."""
        for folder in leftovers(self.data_dir):
            logger.warning("removing %s, left by a server that died", folder.name)
            files.remove_tree(folder)


def buffer_folders(data_dir: Path) -> list[Path]:
    """Returns what lies in a data directory as a buffer, damaged or not, sorted.

    That is what has a valid name and any of a buffer's files, or cannot be looked into.
    """
    return sorted(path for path in data_dir.iterdir() if is_name(path.name) and _is_buffer(path))


def is_data_dir(folder: Path) -> bool:
    """Returns whether a server has served a folder."""
    return os.path.lexists(folder / PARAMETERS) or bool(buffer_folders(folder))


def is_snapshot(folder: Path) -> bool:
    """Returns whether a folder is a snapshot, and no data directory."""
    return os.path.lexists(folder / layout.MANIFEST) and not is_data_dir(folder)


def leftovers(data_dir: Path) -> list[Path]:
    """Returns what a death in the middle of creating or deleting a buffer left behind."""
    return [path for prefix in (CREATING, DELETING) for path in sorted(data_dir.glob(f"{prefix}*"))]


def _make_data_dir(data_dir: Path) -> Path:
    """Creates a data directory if need be, and returns its absolute path."""
    try:
        data_dir.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            files.make_folder(data_dir)
        # It may be a symbolic link, as only its owner can have made it. Nothing below it may.
        resolved = data_dir.resolve()
        os.listdir(resolved)
    except OSError as error:
        raise StorageError(f"cannot use {data_dir} as data directory: {error}") from None
    if (resolved / layout.META).is_file():  # a folder is a buffer that is called so
        raise StorageError(
            f"{resolved} is one buffer; name the data directory, which is {resolved.parent}"
        )
    return resolved


@contextlib.contextmanager
def _undone(renamed: Path, before: Path) -> Iterator[None]:
    """Takes back that a folder was renamed, if what comes then fails."""
    try:
        yield
    except BaseException:
        renamed.rename(before)
        raise


def _is_buffer(path: Path) -> bool:
    try:
        found = os.listdir(path)
    except (NotADirectoryError, FileNotFoundError):
        return False
    except OSError:
        return True
    return not {layout.META, layout.CURSOR, layout.COLUMNS}.isdisjoint(found)


def no_such_buffer(name: str, known: list[str]) -> str:
    """Returns the message about a name that no buffer has; short, however many there are."""
    name = name[: MAX_NAME + 20]  # it may be as long as a message, and comparing takes time
    near = difflib.get_close_matches(name, known, 1)
    if near:
        return f"there is no buffer {name!r}; did you mean {near[0]!r}?"
    return f"there is no buffer {name!r}; there are {_some(known) or 'none yet'}"


def _some(names: list[str]) -> str:
    """Returns names for a message; short, however many there are."""
    some = ", ".join(names[:_NAMES_IN_MESSAGE])
    more = len(names) - _NAMES_IN_MESSAGE
    return f"{some} and {more:,} more" if more > 0 else some


def _same_spec(buffer: Buffer, spec: BufferSpec) -> Buffer:
    if buffer.spec != spec:
        raise AlreadyExistsError(
            f"buffer {buffer.name!r} exists with another spec; use another name, or delete it "
            f"first: it has {buffer.spec.differences(spec, 'asked for')}"
        )
    return buffer
