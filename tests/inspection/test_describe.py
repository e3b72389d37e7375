"""`describe` reads a data directory without its lock, and so beside a server."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replayring_proto import layout
from replayring_proto.errors import NotFoundError
from replayring_server.engine import Origin, Store, cursor
from replayring_server.engine.cursor import Checkpoint, Cursor, read_slots
from replayring_server.inspection import describe, verify
from replayring_server.inspection.overview import LastEpisode
from replayring_server.inspection.reading import FrameReader
from tests.engine.folders import fingerprint
from tests.engine.lives import die
from tests.inspection.spoiling import SPEC, episode, set_counters, truncate


def test_a_closed_directory_is_described_as_a_server_would_find_it(data_dir: Path) -> None:
    found = describe(data_dir)
    assert found.holder is None
    assert found.unreadable == {}
    with Store(data_dir) as store:
        for state in found.buffers:
            info = store.get(state.name).info()
            assert state.buffer_id == info.buffer_id
            assert (state.capacity, state.fps, state.durability) == (50, 10, "interval")
            assert (state.oldest_index, state.next_index) == (info.oldest_index, info.next_index)
            assert state.num_episodes == info.num_episodes
            assert state.next_episode_index == info.next_episode_index
            assert state.disk_bytes == info.disk_bytes
    other, ring = found.buffers
    assert (other.name, ring.name) == ("other", "ring")
    assert ring.columns["c.words"] == "int32 (80,)"
    assert (ring.synced_index, ring.given_up, ring.num_writers) == (160, 0, 3)
    assert ring.last_writers == [
        LastEpisode("ring-1", 40, 39),
        LastEpisode("ring-0", 39, 38),
        LastEpisode("ring-2", 38, 37),
    ]
    assert [(one.name, one.version, one.tensors) for one in found.parameters] == [
        ("critic", 1, 1),
        ("policy", 1, 1),
    ]
    assert found.parameters[0].disk_bytes == (data_dir / ".parameters/critic").stat().st_size


def test_the_text_says_what_matters(data_dir: Path) -> None:
    text = "\n".join(describe(data_dir).lines())
    for words in (
        f"{data_dir}: not served at present",
        "buffer ring, id ",
        "  frames      50 of 50, index 110 to 159",
        "  episodes    14; the next is number 40",
        "  durability  interval; 160 frames ever are on the disk",
        "  fps         10.0",
        "  column      c.words: int32 (80,)",
        "    ring-1: episode 39, sequence 40",
        "parameters policy: version 1, 1 tensors, ",
    ):
        assert words in text, words
    assert "  restart" not in text


def test_an_empty_buffer_is_described(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.create("a", SPEC)
    (state,) = describe(tmp_path).buffers
    assert (state.oldest_index, state.next_index, state.num_episodes) == (0, 0, 0)
    assert (state.next_episode_index, state.last_writers) == (0, [])
    assert "none of 50; the next has index 0" in "\n".join(state.lines())


def test_only_the_newest_writers_are_listed(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        buffer, _ = store.create("a", SPEC)
        for tag in range(1, 21):
            buffer.append(episode(tag, 1), Origin(f"w{tag}", tag))
    (state,) = describe(tmp_path).buffers
    assert state.num_writers == 20
    assert [last.writer_id for last in state.last_writers] == ["w20", "w19", "w18", "w17", "w16"]


def test_damage_is_named_and_the_rest_described(data_dir: Path) -> None:
    truncate("ring/cursor")(data_dir)
    truncate(".parameters/policy")(data_dir)
    found = describe(data_dir)
    assert [state.name for state in found.buffers] == ["other"]
    assert [one.name for one in found.parameters] == ["critic"]
    assert found.unreadable.keys() == {"buffer ring", "parameters policy"}
    assert "buffer ring cannot be read: " in "\n".join(found.lines())


@pytest.mark.parametrize("counters", [{"head": -5}, {"low": 10**9}])
def test_counters_of_noise_are_named(data_dir: Path, counters: dict[str, int]) -> None:
    set_counters(**counters)(data_dir)
    assert "the cursor is damaged" in describe(data_dir).unreadable["buffer ring"]


def test_beside_a_server_the_newest_is_seen_and_nothing_changed(data_dir: Path) -> None:
    with Store(data_dir) as store:
        store.lock.describe("pid 7, 127.0.0.1:50051")
        store.get("ring").append(episode(41, 5), Origin("new", 1))
        before = fingerprint(data_dir)
        found = describe(data_dir)
        assert fingerprint(data_dir) == before
        assert found.holder == f"pid {os.getpid()}, this process"
        ring = found.buffers[1]
        assert (ring.oldest_index, ring.next_index, ring.synced_index) == (115, 165, 160)
        assert ring.last_writers[0] == LastEpisode("new", 1, 40)
        store.get("ring").append(episode(42, 5))  # the lock was not lost
    die(store)


@pytest.fixture
def overtaken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A served buffer whose server overwrites everything whenever a row is about to be read.

    As often as the list says that is in the fixture: [times].
    """
    times = [1]
    real = FrameReader.read
    with Store(tmp_path) as store:
        buffer, _ = store.create("a", SPEC)
        buffer.append(episode(1, 1))

        def read(reader: FrameReader, start: int, end: int) -> Any:
            if times[0]:
                times[0] -= 1
                for _ in range(200):  # each episode has one frame, and so the number of that
                    buffer.append(episode(1, 1))
            return real(reader, start, end)

        monkeypatch.setattr(FrameReader, "read", read)
        yield times


