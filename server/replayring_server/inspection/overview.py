"""What is in a data directory, read without a lock: with or without a server at work on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from replayring_proto import layout
from replayring_proto.errors import OvertakenError, StorageError
from replayring_proto.spec import EPISODE_INDEX
from replayring_server.engine import files, parameters, store
from replayring_server.engine.lock import holder_of
from replayring_server.engine.parameter_files import outline
from replayring_server.engine.records import Record
from replayring_server.inspection.directory import check_data_dir
from replayring_server.inspection.reading import FrameReader, read_file
from replayring_server.inspection.standing import read_ends

_SHOWN_WRITERS = 5


@dataclass(frozen=True)
class LastEpisode:
    """The newest episode of one writer."""

    writer_id: str
    sequence: int
    episode_index: int


@dataclass(frozen=True)
class BufferState:
    """One buffer, as it is now; where no server runs, as the next one will find it.

    Attributes:
        name: the buffer's name.
        buffer_id: identity given at creation.
        capacity: live frames kept at most.
        fps: frames per second, or None.
        durability: "none", "interval" or "commit".
        columns: dtype and shape of each declared column, by name.
        oldest_index: `index` of the oldest live frame.
        next_index: `index` that the next frame gets.
        num_episodes: episodes with a live frame.
        next_episode_index: number that the next episode gets.
        synced_index: frames below this `index` survive a power loss.
        given_up: frames that the next opening gives up, because the machine was restarted.
        disk_bytes: bytes reserved.
        num_writers: writers whose last episode is known.
        last_writers: those of the newest episodes, the newest first.
    """

    name: str
    buffer_id: str
    capacity: int
    fps: float | None
    durability: str
    columns: dict[str, str]
    oldest_index: int
    next_index: int
    num_episodes: int
    next_episode_index: int
    synced_index: int
    given_up: int
    disk_bytes: int
    num_writers: int
    last_writers: list[LastEpisode]

    def lines(self) -> Iterator[str]:
        """Yields the state as text."""
        frames = self.next_index - self.oldest_index
        yield f"buffer {self.name}, id {self.buffer_id}"
        yield (
            f"  frames      {frames:,} of {self.capacity:,}, index {self.oldest_index:,} to "
            f"{self.next_index - 1:,}"
            if frames
            else f"  frames      none of {self.capacity:,}; the next has index {self.next_index:,}"
        )
        yield f"  episodes    {self.num_episodes:,}; the next is number {self.next_episode_index:,}"
        yield f"  durability  {self.durability}; {self.synced_index:,} frames ever are on the disk"
        if self.given_up:
            yield f"  restart     the next opening gives up {self.given_up:,} frames; see verify"
        yield f"  fps         {self.fps or 'none'}"
        for name, column in self.columns.items():
            yield f"  column      {name}: {column}"
        yield f"  disk        {self.disk_bytes:,} bytes reserved"
        yield f"  writers     {self.num_writers:,}"
        for last in self.last_writers:
            yield (
                f"    {last.writer_id}: episode {last.episode_index:,}, sequence {last.sequence:,}"
            )


@dataclass(frozen=True)
class ParametersState:
    """The newest published parameters of one name; `disk_bytes` is the size of their file."""

    name: str
    version: int
    tensors: int
    disk_bytes: int


@dataclass(frozen=True)
class Description:
    """What is in a data directory.

    Attributes:
        data_dir: the directory.
        holder: who serves it, or None.
        buffers: the buffers that can be read, by name.
        parameters: the published parameters that can be read, by name.
        unreadable: what is wrong with the others, by name.
    """

    data_dir: str
    holder: str | None
    buffers: list[BufferState]
    parameters: list[ParametersState]
    unreadable: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """Returns all of it as JSON's kinds of values."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """Yields the description as text."""
        yield (
            f"{self.data_dir}: served by {self.holder}"
            if self.holder
            else (f"{self.data_dir}: not served at present")
        )
        for buffer in self.buffers:
            yield from buffer.lines()
        for one in self.parameters:
            yield (
                f"parameters {one.name}: version {one.version:,}, {one.tensors:,} tensors, "
                f"{one.disk_bytes:,} bytes"
            )
        for name, what in self.unreadable.items():
            yield f"{name} cannot be read: {what}; `replayring verify` says more"


def describe(data_dir: Path | str) -> Description:
    """Reads what is in a data directory, changing nothing, not even beside a running server.

    Raises:
        NotFoundError: it is no data directory.
        OSError: it cannot be listed.
    """
    folder = Path(data_dir).resolve()
    check_data_dir(folder)
    unreadable: dict[str, str] = {}
    buffers, sets = [], []
    for path in store.buffer_folders(folder):
        try:
            buffers.append(_buffer(path))
        except (OSError, OvertakenError) as error:
            if path.exists():  # or else it was deleted meanwhile
                unreadable[f"buffer {path.name}"] = str(error)
    for path in _parameter_files(folder, unreadable):
        try:
            sets.append(_parameters(path))
        except StorageError as error:
            unreadable[f"parameters {path.name}"] = str(error)
    return Description(str(folder), _holder(folder), buffers, sets, unreadable)


def _holder(folder: Path) -> str | None:
    try:
        return holder_of(folder)
    except StorageError:
        return None  # a lock that is none; no server starts on it


def _parameter_files(folder: Path, unreadable: dict[str, str]) -> list[Path]:
    try:
        return parameters.files_of(folder)
    except StorageError as error:
        unreadable[parameters.FOLDER] = str(error)
        return []


def _parameters(path: Path) -> ParametersState:
    found = outline(path)
    tensors = len(found.layout.tensors)
    return ParametersState(path.name, found.version, tensors, found.disk_bytes)


def _buffer(folder: Path) -> BufferState:
    if folder.is_symlink():
        raise StorageError(f"{folder} is a symbolic link; refused")
    meta = folder / layout.META
    buffer_id, spec = layout.decode_meta(files.read_whole(meta), str(meta))
    sizes = layout.file_sizes(spec)
    files.check_sizes(folder, sizes)
    page = files.map_file(folder / layout.CURSOR)
    with FrameReader(folder, spec, (EPISODE_INDEX,)) as episodes:
        standing, first, last = read_ends(page, episodes, spec.capacity)
    records = _last_episodes(folder, last + 1)
    return BufferState(
        name=folder.name,
        buffer_id=buffer_id,
        capacity=spec.capacity,
        fps=spec.fps,
        durability=spec.durability,
        columns={c.name: f"{c.dtype.name} {c.shape}" for c in spec.columns},
        oldest_index=standing.live.start,
        next_index=standing.live.end,
        num_episodes=last - first + 1 if len(standing.live) else 0,
        next_episode_index=last + 1,
        synced_index=standing.durable.head,
        given_up=standing.given_up,
        disk_bytes=sum(sizes.values()),
        num_writers=len(records),
        last_writers=records[:_SHOWN_WRITERS],
    )


def _last_episodes(folder: Path, next_episode: int) -> list[LastEpisode]:
    """Returns the last episode of each writer in the table, the newest first."""
    encoded = read_file(folder / layout.WRITERS).view(layout.EPISODE_RECORD)
    used = np.flatnonzero(encoded["num_frames"])
    records = [record for slot in used if (record := Record.decode(encoded[slot]))]
    return [
        LastEpisode(record.origin.writer_id, record.origin.sequence, record.episode_index)
        for record in sorted(records, key=lambda record: -record.episode_index)
        if record.episode_index < next_episode
    ]
