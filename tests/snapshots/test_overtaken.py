"""Writers that are faster than copying cost the oldest frames, and nothing else."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replayring_server.engine import Origin, Store
from replayring_server.inspection import reading
from replayring_server.inspection.reading import FrameReader
from replayring_server.snapshots import copying, parts, restore, snapshot
from tests.snapshots.comparing import check_cut
from tests.snapshots.conftest import episode


class Writer:
    """Appends so many frames in the middle of every reading of a part."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch, frames: list[int]) -> None:
        self._ring = store.get("ring")
        self._frames = itertools.chain(frames, itertools.repeat(frames[-1]))
        self._tags = itertools.count(1000)
        self.reads: list[int] = []
        self._due = False
        read, read_file = FrameReader.read_into, reading._Records.read_into

        def watch(reader: FrameReader, first: int, arrays: Any) -> None:
            if len(next(iter(arrays.values()))) > parts.TAIL_FRAMES:
                self._due = True
                self.reads.append(first)
            read(reader, first, arrays)

        def interrupt(file: Any, row: int, arrays: Any) -> None:
            if "c.words" in arrays and self._due:
                self._due = False
                self.append(next(self._frames))
            read_file(file, row, arrays)

        monkeypatch.setattr(FrameReader, "read_into", watch)
        monkeypatch.setattr(reading._Records, "read_into", interrupt)

    def append(self, frames: int) -> None:
        while frames > 0:
            tag = next(self._tags)
            self._ring.append(episode(tag, min(frames, 30)), Origin("fast", tag))
            frames -= 30


@pytest.mark.parametrize("frames", [[1], [10], [30], [60], [90], [180], [300], [200, 0], [0, 250]])
def test_what_is_left_is_whole_and_has_no_gap(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frames: list[int]
) -> None:
    """The ring has 300 frames in 9 parts, and 64 rows of slack."""
    head = store.get("ring").info().next_index
    Writer(store, monkeypatch, frames)
    taken = snapshot(store.data_dir, str(tmp_path / "to"), buffers=["ring"])
    (ring,) = taken.buffers
    restore(str(tmp_path / "to"), tmp_path / "back")
    found = check_cut(tmp_path / "back")
    assert ring.next_index == found.next_index
    assert ring.oldest_index == found.oldest
    if len(frames) == 1 and frames[0] <= 180:
        assert found.next_index == head, "frames of after the cut are in it"
    assert 300 - ring.overwritten == found.next_index - found.oldest > 0
    assert ("oldest" in "\n".join(taken.lines())) == bool(ring.overwritten)
    assert bool(ring.overwritten) == (frames not in ([1], [10], [30])), "lost for nothing"


def test_from_the_newest_backwards_more_is_saved(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, each part after the second would be overwritten before its turn came."""
    writer = Writer(store, monkeypatch, [60])
    taken = snapshot(store.data_dir, str(tmp_path / "to"), buffers=["ring"])
    assert 300 - taken.buffers[0].overwritten >= 60
    turn = int(np.argmin(np.diff(writer.reads) > 0)) if len(writer.reads) > 1 else 0
    assert turn >= 1, "never forwards"
    assert len(set(writer.reads)) >= len(writer.reads) - 1, "parts are read again and again"


def test_a_ring_that_turns_within_one_part_is_tried_again_and_then_given_up(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(store, monkeypatch, [500, 500, 500, 0])
    assert snapshot(store.data_dir, str(tmp_path / "to"), buffers=["ring"]).failed == {}
    restore(str(tmp_path / "to"), tmp_path / "back")
    check_cut(tmp_path / "back")
    monkeypatch.setattr(copying, "_ATTEMPTS", 2)
    writer = Writer(store, monkeypatch, [500])
    taken = snapshot(store.data_dir, str(tmp_path / "other"), buffers=["ring"])
    assert "2 times; use a faster destination" in taken.failed["buffer ring"]
    assert len(writer.reads) >= 2


def test_frames_that_were_copied_before_are_not_lost_by_being_overwritten(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not read again."""
    to = str(tmp_path / "to")
    snapshot(store.data_dir, to, buffers=["ring"])
    store.get("ring").append(episode(2000, 30))
    Writer(store, monkeypatch, [70])
    (ring,) = snapshot(store.data_dir, to, buffers=["ring"]).buffers
    assert ring.overwritten == 0
    restore(to, tmp_path / "back")
    check_cut(tmp_path / "back")
