"""Checking who stored what: records against themselves, each other, the frames and their hashes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import Path

import numpy as np
import xxhash

from replayring_proto import layout
from replayring_proto.ring import Live
from replayring_proto.spec import FRAME_INDEX, TIMESTAMP, BufferSpec
from replayring_server.engine.records import Record
from replayring_server.inspection.frames import Episodes
from replayring_server.inspection.reading import Array, FrameReader, read_file
from replayring_server.inspection.report import Finding

_TWICE = "a retry of such an episode is not recognised, and would be stored twice"
_KEEP = "if no writer is about to retry, none is needed; else restore the file from a copy"


@dataclass(frozen=True)
class Records:
    """One file of records.

    Attributes:
        where: the file, below the data directory.
        by_slot: the whole records, by place.
        torn: the places of those that are not whole.
        places: how many there are.
    """

    where: str
    by_slot: dict[int, Record]
    torn: list[int]
    places: int

    @classmethod
    def read(cls, path: Path, where: str) -> Records:
        """Reads a file of records; places that were never used are in neither list."""
        content = read_file(path)
        encoded = content.view(layout.EPISODE_RECORD)
        used = content.reshape(len(encoded), -1)[:, : -layout.EPISODE_RECORD["reserved"].itemsize]
        by_slot, torn = {}, []
        for slot in np.flatnonzero(np.any(used, axis=1)).tolist():
            record = Record.decode(encoded[slot])
            if record:
                by_slot[slot] = record
            else:
                torn.append(slot)
        return cls(where, by_slot, torn, len(encoded))


class RecordsCheck:
    """Compares the log of records and the table of writers with each other and with the frames."""

    def __init__(
        self, log: Records, table: Records, episodes: Episodes, next_episode: int, restored: bool
    ) -> None:
        """Takes what is compared.

        Args:
            log: the ring of records, by episode number.
            table: the last record of each writer.
            episodes: the newest live episodes, by their frames.
            next_episode: number that the next episode gets; records from there on do not count.
            restored: whether the machine was restarted since: what was written after the last sync
                is on the disk or not, by chance.
        """
        self._log = log
        self._table = table
        self._episodes = episodes
        self._next = next_episode
        self._restored = restored
        self._published = {
            slot: record
            for slot, record in log.by_slot.items()
            if record.episode_index < next_episode
        }

    def findings(self) -> Iterator[Finding]:
        """Yields all that does not fit together."""
        yield from self._check_torn_log()
        yield from self._check_torn_table()
        wrong = [self._wrong_place(), self._wrong_frames(), self._wrong_table(), self._missing()]
        yield from (finding for finding in wrong if finding)

    def hashed(self, live: Live) -> Iterator[Record]:
        """Yields the records of the episodes that are live as a whole."""
        for number, first, end in self._episodes.rows.tolist():
            record = self._published.get(number % self._log.places)
            whole = first >= live.start and record and record.episode_index == number
            if record and whole and (record.index, record.num_frames) == (first, end - first):
                yield record

    def _check_torn_log(self) -> Iterator[Finding]:
        torn = self._log.torn
        if not torn:
            return
        # An append that died left its record half-written, in the place of the next episode.
        normal = self._restored or torn == [self._next % self._log.places]
        yield Finding(
            self._log.where,
            f"{len(torn)} records are not whole, the first at place {torn[0]}",
            "an append that died left it so; opening ignores it" if normal else _TWICE,
            "none is needed" if normal else _KEEP,
            harmless=normal,
        )

    def _check_torn_table(self) -> Iterator[Finding]:
        torn = self._table.torn
        if not torn:
            return
        # A death can come between the log and the table, or in the midst of a record.
        last = self._published.get((self._next - 1) % self._log.places)
        written = last is None or last in self._table.by_slot.values()
        normal = self._restored or (len(torn) == 1 and not written)
        yield Finding(
            self._table.where,
            f"{len(torn)} records are not whole, the first at place {torn[0]}",
            "an append that died left it so; opening takes it from the log" if normal else _TWICE,
            "none is needed" if normal else _KEEP,
            harmless=normal,
        )

    def _wrong_place(self) -> Finding | None:
        wrong = [
            slot
            for slot, r in self._log.by_slot.items()
            if r.episode_index % self._log.places != slot
        ]
        if not wrong:
            return None
        return Finding(
            self._log.where,
            f"{len(wrong)} records lie in another place than their episode's, the first at "
            f"{wrong[0]}",
            f"the file was changed, or is another buffer's; {_TWICE}",
            _KEEP,
        )

    def _wrong_frames(self) -> Finding | None:
        """Compares the records of live episodes with the frames."""
        wrong = []
        for number, first, end in self._episodes.rows.tolist():
            record = self._published.get(number % self._log.places)
            said = record and (record.episode_index, record.index, record.num_frames)
            if said and said != (number, first, end - first):
                wrong.append(number)
        if not wrong:
            return None
        return Finding(
            self._log.where,
            f"{len(wrong)} live episodes, the first of them {wrong[0]:,}, have the record of other "
            "frames",
            f"the file was changed, or is another buffer's; {_TWICE}",
            _KEEP,
        )

    def _wrong_table(self) -> Finding | None:
        """Compares the table with the log, as far back as that goes."""
        wrong = []
        for record in self._table.by_slot.values():
            number, slot = record.episode_index, record.episode_index % self._log.places
            logged = self._log.by_slot.get(slot)
            # What an append that died, or was lost with the power, put over it tells nothing.
            covered = logged.episode_index >= self._next if logged else self._restored
            in_log = self._next - self._log.places < number < self._next
            if in_log and not covered and slot not in self._log.torn and logged != record:
                wrong.append(record)
        if not wrong:
            return None
        return Finding(
            self._table.where,
            f"{len(wrong)} writers, {wrong[0].origin.writer_id!r} among them, have another last "
            "episode than the log says",
            f"one of the two files was changed, or is another buffer's; {_TWICE}",
            _KEEP,
        )

    def _missing(self) -> Finding | None:
        """Finds writers whose last episode is not in the table, although no other pushed it out."""
        newest: dict[str, Record] = {}
        for record in sorted(self._published.values(), key=lambda r: r.episode_index):
            newest[record.origin.writer_id] = record
        table = {r.origin.writer_id: r for r in self._table.by_slot.values()}
        full = len(self._table.by_slot) + len(self._table.torn) == self._table.places
        missing = []
        for writer, record in newest.items():
            known = table.get(writer)
            # The last episode of all may have been published by a server that died right then. One
            # that is ahead was lost with the power, or never published.
            is_last = record.episode_index == self._next - 1
            ahead = known is not None and known.episode_index >= self._next
            if known != record and not is_last and not ahead and not (known is None and full):
                missing.append(writer)
        # A record that is not whole was reported as such, and may be that writer's.
        if len(missing) <= len(self._table.torn):
            return None
        return Finding(
            self._table.where,
            f"{len(missing)} writers, {missing[0]!r} among them, lack their last episode",
            "once the log has moved on, " + _TWICE,
            _KEEP,
        )


def check_contents(
    folder: Path, where: Path, spec: BufferSpec, records: Sequence[Record]
) -> Iterator[Finding]:
    """Hashes whole live episodes as they were hashed when they came, and compares.

    Args:
        folder: the buffer's.
        where: the same, below the data directory.
        spec: what the buffer holds.
        records: of the episodes.
    """
    names = [column.name for column in spec.columns]
    # Episodes come with times and frame numbers of their own, or without.
    given = list(chain.from_iterable(combinations((FRAME_INDEX, TIMESTAMP), n) for n in range(3)))
    wrong = []
    with ExitStack() as stack:
        columns = {
            name: stack.enter_context(FrameReader(folder, spec, (name,)))
            for name in (*names, FRAME_INDEX, TIMESTAMP)
        }
        for record in records:
            for at, more in enumerate(given):
                if _is_what_came(columns, names, more, spec, record):
                    given.insert(0, given.pop(at))  # most likely the next one came likewise
                    break
            else:
                wrong.append(record)
    if wrong:
        first = wrong[0]
        yield Finding(
            str(where / layout.COLUMNS),
            f"{len(wrong):,} of {len(records):,} whole episodes, the first of them "
            f"{first.episode_index:,} (index {first.index:,} to "
            f"{first.index + first.num_frames - 1:,}), are not what their writers sent",
            "a column was changed, damaged, or is another's; these values would be sampled",
            "restore the columns from a copy, or delete the buffer",
        )


def _is_what_came(
    columns: Mapping[str, FrameReader],
    names: Sequence[str],
    given: Sequence[str],
    spec: BufferSpec,
    record: Record,
) -> bool:
    """Whether an episode has the recorded hash if it came with the optional columns `given`."""
    if _hash(columns, sorted((*names, *given)), record) != record.payload_hash:
        return False
    for name, rate in ((FRAME_INDEX, 1), (TIMESTAMP, spec.fps or 1.0)):
        if name not in given:
            for first, piece in columns[name].pieces(
                record.index, record.index + record.num_frames
            ):
                count = np.arange(first, first + len(piece[name])) - record.index
                if not np.array_equal(piece[name], count / rate):
                    return False
    return True


def _hash(columns: Mapping[str, FrameReader], names: Sequence[str], record: Record) -> bytes:
    """As `engine.incoming.hash_arrays`, of what lies on the disk."""
    digest = xxhash.xxh3_128()
    for name in names:
        digest.update(name.encode())
        for _, piece in columns[name].pieces(record.index, record.index + record.num_frames):
            digest.update(_bytes(piece[name]))
    return digest.digest()


def _bytes(piece: Array) -> memoryview:
    return piece.reshape(-1).view("u1").data
