"""Mistakes that somebody could make in the engine, each of which a proof must find.

A mutation takes `setattr`, or something like it that undoes what it did, and plants one mistake.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from replayring_proto.layout import META, encode_meta
from replayring_proto.ring import RingReader
from replayring_server.engine import Buffer, cursor, files, incoming, store
from replayring_server.engine.ring import RingWriter

Patch = Callable[[Any, str, Any], None]


def publish_before_write(patch: Patch) -> None:
    """The head rises before the rows are written."""

    def write(self: RingWriter, column: Any, start: int, pieces: Any) -> None:
        self._counters.head = start + sum(map(len, pieces))
        whole(self, column, start, pieces)

    whole = RingWriter._write
    patch(RingWriter, "_write", write)


def publish_before_record(patch: Patch) -> None:
    """The head rises before the record of who sent the episode is written."""

    def append(
        self: RingWriter, arrays: Any, first: int, lengths: Any, before_publish: Any = None
    ) -> int:
        start = whole(self, arrays, first, lengths)
        before_publish()
        return start

    whole = RingWriter.append
    patch(RingWriter, "append", append)


def acknowledge_before_publish(patch: Patch) -> None:
    """The head of one episode rises only when the next one comes."""

    def append(
        self: RingWriter, arrays: Any, first: int, lengths: Any, before_publish: Any = None
    ) -> int:
        self._counters.head = self.__dict__.get("late", self._counters.head)
        start = whole(self, arrays, first, lengths, before_publish)
        self.__dict__["late"], self._counters.head = self._counters.head, start
        return start

    whole = RingWriter.append
    patch(RingWriter, "append", append)


class _Deaf:
    """Counters that do not take a store to some of them."""

    def __init__(self, counters: Any, deaf: tuple[str, ...]) -> None:
        object.__setattr__(self, "_inner", (counters, deaf))

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_inner")[0], name)

    def __setattr__(self, name: str, value: Any) -> None:
        counters, deaf = object.__getattribute__(self, "_inner")
        if name not in deaf:
            setattr(counters, name, value)


def low_not_raised(patch: Patch) -> None:
    """Rows of live frames are written while these still count as live."""
    _wrap_append(patch, ("low",))


def intent_stored_late(patch: Patch) -> None:
    """`intent` rises only when the rows are written."""
    _wrap_append(patch, ("intent",))


def _wrap_append(patch: Patch, deaf: tuple[str, ...]) -> None:
    def append(
        self: RingWriter, arrays: Any, first: int, lengths: Any, before_publish: Any = None
    ) -> int:
        counters = self._counters
        self._counters = _Deaf(counters, deaf)  # type: ignore[assignment]
        try:
            start = whole(self, arrays, first, lengths, before_publish)
        finally:
            self._counters = counters
        if "intent" in deaf:
            counters.intent = max(counters.intent, counters.head)
        return start

    whole = RingWriter.append
    patch(RingWriter, "append", append)


def no_check_after_gathering(patch: Patch) -> None:
    """Readers believe whatever they read."""
    patch(RingReader, "_oldest_whole", property(lambda reader: -(1 << 62)))


def wrong_slack_in_readers(patch: Patch) -> None:
    """Readers think that a row lives longer than it does."""
    right = RingReader._oldest_whole.fget  # type: ignore[attr-defined]
    patch(RingReader, "_oldest_whole", property(lambda reader: right(reader) - 64))


def wrong_slack_in_writers(patch: Patch) -> None:
    """Writers think that there are more rows than there are before a live one is reached."""

    def append(
        self: RingWriter, arrays: Any, first: int, lengths: Any, before_publish: Any = None
    ) -> int:
        rows, self._rows = self._rows, self._rows + 64
        try:
            return whole(self, arrays, first, lengths, before_publish)
        finally:
            self._rows = rows

    def write(self: RingWriter, column: Any, start: int, pieces: Any) -> None:
        rows, self._rows = self._rows, len(columns(column))
        whole_write(self, column, start, pieces)
        self._rows = rows

    def columns(column: Any) -> Any:
        return getattr(column, "_column", column)

    whole, whole_write = RingWriter.append, RingWriter._write
    patch(RingWriter, "append", append)
    patch(RingWriter, "_write", write)


def no_duplicate_check(patch: Patch) -> None:
    """A retried episode is stored again."""
    patch(Buffer, "_known", lambda self, origin, payload_hash: None)


def no_payload_check(patch: Patch) -> None:
    """A writer's sequence counts as a retry whatever it carries."""

    class Same(bytes):
        __hash__ = bytes.__hash__

        def __ne__(self, other: object) -> bool:
            return False

    patch(incoming, "hash_arrays", lambda arrays: Same(16))


