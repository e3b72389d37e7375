"""Taking a snapshot of a data directory: buffer after buffer, parameters, and the manifest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from replayring_proto.errors import (
    NotFoundError,
    OvertakenError,
    ReplayRingError,
    StorageError,
)
from replayring_proto.layout import MANIFEST
from replayring_server.engine import parameter_files, parameters, store
from replayring_server.inspection.directory import check_data_dir
from replayring_server.snapshots import manifest as manifests
from replayring_server.snapshots.copying import copy_buffer
from replayring_server.snapshots.manifest import Manifest, ParametersEntry
from replayring_server.snapshots.parts import checksum_of
from replayring_server.snapshots.places import Place, place_to_write
from replayring_server.snapshots.progress import Progress
from replayring_server.snapshots.source import Source


@dataclass(frozen=True)
class TakenBuffer:
    """One buffer in a snapshot.

    Attributes:
        name: the buffer's name.
        buffer_id: its identity.
        oldest_index: `index` of the oldest frame that was taken.
        next_index: `index` after the newest one.
        overwritten: frames that lived when it began, and were overwritten before they were copied.
        parts: files that hold the frames, and of these
        copied_parts: those that were not there before.
        bytes: size of all its files, and of these
        copied_bytes: what was not there before.
    """

    name: str
    buffer_id: str
    oldest_index: int
    next_index: int
    overwritten: int
    parts: int
    copied_parts: int
    bytes: int
    copied_bytes: int


@dataclass
class Taken:
    """What became of a snapshot.

    Attributes:
        destination: where it is.
        buffers: what was taken.
        parameters: the version that was taken of each name.
        gone: names that the data directory has no more; what the destination had of them stays.
        failed: why others could not be taken, by what they are.
        pruned: files removed.
        unpruned: why others that are not needed could not be removed, if they could not.
    """

    destination: str
    buffers: list[TakenBuffer] = field(default_factory=list)
    parameters: dict[str, int] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    pruned: int = 0
    unpruned: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Returns all of it as JSON's kinds of values."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """Yields it as text."""
        for one in self.buffers:
            frames = one.next_index - one.oldest_index
            yield (
                f"buffer {one.name}: {frames:,} frames before index {one.next_index:,}, "
                f"{one.bytes:,} bytes in {one.parts:,} parts; copied {one.copied_bytes:,} bytes, "
                f"{one.copied_parts:,} parts"
            )
            if one.overwritten:
                yield (
                    f"  its oldest {one.overwritten:,} frames were overwritten before they could "
                    "be copied"
                )
        for name, version in self.parameters.items():
            yield f"parameters {name}: version {version:,}"
        for what in self.gone:
            yield f"{what} is gone; its last snapshot stays. --replace lets go of it"
        for what, why in self.failed.items():
            yield f"{what} was NOT taken, its last snapshot stays: {why}"
        if self.pruned:
            yield f"removed {self.pruned:,} files that the snapshot does not need"
        if self.unpruned:
            yield f"files that the snapshot does not need could not be removed: {self.unpruned}"


def snapshot(
    data_dir: Path | str,
    destination: str,
    *,
    buffers: Sequence[str] | None = None,
    prune: bool = False,
    replace: bool = False,
    progress: Progress | None = None,
) -> Taken:
    """Copies buffers as they are now, beside a server or without one, and changes nothing of them.

    Args:
        data_dir: the server's data directory.
        destination: a folder, which is made if need be, or a URL for fsspec.
        buffers: which ones; None for all, and the published parameters.
        prune: whether to remove files at the destination that the snapshot does not need.
        replace: whether the destination may lose what it has of other buffers of these names, of
            buffers that are gone, or of newer parameters, or have an unreadable manifest.
        progress: told of each part.

    Raises:
        NotFoundError: there is no such data directory or buffer.
        InvalidRequestError: the destination is of no kind that can be used.
        DirectoryLockedError: another snapshot goes there.
        DiskSpaceError: the destination is full.
        StorageError: the destination cannot be used, or its manifest is damaged.
    """
    folder = Path(data_dir).resolve()
    check_data_dir(folder)
    with place_to_write(destination, outside=folder) as place:
        return _Taking(folder, place, replace, progress or Progress()).run(buffers, prune)


class _Taking:
    """One snapshot of one data directory.

    What it knows of the manifest is always what lies at the destination.
    """

    def __init__(self, folder: Path, place: Place, replace: bool, progress: Progress) -> None:
        self._folder = folder
        self._place = place
        self._replace = replace
        self._progress = progress
        self._taken = Taken(str(place))
        self._written = False
        self._manifest = self._before()

    def run(self, buffers: Sequence[str] | None, prune: bool) -> Taken:
        """Takes it."""
        found = [path.name for path in store.buffer_folders(self._folder)]
        for name in buffers or ():
            if name not in found:
                raise NotFoundError(store.no_such_buffer(name, found))
        for name in found if buffers is None else dict.fromkeys(buffers):
            self._attempt(f"buffer {name}", self._take_buffer, name)
        if buffers is None:
            paths = parameters.files_of(self._folder)
            for path in paths:
                self._attempt(f"parameters {path.name}", self._take_parameters, path)
            self._let_go(found, [path.name for path in paths])
        self._write()
        if prune:
            try:
                self._prune()
            except StorageError as error:  # it is taken all the same
                self._taken.unpruned = str(error)
        return self._taken

    def _before(self) -> Manifest:
        try:
            found = read_manifest(self._place)
            self._written = found is not None
            return found or Manifest()
        except StorageError as error:
            if self._replace:
                return Manifest()
            raise StorageError(f"{error}; or begin anew here with --replace") from None

    def _attempt(self, what: str, take: Any, which: Any) -> None:
        """Takes one thing; what keeps it from being taken keeps no other from it."""
        try:
            take(which)
        except (StorageError, OvertakenError, _Refused) as error:
            self._taken.failed[what] = str(error)

    def _take_buffer(self, name: str) -> None:
        with Source(self._folder / name) as source:
            before = self._manifest.buffers.get(name)
            if before and before.buffer_id != source.buffer_id:
                self._refuse("the destination has another buffer of that name")
                before = None
            copied = copy_buffer(source, self._place, name, self._progress)
        entry = copied.entry
        if before and before.head > entry.head:
            self._refuse(
                f"the destination has {before.head - entry.head:,} newer frames of it, which a "
                "power loss took from it, or someone who put older files back"
            )
        self._write(buffers={**self._manifest.buffers, name: entry})
        self._taken.buffers.append(
            TakenBuffer(
                *(name, entry.buffer_id, entry.oldest, entry.head, copied.overwritten),
                *(len(entry.parts), copied.copied_parts, entry.nbytes, copied.copied_bytes),
            )
        )

    def _take_parameters(self, path: Path) -> None:
        content = parameter_files.content_of(path)
        version = parameter_files.decode(path.name, content, str(path)).version
        entry = ParametersEntry(version, len(content), checksum_of(content))
        before = self._manifest.parameters.get(path.name)
        if before and before.version > version:
            self._refuse(f"the destination has version {before.version}, this is {version}")
        folder, _, file = entry.path(path.name).rpartition("/")
        if self._place.sizes(folder).get(file) != len(content):
            self._place.write(f"{folder}/{file}", content)
        self._write(parameters={**self._manifest.parameters, path.name: entry})
        self._taken.parameters[path.name] = version

    def _let_go(self, buffers: Sequence[str], sets: Sequence[str]) -> None:
        """Decides about what the data directory does not have any more."""
        gone = [name for name in self._manifest.buffers if name not in buffers]
        gone_sets = [name for name in self._manifest.parameters if name not in sets]
        if self._replace and (gone or gone_sets):
            kept = {n: e for n, e in self._manifest.buffers.items() if n not in gone}
            kept_sets = {n: e for n, e in self._manifest.parameters.items() if n not in gone_sets}
            self._write(buffers=kept, parameters=kept_sets)
        elif gone or gone_sets:
            self._taken.gone += [f"buffer {name}" for name in gone]
            self._taken.gone += [f"parameters {name}" for name in gone_sets]

    def _refuse(self, why: str) -> None:
        if not self._replace:
            raise _Refused(f"{why}; use another destination, or --replace")

    def _write(self, **changes: Any) -> None:
        changed = replace(self._manifest, **changes)
        if changed != self._manifest or not self._written:
            self._place.write(MANIFEST, changed.encode())
            self._manifest, self._written = changed, True

    def _prune(self) -> None:
        """Removes a snapshot's files that the manifest does not need, and nobody else's."""
        needed = {name for name, _ in self._manifest.files()}
        folders = [manifests.PARAMETERS]
        folders += [
            f"{manifests.BUFFERS}/{name}" for name in self._place.folders(manifests.BUFFERS)
        ]
        for folder in folders:
            for name in self._place.sizes(folder):
                if manifests.is_file_of(folder, name) and f"{folder}/{name}" not in needed:
                    self._place.remove(f"{folder}/{name}")
                    self._taken.pruned += 1


class _Refused(ReplayRingError):
    """Something would be lost at the destination."""


def read_manifest(place: Place) -> Manifest | None:
    """Returns the manifest of a snapshot, or None where there is none.

    Raises:
        StorageError: it is damaged.
    """
    content = place.read(MANIFEST)
    where = f"{place}/{MANIFEST}"
    return None if content is None else Manifest.decode(content.tobytes(), where)
