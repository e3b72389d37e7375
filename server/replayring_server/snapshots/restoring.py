"""Making buffers of a snapshot, in a data directory that no server has."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt

from replayring_proto import layout
from replayring_proto.errors import (
    AlreadyExistsError,
    InvalidRequestError,
    NotFoundError,
    StorageError,
)
from replayring_proto.spec import check_name
from replayring_server.engine import Buffer, Store, files, parameter_files, parameters
from replayring_server.engine.buffer import Content
from replayring_server.engine.store import no_such_buffer
from replayring_server.snapshots.filling import fill, read_checked
from replayring_server.snapshots.manifest import BufferEntry, Manifest, ParametersEntry
from replayring_server.snapshots.parts import checksum_of
from replayring_server.snapshots.places import Place, place_to_read
from replayring_server.snapshots.progress import Progress
from replayring_server.snapshots.taking import read_manifest

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class RestoredBuffer:
    """One buffer made of a snapshot.

    Attributes:
        name: what it is called now.
        buffer_id: its own identity.
        oldest_index: `index` of its oldest frame.
        next_index: `index` that the next frame gets.
        next_episode_index: number that the next episode gets.
        already: whether it was made of this very snapshot before, and left as it is now.
    """

    name: str
    buffer_id: str
    oldest_index: int
    next_index: int
    next_episode_index: int
    already: bool = False


@dataclass
class Restored:
    """What was made of a snapshot.

    Attributes:
        source: where that is.
        data_dir: the data directory.
        buffers: the buffers.
        parameters: the version of each name.
    """

    source: str
    data_dir: str
    buffers: list[RestoredBuffer] = field(default_factory=list)
    parameters: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Returns all of it as JSON's kinds of values."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """Yields it as text."""
        for one in self.buffers:
            frames = one.next_index - one.oldest_index
            yield (
                f"buffer {one.name}: was restored before, and is left as it is"
                if one.already
                else f"buffer {one.name}: {frames:,} frames before index {one.next_index:,}, id "
                f"{one.buffer_id}"
            )
        for name, version in self.parameters.items():
            yield f"parameters {name}: version {version:,}"


def restore(
    source: str,
    data_dir: Path | str,
    *,
    buffers: Sequence[str] | None = None,
    name: str | None = None,
    progress: Progress | None = None,
) -> Restored:
    """Makes buffers as they were when a snapshot was taken, and checks every byte of it.

    If it is interrupted at any moment, doing it again finishes it: buffers that are whole stay, and
    of others there is nothing but what the next opening removes.

    Args:
        source: the snapshot: a folder, or a URL for fsspec.
        data_dir: the data directory, which is made if need be.
        buffers: which ones; None for all, and the published parameters.
        name: what to call the buffer, if it is one.
        progress: told of each part.

    Raises:
        NotFoundError: there is no such snapshot or buffer.
        InvalidRequestError: the name is not valid, or does not say which of several buffers.
        AlreadyExistsError: the data directory has a buffer or parameters of that name; nothing was
            restored.
        DirectoryLockedError: a server has the data directory.
        DiskSpaceError: there is not enough room.
        StorageError: the snapshot is damaged; what is damaged was not restored. Or a buffer that
            was restored before is damaged by now; nothing was restored.
    """
    place = place_to_read(source)
    manifest = read_manifest(place)
    if manifest is None:
        raise NotFoundError(f"there is no snapshot in {place}: it has no manifest.json")
    entries = _chosen(manifest, buffers, name)
    sets = manifest.parameters if buffers is None and name is None else {}
    _check_files(place, Manifest(entries, sets))
    with Store(data_dir) as store:
        restoring = _Restoring(place, store, progress or Progress())
        restoring.check_free(entries, sets)
        return restoring.run(entries, sets)


def _chosen(
    manifest: Manifest, buffers: Sequence[str] | None, name: str | None
) -> dict[str, BufferEntry]:
    """Returns the entries to restore, by the name that they shall have."""
    known = sorted(manifest.buffers)
    for one in buffers or ():
        if one not in known:
            raise NotFoundError(f"in the snapshot {no_such_buffer(one, known)}")
    entries = {one: manifest.buffers[one] for one in (known if buffers is None else buffers)}
    if name is None:
        return entries
    check_name(name, "buffer name")
    if len(entries) != 1:
        raise InvalidRequestError(
            f"--name is for one buffer, these are {len(entries)}; choose it with --buffer"
        )
    (entry,) = entries.values()
    return {name: entry}


def _check_files(place: Place, manifest: Manifest) -> None:
    """Checks that all files are there and have their sizes, before any is read."""
    sizes: dict[str, dict[str, int]] = {}
    for path, size in manifest.files():
        folder, _, name = path.rpartition("/")
        if folder not in sizes:
            sizes[folder] = place.sizes(folder)
        found = sizes[folder].get(name)
        if found != size:
            what = "is missing" if found is None else f"has {found:,} bytes"
            raise StorageError(
                f"the snapshot is damaged: {place}/{path} {what}, it should have {size:,}; take "
                "it anew, or use another one"
            )


class _Restoring:
    """One restoration into one open data directory."""

    def __init__(self, place: Place, store: Store, progress: Progress) -> None:
        self._place = place
        self._store = store
        self._progress = progress
        self._already: set[str] = set()

    def check_free(
        self, entries: Mapping[str, BufferEntry], sets: Mapping[str, ParametersEntry]
    ) -> None:
        """Checks that no name is taken, unless by what was restored before and is sound."""
        for name, entry in entries.items():
            folder = self._store.data_dir / name
            if not os.path.lexists(folder):
                continue
            if _origin(folder / layout.META) != entry.identity:
                raise AlreadyExistsError(
                    f"{folder} exists and is not overwritten; use another name (--name), or delete "
                    "it first"
                )
            self._store.get(name)  # raises what is wrong with it
            self._already.add(name)
        for name, one in sets.items():
            path = self._store.data_dir / parameters.FOLDER / name
            if os.path.lexists(path) and not _is_copy(path, one):
                raise AlreadyExistsError(
                    f"{path} exists and is not overwritten; move it away, or restore buffers alone "
                    "with --buffer"
                )

    def run(
        self, entries: Mapping[str, BufferEntry], sets: Mapping[str, ParametersEntry]
    ) -> Restored:
        """Restores what is not there."""
        done = Restored(str(self._place), str(self._store.data_dir))
        for name, entry in entries.items():
            already = name in self._already
            info = (self._store.get(name) if already else self._restore_buffer(name, entry)).info()
            where = (info.oldest_index, info.next_index, info.next_episode_index)
            done.buffers.append(RestoredBuffer(name, info.buffer_id, *where, already))
        for name, one in sets.items():
            if not (self._store.data_dir / parameters.FOLDER / name).exists():
                content = read_checked(self._place, one.path(name), one.checksum)
                self._store.parameters.restore(name, content.tobytes())
            done.parameters[name] = one.version
        return done

    def _restore_buffer(self, name: str, entry: BufferEntry) -> Buffer:
        self._progress.begin(f"buffer {name}", len(entry.parts), entry.nbytes)
        content = Content(partial(fill, self._place, entry, self._progress), entry.identity)
        return self._store.restore(name, entry.spec, content)


def _is_copy(path: Path, one: ParametersEntry) -> bool:
    """Whether a file of parameters is what the snapshot has."""
    try:
        return checksum_of(parameter_files.content_of(path)) == one.checksum
    except StorageError:
        return False


def _origin(meta: Path) -> str | None:
    """Returns what snapshot a buffer was made of, if it was made of one."""
    try:
        return layout.restored_from(files.read_whole(meta), str(meta))
    except StorageError:
        return None