def writer_not_recovered(patch: Patch) -> None:
    """A death between publication and the writers' table is not made good."""
    patch(Buffer, "_recover_last_record", lambda self: None)


def description_before_files(patch: Patch) -> None:
    """buffer.json, which marks a whole buffer, is written first, and in its final place."""

    def create(folder: Any, buffer_id: str, spec: Any, content: Any) -> None:
        named = folder.with_name(folder.name.removeprefix(".creating-"))
        named.mkdir()
        files.write_whole(named / META, encode_meta(buffer_id, spec))
        whole(folder, buffer_id, spec, content)
        (named / META).unlink()
        named.rmdir()

    whole = Buffer.create
    patch(Buffer, "create", create)


def remove_before_rename(patch: Patch) -> None:
    """A buffer is deleted file by file, under its own name."""

    def rename(self: Path, target: Path) -> Path:
        if target.name.startswith(store.DELETING):
            for path in sorted(self.rglob("*")):
                if path.is_file():
                    path.unlink()
        return whole(self, target)

    whole = Path.rename
    patch(Path, "rename", rename)


def parameters_in_place(patch: Patch) -> None:
    """Files that are replaced whole are written over instead."""

    def write_whole(path: Path, content: bytes | list[bytes | memoryview]) -> None:
        with path.open("wb") as file:
            for piece in [content] if isinstance(content, bytes) else content:
                file.write(piece)

    patch(files, "write_whole", write_whole)


def slot_before_data(patch: Patch) -> None:
    """The durable slot is on the disk before the rows that it speaks for."""

    def sync(self: Buffer) -> None:
        live = self.reader.live
        self._cursor.checkpoint(live.end, live.start, self._next_episode)
        self._cursor.durable = dataclasses.replace(self._cursor.durable, head=-1)
        whole(self)

    whole = Buffer._sync
    patch(Buffer, "_sync", sync)


def no_reservation(patch: Patch) -> None:
    """Rows are touched that no slot on the disk has given up."""
    patch(cursor.Cursor, "reserve", lambda self, until: None)


def one_slot_without_checksum(patch: Patch) -> None:
    """One durable slot is written over, and believed however torn it is."""
    slot_at = cursor._slot_at
    patch(cursor, "_slot_at", lambda page, parity: slot_at(page, 0))
    patch(cursor, "_checksum", lambda words: 1)


def acknowledge_before_sync(patch: Patch) -> None:
    """Under "commit", an episode is acknowledged when it is written, and synced later."""
    patch(Buffer, "sync", lambda self, until=None: None)


MUTATIONS: dict[str, Callable[[Patch], None]] = {
    mutate.__name__.replace("_", " "): mutate
    for mutate in (
        publish_before_write,
        publish_before_record,
        acknowledge_before_publish,
        low_not_raised,
        intent_stored_late,
        no_check_after_gathering,
        wrong_slack_in_readers,
        wrong_slack_in_writers,
        no_duplicate_check,
        no_payload_check,
        writer_not_recovered,
        description_before_files,
        remove_before_rename,
        parameters_in_place,
        slot_before_data,
        no_reservation,
        one_slot_without_checksum,
        acknowledge_before_sync,
    )
}
