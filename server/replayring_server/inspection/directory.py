"""Checking a whole data directory, while no server has it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from replayring_proto.errors import DirectoryLockedError, NotFoundError, StorageError
from replayring_proto.layout import LOCK, META
from replayring_proto.spec import is_name
from replayring_server.engine import parameters, store
from replayring_server.engine.lock import holder_of
from replayring_server.engine.parameter_files import outline
from replayring_server.inspection.buffers import BufferCheck
from replayring_server.inspection.report import Finding, Report

_IGNORED = "the server ignores it"


def verify(data_dir: Path | str, *, contents: bool = True) -> Report:
    """Checks a data directory, changing nothing.

    Args:
        data_dir: the directory.
        contents: whether to read all live frames' values too, which takes as long as reading them
            from the disk does. Without, columns of the buffer's own are checked for size only.

    Raises:
        NotFoundError: it is no data directory.
        DirectoryLockedError: a server has it, or had it meanwhile.
        OSError: it cannot be listed.
    """
    folder = Path(data_dir).resolve()
    check_data_dir(folder)
    before = _refuse_beside_server(folder)
    report = Report(str(folder))
    _check_all(folder, report, contents)
    if _refuse_beside_server(folder) != before:
        raise DirectoryLockedError(
            f"a server had {folder} while it was checked, so what was found means nothing; run it "
            "again while no server runs"
        )
    return report


def check_data_dir(folder: Path) -> None:
    """Checks that a folder is a server's data directory.

    Raises:
        NotFoundError: it is not; the message says what it is instead.
    """
    if not folder.is_dir():
        raise NotFoundError(f"there is no directory {folder}")
    if (folder / META).is_file():  # a folder is a buffer that is called so
        raise NotFoundError(
            f"{folder} is one buffer; name the data directory, which is {folder.parent}"
        )
    if store.is_snapshot(folder):
        raise NotFoundError(
            f"{folder} is a snapshot: `replayring restore {folder} DATA_DIR` makes buffers of it, "
            "and compares every byte with its hash"
        )
    if not os.path.lexists(folder / LOCK) and not store.buffer_folders(folder):
        raise NotFoundError(
            f"{folder} is no data directory of a server: there is neither a lock nor a buffer"
        )


def _refuse_beside_server(folder: Path) -> int:
    """Refuses to look on while a server writes; returns when the lock was last described."""
    try:
        holder = holder_of(folder)
    except StorageError:
        return 0  # said by `_check_lock`
    if holder:
        raise DirectoryLockedError(
            f"{folder} is served by another process ({holder}), which is not disturbed: stop it, "
            "then verify. `replayring info` works beside it"
        )
    lock = folder / LOCK
    return lock.stat().st_mtime_ns if lock.exists() else 0


def _check_all(folder: Path, report: Report, contents: bool) -> None:
    report.add(_check_lock(folder))
    ids: dict[str, str] = {}
    for path in store.buffer_folders(folder):
        buffer_id = BufferCheck(path, report, contents=contents).run()
        if buffer_id:
            report.add(_check_identity(path.name, ids.setdefault(buffer_id, path.name)))
    report.add(_check_parameters(folder, report))
    report.add(_check_strangers(folder))


def _check_lock(folder: Path) -> Iterator[Finding]:
    try:
        holder_of(folder)
    except StorageError as error:
        yield Finding(LOCK, str(error), "no server starts on this directory", "remove it")


def _check_identity(name: str, first: str) -> Iterator[Finding]:
    if name != first:
        yield Finding(
            name,
            f"has the same id as {first}: it is a copy",
            "both are served, each for itself",
            f"none is needed; delete the one that is not wanted, {name} or {first}",
            harmless=True,
        )


def _check_parameters(folder: Path, report: Report) -> Iterator[Finding]:
    try:
        paths = parameters.files_of(folder)
    except StorageError as error:
        yield Finding(
            parameters.FOLDER, str(error), "no server starts on this directory", "move it away"
        )
        return
    for path in paths:
        try:
            found = outline(path)
        except StorageError as error:
            yield Finding(
                f"{parameters.FOLDER}/{path.name}",
                str(error),
                "they are not served, nor published anew; everything else is",
                "restore the file from a copy, or remove it and publish the parameters again",
            )
        else:
            report.checked.append(f"parameters {path.name}: version {found.version:,}")
    yield from _check_strange_parameters(folder / parameters.FOLDER)


def _check_strange_parameters(folder: Path) -> Iterator[Finding]:
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not is_name(path.name):
            half = parameters.is_half(path)
            yield Finding(
                f"{parameters.FOLDER}/{path.name}",
                "was being written when the server died" if half else "is none of the parameters",
                "it was not acknowledged; the version before counts. The next start removes it"
                if half
                else _IGNORED,
                "none is needed" if half else "move it away if it is of use elsewhere",
                harmless=True,
            )


def _check_strangers(folder: Path) -> Iterator[Finding]:
    """Yields what lies in the directory and is no buffer."""
    known = {LOCK, parameters.FOLDER, "lost+found"}
    known |= {path.name for path in store.buffer_folders(folder)}
    leftovers = {path.name for path in store.leftovers(folder)}
    for path in sorted(folder.iterdir()):
        if path.name in leftovers:
            yield Finding(
                path.name,
                "was being created or deleted when the server died",
                "nothing is lost: a creation was not acknowledged, a deletion was. The next start "
                "removes it",
                "none is needed",
                harmless=True,
            )
        elif path.name not in known:
            yield _stranger(path)


def _stranger(path: Path) -> Finding:
    if os.path.lexists(path / META):
        return Finding(
            path.name,
            "holds a buffer, but its name cannot be a buffer's",
            _IGNORED,
            "rename it to 1 to 64 characters from [A-Za-z0-9._-], beginning with a letter or digit",
        )
    return Finding(
        path.name,
        "is neither a buffer nor anything else of the server's",
        _IGNORED + ("; no buffer of that name can be created" if is_name(path.name) else ""),
        "move it away if it is of use elsewhere",
        harmless=True,
    )
