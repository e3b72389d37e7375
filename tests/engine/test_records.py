"""A retry is stored exactly once: across reopening, and long after its frames are gone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from replayring_proto import layout
from replayring_proto.errors import SequenceReusedError
from replayring_server.engine import Buffer, Origin, Store, Stored
from replayring_server.engine.records import EpisodeLog, Record, WriterTable
from tests.engine.frames import Arrays, checked_episode, checked_spec
from tests.engine.lives import die

SPEC = checked_spec(5)


def episode(tag: int, frames: int = 2) -> Arrays:
    return checked_episode(SPEC, tag, frames)


@pytest.fixture
def buffer(store: Store) -> Buffer:
    return store.create("ring", SPEC)[0]


# Retries


def test_a_retry_is_recognised_and_stored_once(buffer: Buffer) -> None:
    first = buffer.append(episode(1), Origin("w", 1))
    again = buffer.append(episode(1), Origin("w", 1))
    assert first == Stored(0, 0, 2)
    assert again == Stored(0, 0, 2, duplicate=True)
    assert buffer.info().next_index == 2


def test_a_retry_may_be_of_an_older_sequence(buffer: Buffer) -> None:
    stored = [buffer.append(episode(tag), Origin("w", tag)) for tag in range(1, 9)]
    for tag in (3, 1, 8, 5):
        again = buffer.append(episode(tag), Origin("w", tag))
        assert again == Stored(tag - 1, stored[tag - 1].index, 2, duplicate=True)
    assert buffer.info().next_index == 16


def test_a_retry_is_recognised_long_after_its_frames_are_gone(buffer: Buffer) -> None:
    """Its writer may have been away while others turned the ring many times over."""
    buffer.append(episode(1), Origin("slow", 1))
    for tag in range(2, 500):
        buffer.append(episode(tag, 5), Origin("fast", tag))
    assert buffer.append(episode(1), Origin("slow", 1)) == Stored(0, 0, 2, duplicate=True)


@pytest.mark.parametrize("cleanly", [True, False])
def test_retries_are_recognised_after_reopening(tmp_path: Path, cleanly: bool) -> None:
    store = Store(tmp_path)
    buffer, _ = store.create("ring", SPEC)
    stored = [buffer.append(episode(tag), Origin(f"w{tag % 3}", tag)) for tag in range(1, 9)]
    if cleanly:
        store.close()
    else:
        die(store)
    with Store(tmp_path) as store:
        buffer = store.get("ring")
        for tag in range(1, 9):
            again = buffer.append(episode(tag), Origin(f"w{tag % 3}", tag))
            assert again == Stored(tag - 1, stored[tag - 1].index, 2, duplicate=True)


def test_writers_do_not_share_sequences(buffer: Buffer) -> None:
    assert not buffer.append(episode(1), Origin("a", 1)).duplicate
    assert not buffer.append(episode(1), Origin("b", 1)).duplicate
    assert not buffer.append(episode(1)).duplicate


def test_sequences_may_have_gaps_and_begin_anywhere(buffer: Buffer) -> None:
    for sequence in (7, 8, 100, (1 << 63) - 1):
        assert not buffer.append(episode(sequence % 1000), Origin("w", sequence)).duplicate


def test_an_episode_is_the_same_by_its_values_as_they_are_stored(buffer: Buffer) -> None:
    """A retry with a wider dtype of the same values is the same episode."""
    buffer.append(episode(1), Origin("w", 1))
    wide = {**episode(1), "c.words": episode(1)["c.words"].astype(np.int64)}
    assert buffer.append(wide, Origin("w", 1)).duplicate


@pytest.mark.parametrize("change", ["values", "length", "timestamps", "one byte"])
def test_a_sequence_used_for_another_episode_is_refused(buffer: Buffer, change: str) -> None:
    buffer.append(episode(1), Origin("w", 1))
    other = {
        "values": episode(2),
        "length": episode(1, 3),
        "timestamps": {**episode(1), "timestamp": np.array([0.0, 0.5])},
        "one byte": {**episode(1), "b.bytes": episode(1)["b.bytes"] ^ np.uint8(1)},
    }[change]
    with pytest.raises(SequenceReusedError, match=r"sequence 1 before for another .*\(number 0\)"):
        buffer.append(other, Origin("w", 1))
    assert buffer.info().next_index == 2
    assert buffer.append(episode(1), Origin("w", 1)).duplicate


def test_an_older_sequence_used_for_another_episode_is_refused(buffer: Buffer) -> None:
    for tag in (1, 2, 3):
        buffer.append(episode(tag), Origin("w", tag))
    with pytest.raises(SequenceReusedError, match="another episode"):
        buffer.append(episode(9), Origin("w", 2))


def test_a_sequence_skipped_before_is_too_old_to_tell(buffer: Buffer) -> None:
    buffer.append(episode(1), Origin("w", 5))
    with pytest.raises(SequenceReusedError, match="sequences must grow"):
        buffer.append(episode(2), Origin("w", 4))
    assert buffer.info().next_index == 2


def test_an_older_sequence_is_refused_once_the_log_has_turned(buffer: Buffer) -> None:
    """Refused, because it can no longer be told; never stored twice."""
    remembered = layout.episode_records(SPEC.capacity)
    for tag in range(1, remembered + 2):
        buffer.append(episode(tag, 1), Origin("w", tag))
    with pytest.raises(SequenceReusedError, match="no longer remembers"):
        buffer.append(episode(1, 1), Origin("w", 1))
    assert buffer.append(episode(2, 1), Origin("w", 2)).duplicate


def test_an_episode_refused_for_its_data_does_not_use_up_its_sequence(buffer: Buffer) -> None:
    with pytest.raises(ValueError, match="capacity"):
        buffer.append(episode(1, 6), Origin("w", 1))
    assert not buffer.append(episode(1, 5), Origin("w", 1)).duplicate


# Deaths between the steps


class Died(Exception):
    """The server is gone."""


def test_a_death_between_publishing_and_the_writers_table_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    buffer, _ = store.create("ring", SPEC)
    buffer.append(episode(1), Origin("w", 1))
    with monkeypatch.context() as patch:
        patch.setattr(WriterTable, "put", _die)
        with pytest.raises(Died):
            buffer.append(episode(2), Origin("w", 2))
    die(store)
    with Store(tmp_path) as store:
        again = store.get("ring").append(episode(2), Origin("w", 2))
        assert again == Stored(1, 2, 2, duplicate=True)


def test_a_death_between_the_record_and_publishing_stored_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    buffer, _ = store.create("ring", SPEC)
    buffer.append(episode(1), Origin("w", 1))
    die_after_the_record(buffer, monkeypatch, episode(2), Origin("w", 2))
    die(store)
    with Store(tmp_path) as store:
        buffer = store.get("ring")
        assert buffer.info().next_index == 2
        assert buffer.append(episode(2), Origin("w", 2)) == Stored(1, 2, 2)


@pytest.mark.parametrize("successor", [None, Origin("other", 1)])
def test_a_record_that_a_death_left_is_not_taken_for_the_next_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, successor: Origin | None
) -> None:
    """The next episode gets the same number; if it has no origin, the stale record must go."""
    store = Store(tmp_path)
    buffer, _ = store.create("ring", SPEC)
    die_after_the_record(buffer, monkeypatch, episode(1), Origin("w", 1))
    die(store)
    with Store(tmp_path) as store:
        store.get("ring").append(episode(2), successor)
    with Store(tmp_path) as store:
        assert store.get("ring").append(episode(1), Origin("w", 1)) == Stored(1, 2, 2)


def die_after_the_record(
    buffer: Buffer, monkeypatch: pytest.MonkeyPatch, data: Arrays, origin: Origin
) -> None:
    write = EpisodeLog.write

    def write_and_die(log: EpisodeLog, record: Record) -> None:
        write(log, record)
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(EpisodeLog, "write", write_and_die)
        with pytest.raises(Died):
            buffer.append(data, origin)


def _die(*_: object) -> None:
    raise Died


# The records themselves


def record(number: int, writer: str = "w", sequence: int | None = None) -> Record:
    return Record(number, number * 2, 2, Origin(writer, sequence or number + 1), bytes(range(16)))


def table_file(slots: int) -> np.ndarray:
    return np.zeros(slots * layout.EPISODE_RECORD.itemsize, np.uint8)


def decoded(encoded: bytes) -> Record | None:
    return Record.decode(np.frombuffer(encoded, layout.EPISODE_RECORD)[0])


def test_a_record_round_trips() -> None:
    original = Record(7, 1 << 60, 3, Origin("w" * 64, (1 << 63) - 1), bytes(range(16)))
    assert decoded(original.encode()) == original


def test_a_payload_hash_that_ends_in_zeros_round_trips() -> None:
    original = Record(0, 0, 1, Origin("w", 1), b"ab" + bytes(14))
    assert decoded(original.encode()) == original


def test_no_record_and_any_torn_record_are_ignored() -> None:
    assert Record.decode(np.zeros((), layout.EPISODE_RECORD)) is None
    whole = record(3).encode()
    for at in range(layout.EPISODE_RECORD.fields["reserved"][1]):  # type: ignore[index]
        torn = bytearray(whole)
        torn[at] ^= 0x40
        assert decoded(bytes(torn)) is None, at


def test_a_record_torn_between_old_and_new_is_ignored() -> None:
    """As a death while it is written leaves it: the first bytes new, the rest old."""
    old, new = record(1).encode(), record(70, sequence=99).encode()
    for cut in range(1, 128):
        assert decoded(new[:cut] + old[cut:]) in (None, record(1), record(70, sequence=99))


def test_a_torn_record_in_the_writers_table_frees_its_place() -> None:
    mapped = table_file(2)
    table = load(mapped)
    table.put(record(0, "torn"))
    table.put(record(1, "whole"))
    mapped[3] ^= 1
    table = load(mapped)
    assert table.last("torn") is None
    assert table.last("whole") == record(1, "whole")
    table.put(record(2, "new"))
    assert table.last("whole") == record(1, "whole")


def load(mapped: np.ndarray, next_episode: int = 1000) -> WriterTable:
    return WriterTable(mapped, EpisodeLog(table_file(64)), next_episode)


def test_the_table_keeps_the_last_record_of_each_writer_across_loading() -> None:
    mapped = table_file(4)
    table = load(mapped)
    for number, writer in enumerate("abacab"):
        table.put(record(number, writer))
    for loaded in (table, load(mapped)):
        assert loaded.last("a") == record(4, "a")
        assert loaded.last("b") == record(5, "b")
        assert loaded.last("c") == record(3, "c")
        assert loaded.last("d") is None


@pytest.mark.parametrize("reload", [False, True])
def test_a_full_table_forgets_the_writer_that_was_quiet_for_the_longest(reload: bool) -> None:
    mapped = table_file(3)
    table = load(mapped)
    for number, writer in enumerate("abcab"):
        table.put(record(number, writer))
    if reload:
        table = load(mapped)
    table.put(record(5, "d"))
    assert table.last("c") is None
    assert all(table.last(writer) for writer in "abd")
    table.put(record(6, "e"))
    assert table.last("a") is None
    assert all(load(mapped).last(writer) for writer in "bde")


def test_many_writers_come_and_go_and_the_newest_are_known(buffer: Buffer) -> None:
    """Twice as many as the table of this small buffer has places for."""
    known = layout.writer_records(SPEC.capacity)
    for number in range(2 * known):
        buffer.append(episode(number + 1, 1), Origin(f"w{number}", 1))
    for number in range(known, 2 * known):
        assert buffer.append(episode(number + 1, 1), Origin(f"w{number}", 1)).duplicate


def test_a_writer_pushed_out_of_the_table_is_looked_up_in_the_log(tmp_path: Path) -> None:
    """Where the table has fewer places than the log: as soon as a buffer holds 4,096 frames."""
    spec = checked_spec(5000, width=1)
    known = layout.writer_records(5000)
    assert known < layout.episode_records(5000)
    with Store(tmp_path) as store:
        buffer, _ = store.create("ring", spec)
        for number in range(known + 2):
            buffer.append(checked_episode(spec, number + 1, 1), Origin(f"w{number}", 7))
    with Store(tmp_path) as store:
        buffer = store.get("ring")
        for number in (0, 1):  # found in the log, and the table is none the wiser
            again = buffer.append(checked_episode(spec, number + 1, 1), Origin(f"w{number}", 7))
            assert again == Stored(number, number, 1, duplicate=True)
        with pytest.raises(SequenceReusedError, match="another episode"):
            buffer.append(checked_episode(spec, 9, 1), Origin("w0", 7))
        with pytest.raises(SequenceReusedError, match="sequences must grow"):
            buffer.append(checked_episode(spec, 9, 1), Origin("w0", 6))
        assert not buffer.append(checked_episode(spec, 9, 1), Origin("w0", 8)).duplicate
        assert not buffer.append(checked_episode(spec, 9, 1), Origin("never seen", 1)).duplicate


def test_a_writer_pushed_out_of_the_table_is_known_although_a_power_loss_made_room_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss takes the episode that had pushed another writer out, and leaves its place free."""
    spec = replace(checked_spec(5000, width=1), durability="none")
    known = layout.writer_records(5000)

    def append(buffer: Buffer, number: int) -> Stored:
        return buffer.append(checked_episode(spec, number + 1, 1), Origin(f"w{number}", 7))

    store = Store(tmp_path)
    buffer, _ = store.create("ring", spec)
    for number in range(known + 1):
        append(buffer, number)
    buffer.sync()
    for number in (known + 1, known + 2):
        append(buffer, number)
    die(store)
    for life in range(2):
        monkeypatch.setattr(layout, "machine_boot_id", lambda life=life: bytes([life + 1]) * 16)
        with Store(tmp_path) as store:
            buffer = store.get("ring")
            assert buffer.reader.live.end == known + 1
            for number in range(4):
                assert append(buffer, number) == Stored(number, number, 1, duplicate=True)
    # Who is forgotten next is who has been quiet for longest, whenever they were taken in.
    assert list(buffer._writers._slots) == [f"w{number}" for number in range(1, known + 1)]


def test_a_lost_episode_is_not_believed_once_another_has_its_number() -> None:
    """After a power loss the table may be ahead of the ring.

    Its record of episode 5 is of one that was lost. Soon there is another episode 5, and the server
    is started again: a retry of the lost one must still be new.
    """
    mapped, log = table_file(4), EpisodeLog(table_file(64))
    table = WriterTable(mapped, log, 0)
    for number in range(6):
        log.write(record(number, "a"))
        table.put(record(number, "a"))
    after_the_loss = WriterTable(mapped, log, 5)
    assert after_the_loss.last("a") == record(4, "a")
    log.write(record(5, "b"))
    after_the_loss.put(record(5, "b"))
    assert WriterTable(mapped, log, 6).last("a") == record(4, "a")


def test_a_writer_whose_only_episode_was_lost_is_forgotten() -> None:
    mapped, log = table_file(4), EpisodeLog(table_file(64))
    WriterTable(mapped, log, 0).put(record(5, "a"))
    assert WriterTable(mapped, log, 5).last("a") is None
    assert WriterTable(mapped, log, 6).last("a") is None