def test_what_is_seen_beside_a_busy_server_fits_together(
    tmp_path: Path, overtaken: list[int]
) -> None:
    (state,) = describe(tmp_path).buffers
    assert overtaken == [0]
    assert (state.oldest_index, state.next_index) == (151, 201)
    assert (state.num_episodes, state.next_episode_index) == (50, 201)


def test_a_server_that_overtakes_every_attempt_is_said_to(
    tmp_path: Path, overtaken: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replayring_server.inspection.standing._ATTEMPTS", 3)
    overtaken[0] = 100
    assert "writers overtook" in describe(tmp_path).unreadable["buffer a"]
    assert overtaken == [100 - 2 * 3]


def test_what_is_no_data_directory_is_said_to_be_none(data_dir: Path) -> None:
    for below, message in (("nowhere", "no directory"), ("ring", "is one buffer")):
        with pytest.raises(NotFoundError, match=message):
            describe(data_dir / below)


def test_a_buffer_may_be_called_like_a_file_of_a_buffer(data_dir: Path) -> None:
    names = ["buffer.json", "columns", "cursor", "manifest.json"]
    with Store(data_dir) as store:
        for name in names:
            store.create(name, SPEC)
        assert [state.name for state in describe(data_dir).buffers] == [*names, "other", "ring"]
    assert verify(data_dir).findings == []
    with Store(data_dir) as store:
        assert store.names() == [*names, "other", "ring"]


def test_a_slot_that_is_written_while_it_is_read_is_never_a_mixture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server begins to write the next state when the reader has compared the checksum."""
    page = np.zeros(layout.CURSOR_BYTES, np.uint8)
    whole = Checkpoint(2, 100, 20, 10, 164)
    Cursor.format(page, whole)
    checksum = cursor._checksum

    def overtaken(words: np.ndarray) -> int:
        found = checksum(words)
        cursor._slot_at(page, 0)["words"][0][:2] = 4, 200
        return found

    monkeypatch.setattr(cursor, "_checksum", overtaken)
    assert read_slots(page)[0] == whole
    assert read_slots(page)[0] is None


def test_json_has_all_of_it(data_dir: Path) -> None:
    found = json.loads(json.dumps(describe(data_dir).as_json()))
    assert found.keys() == {"data_dir", "holder", "buffers", "parameters", "unreadable"}
    assert found["buffers"][1]["last_writers"][0]["writer_id"] == "ring-1"
    assert found["buffers"][1]["disk_bytes"] == sum(layout.file_sizes(SPEC).values())
