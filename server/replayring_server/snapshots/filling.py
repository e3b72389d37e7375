"""Filling a new buffer with a snapshot's frames and records, each file checked as it is read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from replayring_proto import layout
from replayring_proto.errors import StorageError
from replayring_proto.spec import INDEX
from replayring_server.engine import files
from replayring_server.engine.cursor import Checkpoint
from replayring_server.snapshots.manifest import BufferEntry
from replayring_server.snapshots.parts import Part, checksum_of, part_layout
from replayring_server.snapshots.places import Bytes, Place
from replayring_server.snapshots.progress import Progress

Array = npt.NDArray[Any]


def fill(place: Place, entry: BufferEntry, progress: Progress, folder: Path) -> Checkpoint:
    """Writes a snapshot's frames and records to a new buffer's files; see `engine.buffer.Content`.

    Raises:
        StorageError: the snapshot is damaged.
    """
    with _Frames(folder, entry) as frames:
        for part, arrays in _read_ahead(place, entry):
            frames.write(max(part.first, entry.oldest), arrays)
            progress.advance(part.nbytes(entry.spec))
    _fill_records(place, entry, folder)
    return Checkpoint(0, entry.head, entry.oldest, entry.episodes, entry.head)


def _read_ahead(place: Place, entry: BufferEntry) -> Iterator[tuple[Part, dict[str, Array]]]:
    """Yields the parts and their columns; while one is written, the next is read and checked."""
    coming: tuple[Part, Future[dict[str, Array]]] | None = None
    with ThreadPoolExecutor(1, "replayring-restore") as reader:
        for part in entry.parts:
            current, coming = coming, (part, reader.submit(_read_part, place, entry, part))
            if current:
                yield current[0], current[1].result()
        if coming:
            yield coming[0], coming[1].result()


def _read_part(place: Place, entry: BufferEntry, part: Part) -> dict[str, Array]:
    """Returns a part's columns, from the snapshot's oldest frame on."""
    body = read_checked(place, f"{entry.folder}/{part.name}", part.checksum)
    arrays = part_layout(entry.spec, part.end - part.first).views(body)
    if not np.array_equal(arrays[INDEX], np.arange(part.first, part.end)):
        raise StorageError(f"{place}/{entry.folder}/{part.name} holds other frames than it says")
    dead = max(entry.oldest - part.first, 0)
    return {name: array[dead:] for name, array in arrays.items()}


def _fill_records(place: Place, entry: BufferEntry, folder: Path) -> None:
    records = entry.records
    content = read_checked(place, f"{entry.folder}/{records.name}", records.checksum)
    found = content.view(layout.EPISODE_RECORD)
    log, writers = found[: records.log], found[records.log :]
    with _records_in(folder / layout.EPISODES) as places:
        places[log["episode_index"] % len(places)] = log
    with _records_in(folder / layout.WRITERS) as table:
        # Those that have been quiet for the most episodes come first, and are forgotten.
        kept = writers[-len(table) :]
        table[: len(kept)] = kept


@contextmanager
def _records_in(path: Path) -> Iterator[Array]:
    """Gives a file's records to be filled, and syncs it."""
    mapped = files.map_file(path, writable=True)
    yield mapped.view(layout.EPISODE_RECORD)
    files.sync_mapped(mapped, path)


class _Frames:
    """A new buffer's files of frames, written through `pwrite`. A context manager, which syncs."""

    def __init__(self, folder: Path, entry: BufferEntry) -> None:
        self._rows = layout.physical_rows(entry.spec.capacity)
        self._folder = folder
        self._files = layout.frame_files(entry.spec)

    def write(self, first: int, arrays: Mapping[str, Array]) -> None:
        """Writes frames to their rows, from the one of the frame `first` on."""
        row = first % self._rows
        for file, fd in zip(self._files, self._fds, strict=True):
            content = _records(file, arrays)
            until_end = (self._rows - row) * file.record_bytes
            _write_at(fd, row * file.record_bytes, content[:until_end])
            _write_at(fd, 0, content[until_end:])

    def __enter__(self) -> _Frames:
        with ExitStack() as opening:
            self._fds: list[int] = []
            for file in self._files:
                self._fds.append(files.open_file(self._folder / file.name, os.O_RDWR))
                opening.callback(os.close, self._fds[-1])
            self._closing = opening.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._closing:
            for fd in self._fds if kind is None else ():
                os.fsync(fd)


def _records(file: layout.FrameFile, arrays: Mapping[str, Array]) -> memoryview:
    """Returns some frames as a file has them."""
    first, *others = (arrays[key] for key in file.columns)
    if not others:
        return first.reshape(-1).view(np.uint8).data
    content = np.zeros(len(first) * file.record_bytes, np.uint8)
    for key in file.columns:
        file.view(content, key)[...] = arrays[key]
    return content.data


def _write_at(fd: int, offset: int, content: memoryview) -> None:
    while content:
        count = os.pwrite(fd, content, offset)
        content, offset = content[count:], offset + count


def read_checked(place: Place, path: str, checksum: str) -> Bytes:
    """Returns a file's content, which is what was written.

    Raises:
        StorageError: it is not.
    """
    content = place.read(path)
    if content is None or checksum_of(content.data) != checksum:
        raise StorageError(
            f"the snapshot is damaged: {place}/{path} is not what was written: its checksum does "
            "not match. Remove the file and take the snapshot anew, or use another one"
        )
    return content
