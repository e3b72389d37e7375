"""Exactly-once goes on: what is in the snapshot is recognised, what is not is stored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replayring_proto import layout
from replayring_proto.errors import SequenceReusedError
from replayring_server.engine import Origin, Store
from replayring_server.snapshots import restore, snapshot
from replayring_server.snapshots.source import Source
from tests.snapshots.conftest import SPEC, episode

SMALL = replace(SPEC, capacity=5)
"""69 rows, and as many records and writers."""


def test_a_retry_is_recognised_if_the_snapshot_has_the_episode(
    store: Store, tmp_path: Path
) -> None:
    ring = store.get("ring")
    snapshot(store.data_dir, str(tmp_path / "to"))
    known = ring.append(episode(60, 1 + 60 * 7 % 23), Origin("w0", 60))
    ring.append(episode(61, 5), Origin("w1", 61))
    restore(str(tmp_path / "to"), tmp_path / "back")
    with Store(tmp_path / "back") as back:
        assert back.get("ring").append(episode(60, 1 + 60 * 7 % 23), Origin("w0", 60)) == known
        assert known.duplicate
        with pytest.raises(SequenceReusedError, match="used sequence 60 before"):
            back.get("ring").append(episode(7, 7), Origin("w0", 60))
        again = back.get("ring").append(episode(61, 5), Origin("w1", 61))
        assert not again.duplicate
        assert (again.index, again.episode_index) == (known.index + known.num_frames, 60)


def test_the_last_episode_of_a_quiet_writer_is_known_beyond_the_log(tmp_path: Path) -> None:
    with Store(tmp_path / "data") as store:
        ring, _ = store.create("ring", SMALL)
        first = ring.append(episode(1, 2), Origin("quiet", 1))
        for tag in range(2, 100):
            ring.append(episode(tag, 1), Origin("loud", tag))
        snapshot(store.data_dir, str(tmp_path / "to"))
    restore(str(tmp_path / "to"), tmp_path / "back")
    with Store(tmp_path / "back") as back:
        retried = back.get("ring").append(episode(1, 2), Origin("quiet", 1))
        assert (retried.duplicate, retried.index) == (True, first.index)


def test_a_full_table_keeps_the_newest_writers(tmp_path: Path) -> None:
    """More writers than places, among the table and the log together."""
    with Store(tmp_path / "data") as store:
        ring, _ = store.create("ring", SMALL)
        places = layout.writer_records(SMALL.capacity)
        for tag in range(1, 2 * places):
            ring.append(episode(tag, 1), Origin(f"w{tag}", tag))
        snapshot(store.data_dir, str(tmp_path / "to"))
    restore(str(tmp_path / "to"), tmp_path / "back")
    with Store(tmp_path / "back") as back:
        for tag in range(places, 2 * places):
            assert back.get("ring").append(episode(tag, 1), Origin(f"w{tag}", tag)).duplicate


@pytest.mark.parametrize("when", range(4))
def test_records_are_of_the_cut_whenever_writers_come_in_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: int
) -> None:
    """An append before each of the readings of which a cut consists, and after them."""
    with Store(tmp_path / "data") as store:
        ring, _ = store.create("ring", SMALL)
        for tag in range(1, 100):
            ring.append(episode(tag, 1), Origin(f"w{tag % 3}", tag))
        real, calls = Source._ends, 0

        def ends(self: Source) -> Any:
            nonlocal calls
            if calls == when:
                for tag in range(100, 107):
                    ring.append(episode(tag, 1), Origin(f"w{tag % 3}", tag))
            calls += 1
            return real(self)

        monkeypatch.setattr(Source, "_ends", ends)
        with Source(tmp_path / "data" / "ring") as source:
            cut = source.cut()
    assert cut.episodes == (106 if when < 2 else 99)
    log, writers = cut.records()
    assert writers["episode_index"].tolist() == list(range(cut.episodes - 3, cut.episodes))
    assert log["episode_index"].max() == cut.episodes - 1
    # What the log lost while it was read is the oldest.
    numbers = log["episode_index"]
    assert (np.diff(numbers) == 1).all()
    assert len(numbers) >= layout.episode_records(SMALL.capacity) - 7


def test_a_log_that_moves_on_too_fast_is_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(tmp_path / "data") as store:
        ring, _ = store.create("ring", SMALL)
        ring.append(episode(1, 1), Origin("w", 1))
        real, calls = Source._ends, 0

        def ends(self: Source) -> Any:
            nonlocal calls
            if calls == 1:
                for tag in range(2, 200):
                    ring.append(episode(tag, 1), Origin("w", tag))
            calls += 1
            return real(self)

        monkeypatch.setattr(Source, "_ends", ends)
        with Source(tmp_path / "data" / "ring") as source:
            cut = source.cut()
    assert (cut.episodes, calls) == (199, 6)
