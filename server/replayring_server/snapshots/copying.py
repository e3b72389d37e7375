"""Copying one buffer: its cut becomes files at the destination, and an entry of the manifest.

The order of copying. Writers overwrite the oldest frames first, so these are copied first: who
copies faster than writers write loses nothing. Once frames are lost all the same, what lies before
them is useless, as a snapshot has no gaps; and to go on from there would mean to be overtaken again
and again. So the rest is copied from the newest backwards, each part of it for good, until the
place is reached up to which everything was overwritten.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from replayring_proto.errors import OvertakenError
from replayring_proto.pack import Pack, aligned_empty
from replayring_server.snapshots.manifest import BUFFERS, BufferEntry, RecordsFile
from replayring_server.snapshots.parts import (
    Part,
    checksum_of,
    frames_per_part,
    part_layout,
    ranges,
    tail_frames,
    tail_of,
)
from replayring_server.snapshots.places import Place
from replayring_server.snapshots.progress import Progress
from replayring_server.snapshots.source import Array, Cut, Source

_ATTEMPTS = 100


@dataclass(frozen=True)
class Copied:
    """One buffer's cut and what it took to copy it.

    Attributes:
        entry: the cut, for the manifest.
        overwritten: frames of the cut that writers overwrote before they could be copied.
        copied_parts: parts written; the others were there already.
        copied_bytes: bytes written.
    """

    entry: BufferEntry
    overwritten: int
    copied_parts: int
    copied_bytes: int


def copy_buffer(source: Source, place: Place, name: str, progress: Progress) -> Copied:
    """Copies a buffer as it is now; what the destination has of it already is used again.

    Args:
        source: the buffer.
        place: the destination.
        name: what it is called.
        progress: told of each part.

    Raises:
        OvertakenError: writers overwrote everything before it could be copied.
        DiskSpaceError: the destination is full.
        StorageError: the buffer cannot be read, or the destination not be written.
    """
    folder = f"{BUFFERS}/{source.buffer_id}"
    sizes = place.sizes(folder)
    for attempt in range(_ATTEMPTS):
        writing = _Writing(place, folder, sizes)
        there = _whole_parts(source, sizes)
        # From here on it is a race: a small ring turns in milliseconds.
        cut = source.cut()
        copier = _FrameCopier(source, cut, there, writing, progress)
        wanted = list(ranges(source.spec, cut.live.start, cut.live.end))
        progress.begin(f"buffer {name}", len(wanted), _nbytes(source, wanted))
        copier.keep(wanted)
        parts = copier.backwards(wanted) if attempt else copier.copy(wanted)
        if parts or not wanted:
            records = _write_records(cut, writing)
            oldest = max(parts[0].first, cut.live.start) if parts else cut.live.start
            entry = BufferEntry(
                *(source.buffer_id, source.spec, oldest, cut.live.end, cut.episodes),
                *(tuple(parts), records),
            )
            overwritten = oldest - cut.live.start
            return Copied(entry, overwritten, writing.parts, writing.nbytes)
    raise OvertakenError(
        f"writers overwrote all of buffer {name!r} before any of it could be copied, "
        f"{_ATTEMPTS} times; use a faster destination, or a larger buffer"
    )


def _nbytes(source: Source, wanted: list[tuple[int, int]]) -> int:
    """Returns the bytes of the parts for these ranges, nearly all of which have one length."""
    lengths = Counter(end - first for first, end in wanted)
    return sum(count * part_layout(source.spec, frames).nbytes for frames, count in lengths.items())


def _whole_parts(source: Source, sizes: dict[str, int]) -> dict[int, list[Part]]:
    """Returns the parts that are there and have their size, by where they end."""
    found: dict[int, list[Part]] = {}
    for name, size in sizes.items():
        part = Part.parse(name)
        if part and size == part.nbytes(source.spec):
            found.setdefault(part.end, []).append(part)
    return found


def _write_records(cut: Cut, writing: _Writing) -> RecordsFile:
    log, writers = cut.records()
    content = np.concatenate([log, writers]).view(np.uint8)
    file = RecordsFile(len(log), len(writers), checksum_of(content.data))
    writing.write(file.name, content.data)
    return file


class _Writing:
    """Writes files of one buffer that are not there yet, and counts them."""

    def __init__(self, place: Place, folder: str, sizes: dict[str, int]) -> None:
        self.parts = 0
        self.nbytes = 0
        self._place = place
        self._folder = folder
        self._sizes = sizes

    def write(self, name: str, content: memoryview) -> None:
        if self._sizes.get(name) != len(content):
            self._place.write(f"{self._folder}/{name}", content)
            self._sizes[name] = len(content)
            self.nbytes += len(content)


class _FrameCopier:
    """Copies the frames of one cut."""

    def __init__(
        self,
        source: Source,
        cut: Cut,
        there: dict[int, list[Part]],
        writing: _Writing,
        progress: Progress,
    ) -> None:
        self._source = source
        self._spec = source.spec
        self._cut = cut
        self._there = there
        self._kept: dict[int, Part] = {}
        self._writing = writing
        self._progress = progress
        frames = min(frames_per_part(self._spec), max(len(cut.live), 1))
        self._body = aligned_empty(part_layout(self._spec, frames).nbytes)

    def keep(self, wanted: list[tuple[int, int]]) -> None:
        """Finds the parts for these ranges that are there, while the frames are there as well."""
        for first, end in wanted:
            fitting = (one for one in self._there.get(end, ()) if self._fits(one, first))
            if part := next(fitting, None):
                self._kept[end] = part

    def copy(self, wanted: list[tuple[int, int]]) -> list[Part]:
        """Returns the parts for these ranges, or for the newest of them, without gaps."""
        parts: list[Part] = []
        for at, (first, end) in enumerate(wanted):
            part = self._part(first, end)
            if part is None or part.first > first:
                newest = self.backwards(wanted[at + 1 :])
                reached = newest[0].first if newest else wanted[-1][1]
                return [part, *newest] if part and part.end == reached else newest
            parts.append(part)
        return parts

    def backwards(self, wanted: list[tuple[int, int]]) -> list[Part]:
        """Returns the parts for the newest of these ranges, without gaps, the newest copied first.

        It is all that is tried of a ring that has been overwritten as a whole before.
        """
        parts: list[Part] = []
        for first, end in reversed(wanted):
            part = self._part(first, end)
            if part:
                parts.append(part)
            if part is None or part.first > first:
                break
        return parts[::-1]

    def _part(self, first: int, end: int) -> Part | None:
        """Returns the part of these frames, or of the newest of them that are whole, if any."""
        part = self._kept.get(end) or self._copy(first, end)
        if part:
            self._kept[end] = part
            self._progress.advance(part.nbytes(self._spec))
        return part

    def _copy(self, first: int, end: int) -> Part | None:
        layout = part_layout(self._spec, end - first)
        body = self._body[: layout.nbytes]
        layout.clear_gaps(body)
        arrays = layout.views(body)
        whole = self._source.read(first, arrays)
        if whole >= end:
            return None
        if whole > first:
            pack = Pack(part_layout(self._spec, end - whole))
            for name, array in pack.arrays.items():
                array[...] = arrays[name][whole - first :]
            body, arrays, first = pack.body, pack.arrays, whole
        part = Part(first, end, self._tail(arrays, end - first, end), checksum_of(body.data))
        self._writing.write(part.name, body.data)
        self._writing.parts += 1
        return part

    def _fits(self, part: Part, first: int) -> bool:
        """Whether a part that is there has the frames from `first` on, as the buffer has them."""
        if part.first != first and not part.first < first == self._cut.live.start:
            return False
        frames = tail_frames(self._spec, part.end - part.first)
        tail = Pack(part_layout(self._spec, frames))
        start = part.end - frames
        if self._source.read(start, tail.arrays) != start:
            return False
        # What is durable now may not have been so when the part was copied.
        return part.tail in (tail_of(tail), tail_of(tail, self._cut.lineage))

    def _tail(self, arrays: Mapping[str, Array], frames: int, end: int) -> str:
        count = tail_frames(self._spec, frames)
        tail = Pack(part_layout(self._spec, count))
        for name, array in tail.arrays.items():
            array[...] = arrays[name][-count:]
        return tail_of(tail, b"" if end <= self._cut.durable else self._cut.lineage)
