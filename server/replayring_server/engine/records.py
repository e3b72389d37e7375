"""Who stored which episode: what makes a retry exactly-once, in memory and on disk.

Two mapped files of the same record. `EpisodeLog` is a ring by episode number and remembers the
newest episodes; a record is written before its episode is published and counts only afterwards.
`WriterTable` keeps the last episode of each writer, so that its retry is recognised even when the
log, and the frames, have moved on. The table is written after publication; what a death in between
kept from it is taken from the log's last record when the buffer is opened.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from replayring_proto.layout import EPISODE_RECORD

# What the checksum is of, and what follows it. By way of numpy it takes several times as long.
_CHECKED = struct.Struct("<qqqq16s64s")
_REST = struct.Struct("<I12x")
_RECORD_BYTES = EPISODE_RECORD.itemsize


@dataclass(frozen=True)
class Origin:
    """Who sent an episode, and as which of theirs.

    Attributes:
        writer_id: the writer's identity, kept across its reconnects.
        sequence: the episode's number among this writer's, growing.
    """

    writer_id: str
    sequence: int


@dataclass(frozen=True)
class Record:
    """One stored episode and where it came from."""

    episode_index: int
    index: int
    num_frames: int
    origin: Origin
    payload_hash: bytes

    def encode(self) -> bytes:
        """Returns the record in its form on disk, that of `EPISODE_RECORD`."""
        checked = _CHECKED.pack(
            self.episode_index,
            self.index,
            self.num_frames,
            self.origin.sequence,
            self.payload_hash,
            self.origin.writer_id.encode(),
        )
        return checked + _REST.pack(zlib.crc32(checked))

    @classmethod
    def decode(cls, encoded: Any) -> Record | None:
        """Returns the record that an `EPISODE_RECORD` holds, or None for none, or a torn one."""
        if not encoded["num_frames"] or encoded["checksum"] != zlib.crc32(
            encoded.tobytes()[: _CHECKED.size]
        ):
            return None
        return cls(
            int(encoded["episode_index"]),
            int(encoded["index"]),
            int(encoded["num_frames"]),
            Origin(encoded["writer_id"].decode(), int(encoded["sequence"])),
            encoded["payload_hash"].tobytes(),
        )


class EpisodeLog:
    """The newest episodes' records, by episode number. Not thread-safe."""

    def __init__(self, mapped: npt.NDArray[np.uint8]) -> None:
        self._mapped = mapped.data
        self._records: npt.NDArray[Any] = mapped.view(EPISODE_RECORD)

    @property
    def length(self) -> int:
        """How many episodes it remembers at most."""
        return len(self._records)

    def write(self, record: Record) -> None:
        """Writes a record over the oldest one."""
        _put(self._mapped, record.episode_index % len(self._records), record)

    def erase(self, episode_index: int) -> None:
        """Clears the place of an episode that came without an origin.

        An append that died before publishing may have left a record of the same number there.
        """
        _put(self._mapped, episode_index % len(self._records), None)

    def newest_of(self, writer_id: str, next_episode_index: int) -> Record | None:
        """Returns a writer's newest published record still in the log."""
        slots = np.flatnonzero(self._records["writer_id"] == writer_id.encode())
        records = [Record.decode(self._records[slot]) for slot in slots]
        published = [r for r in records if r and r.episode_index < next_episode_index]
        return max(published, key=lambda record: record.episode_index, default=None)

    def read(self, episode_index: int) -> Record | None:
        """Returns an episode's record, or None if it is gone or came without an origin."""
        record = Record.decode(self._records[episode_index % len(self._records)])
        return record if record and record.episode_index == episode_index else None

    def find(self, origin: Origin, next_episode_index: int) -> Record | None:
        """Returns the record of a published episode by its origin. Scans the log: for retries."""
        matches = (self._records["sequence"] == origin.sequence) & (
            self._records["writer_id"] == origin.writer_id.encode()
        )
        for slot in np.flatnonzero(matches):
            record = Record.decode(self._records[slot])
            if record and record.origin == origin and record.episode_index < next_episode_index:
                return record
        return None


class WriterTable:
    """The last episode of each writer. Not thread-safe.

    A full table forgets the writer that has been quiet for the most episodes; the log may still
    know it. A table with room has forgotten nobody that the log knows.
    """

    def __init__(
        self, mapped: npt.NDArray[np.uint8], log: EpisodeLog, next_episode_index: int
    ) -> None:
        """Loads the table.

        Args:
            mapped: its file.
            log: stands in where the table is ahead of the ring, as after a power loss.
            next_episode_index: episodes from this one on were not published, or lost.
        """
        self._mapped = mapped.data
        self._records: npt.NDArray[Any] = mapped.view(EPISODE_RECORD)
        # By recency, the quietest first: dicts keep order and `put` moves a writer to the end.
        self._slots: dict[str, int] = {}
        self._last: dict[str, Record] = {}
        used = np.flatnonzero(self._records["num_frames"])
        for slot in used[np.argsort(self._records["episode_index"][used])]:
            record = Record.decode(self._records[slot])
            if record and record.episode_index >= next_episode_index:
                record = log.newest_of(record.origin.writer_id, next_episode_index)
                # In the file as well: the lost episode's number will be given to another one.
                _put(self._mapped, int(slot), record)
            if record:
                self._remember(record, int(slot))
        taken = set(self._slots.values())
        self._free = [slot for slot in range(len(self._records)) if slot not in taken][::-1]
        if self._free and len(used) == len(self._records):
            self._fill_up(log, next_episode_index)

    @property
    def full(self) -> bool:
        """Whether a writer may have been forgotten."""
        return not self._free

    def last(self, writer_id: str) -> Record | None:
        """Returns a writer's last episode, or None for a writer unknown here."""
        return self._last.get(writer_id)

    def put(self, record: Record) -> None:
        """Makes `record` its writer's last episode."""
        writer = record.origin.writer_id
        slot = self._slots.pop(writer, None)
        if slot is None:
            slot = self._free.pop() if self._free else self._forget_quietest()
        _put(self._mapped, slot, record)
        self._remember(record, slot)

    def _remember(self, record: Record, slot: int) -> None:
        self._slots[record.origin.writer_id] = slot
        self._last[record.origin.writer_id] = record

    def _fill_up(self, log: EpisodeLog, next_episode_index: int) -> None:
        """Takes in writers that had been forgotten, where a power loss made room."""
        for episode_index in reversed(range(next_episode_index)[-log.length :]):
            record = log.read(episode_index)
            if record and record.origin.writer_id not in self._last:
                self.put(record)
                if self.full:
                    break
        by_recency = sorted(self._slots, key=lambda writer: self._last[writer].episode_index)
        self._slots = {writer: self._slots[writer] for writer in by_recency}

    def _forget_quietest(self) -> int:
        writer = next(iter(self._slots))
        del self._last[writer]
        return self._slots.pop(writer)


def _put(mapped: memoryview, slot: int, record: Record | None) -> None:
    """Writes a record to a slot of a mapped file, or clears it."""
    start = slot * _RECORD_BYTES
    mapped[start : start + _RECORD_BYTES] = record.encode() if record else bytes(_RECORD_BYTES)
