"""Which files are written to the disk, in what order, and what one that fails costs.

When that happens is `test_durability`'s subject, and what it is good for `test_power_loss`'s.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replayring_proto import layout
from replayring_proto.query import View
from replayring_proto.ring import Plan
from replayring_server.engine import Buffer, Origin, Store, files, syncer
from tests.engine.frames import assert_whole, checked_episode, checked_spec
from tests.support import eventually

SPEC = checked_spec(20)


class Disk:
    """Notes every sync of a file, and fails those it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.synced: list[Path] = []
        self.broken: Callable[[Path], bool] = lambda path: False
        real = files.sync_mapped

        def sync(mapped: files.Bytes, path: Path) -> None:
            if self.broken(path):
                raise OSError(5, "broken disk")
            self.synced.append(path)
            real(mapped, path)

        monkeypatch.setattr(files, "sync_mapped", sync)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def quiet_syncer(monkeypatch: pytest.MonkeyPatch) -> None:
    """No store of this test syncs by itself within the test's time."""
    monkeypatch.setattr(syncer, "INTERVAL_S", 3600.0)


def create(store: Store, name: str, durability: str) -> Buffer:
    buffer, _ = store.create(name, replace(SPEC, durability=durability))
    buffer.append(checked_episode(SPEC, 1, 3))
    return buffer


def columns_then_cursor(synced: list[Path], buffer: Buffer) -> bool:
    """Whether a sync covered every file, and the cursor last: it must not say more than they."""
    names = [str(path.relative_to(buffer.info().path)) for path in synced]
    return sorted(names) == sorted(layout.file_sizes(SPEC)) and names[-1] == layout.CURSOR


@pytest.mark.usefixtures("quiet_syncer")
def test_commit_syncs_before_it_acknowledges(store: Store, disk: Disk) -> None:
    buffer = create(store, "a", "commit")
    disk.synced.clear()
    buffer.append(checked_episode(SPEC, 2, 3))
    assert columns_then_cursor(disk.synced, buffer)


@pytest.mark.usefixtures("quiet_syncer")
def test_a_retry_of_a_committed_episode_waits_for_nothing(store: Store, disk: Disk) -> None:
    buffer, _ = store.create("a", replace(SPEC, durability="commit"))
    buffer.append(checked_episode(SPEC, 1, 3), Origin("w", 1))
    disk.synced.clear()
    assert buffer.append(checked_episode(SPEC, 1, 3), Origin("w", 1)).duplicate
    assert not disk.synced


@pytest.mark.usefixtures("quiet_syncer")
@pytest.mark.parametrize("durability", ["none", "interval"])
def test_other_appends_wait_for_no_column(store: Store, disk: Disk, durability: str) -> None:
    """Now and then for the cursor, a page, as the ring moves on."""
    buffer = create(store, "a", durability)
    for tag in range(2, 60):
        buffer.append(checked_episode(SPEC, tag, 3))
    assert {path.name for path in disk.synced} <= {layout.CURSOR}
    assert len(disk.synced) < 10


@pytest.mark.usefixtures("quiet_syncer")
@pytest.mark.parametrize("durability", ["none", "interval", "commit"])
def test_a_clean_close_syncs_everything(tmp_path: Path, disk: Disk, durability: str) -> None:
    store = Store(tmp_path)
    buffer = create(store, "a", durability)
    if durability != "commit":
        disk.synced.clear()
    store.close()
    assert columns_then_cursor(disk.synced[-len(layout.file_sizes(SPEC)) :], buffer)


@pytest.mark.usefixtures("quiet_syncer")
def test_an_episode_committed_while_the_buffer_is_closed_is_on_the_disk_when_acknowledged(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was written before the closing began, and waits for its sync after."""
    buffer, _ = store.create("a", replace(SPEC, durability="commit"))
    sync = Buffer.sync

    def overtaken(self: Buffer, until: int | None = None) -> None:
        self._closed = True  # `close` has come so far, and waits for the disk as well
        sync(self, until)

    monkeypatch.setattr(Buffer, "sync", overtaken)
    buffer.append(checked_episode(SPEC, 1, 3))
    assert buffer._cursor.durable.head == 3


@pytest.mark.usefixtures("quiet_syncer")
def test_a_deleted_buffer_is_not_synced_and_its_missing_files_are_no_failure(
    tmp_path: Path, disk: Disk
) -> None:
    told: list[int] = []
    with Store(tmp_path, on_failure=lambda: told.append(1)) as store:
        buffer = create(store, "a", "interval")
        disk.synced.clear()
        store.delete("a")
        buffer.sync()
        assert not disk.synced
    assert not told


@pytest.mark.usefixtures("quiet_syncer")
def test_appends_wait_for_no_cursor_while_as_many_are_synced_as_come_meanwhile(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk has all the columns to write by then, and would take its time for a page."""
    waits: list[int] = []
    cursor_syncs: list[Path] = []

    def sync(mapped: files.Bytes, path: Path) -> None:
        if path.name == "c.words" and len(waits) < 3:
            cursor_syncs.clear()
            for tag in range(18):
                buffer.append(checked_episode(buffer.spec, tag, 100))
            waits.append(len(cursor_syncs))
        elif path.name == layout.CURSOR:
            cursor_syncs.append(path)

    monkeypatch.setattr(files, "sync_mapped", sync)
    monkeypatch.setattr(Buffer, "renew_reservation", lambda buffer: None)  # which comes by chance
    buffer, _ = store.create("a", checked_spec(4000))
    buffer.append(checked_episode(buffer.spec, 0, 3))
    for _ in range(3):
        buffer.sync()
    assert waits[0] > 0, "of 1,800 frames, when 3 had come before: it is no test otherwise"
    assert waits[1:] == [0, 0]


def test_a_buffer_waits_for_no_other_ones_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With many of them, the last one's turn would come after many seconds."""
    together = threading.Barrier(3)

    def sync(mapped: files.Bytes, path: Path) -> None:
        if path.name == layout.SMALL:
            together.wait(60)

    with Store(tmp_path) as store:
        for name in "abc":
            create(store, name, "interval")
        with monkeypatch.context() as slow:
            slow.setattr(files, "sync_mapped", sync)
            eventually(lambda: all(b.durable_index == 3 for b in store.buffers()), "all are synced")


def test_every_buffer_is_synced_though_the_system_allows_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To sync is what keeps the promise of "interval"."""
    monkeypatch.setattr(syncer, "INTERVAL_S", 0.01)
    start, refused = threading.Thread.start, threading.Event()

    def start_others(thread: threading.Thread) -> None:
        if thread.name.startswith("replayring-sync-one"):
            refused.set()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_others)
    with Store(tmp_path) as store:
        for name in "abc":
            create(store, name, "interval")
        eventually(lambda: all(b.durable_index == 3 for b in store.buffers()), "all are synced")
        assert refused.wait(60)


@pytest.mark.parametrize("method", ["sync", "renew_reservation"])
def test_a_defect_under_one_buffer_keeps_no_other_from_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    """Nor later ones of its own."""
    monkeypatch.setattr(syncer, "INTERVAL_S", 0.01)
    monkeypatch.setattr(syncer, "_AT_ONCE", 2)
    real, calls, others = getattr(Buffer, method), [], threading.Event()

    def short(buffer: Buffer, *arguments: Any) -> None:
        calls.append(buffer.name)
        if buffer.name == "a":
            raise MemoryError("no memory left")
        real(buffer, *arguments)
        if "a" in calls:
            others.set()

    with Store(tmp_path) as store:
        with monkeypatch.context() as patch:
            patch.setattr(Buffer, method, short)
            buffers = [create(store, name, "interval") for name in "abcdef"]
            if method == "renew_reservation":
                for buffer in buffers:
                    store._syncer.renew(buffer)
            assert others.wait(60)
            eventually(lambda: set(calls) == set("abcdef"), "each has its turn")
        eventually(lambda: all(b.durable_index == 3 for b in buffers), "all are synced")
    assert "buffer 'a' could not be written to the disk" in caplog.text


# A disk that fails


@pytest.mark.usefixtures("quiet_syncer")
@pytest.mark.parametrize("name", ["c.words", layout.SMALL, "episodes", layout.CURSOR])
def test_after_an_error_of_the_disk_nothing_is_acknowledged_any_more(
    tmp_path: Path, disk: Disk, name: str
) -> None:
    """Not even when it works again: what the kernel dropped then is not there.

    The store is told once. What lives can still be read.
    """
    told: list[int] = []
    with Store(tmp_path, on_failure=lambda: told.append(1)) as store:
        buffer = create(store, "a", "commit")
        disk.broken = lambda path: path.name == name
        with pytest.raises(OSError, match="broken disk"):
            buffer.append(checked_episode(SPEC, 2, 3))
        disk.broken = lambda path: False
        for _ in range(2):
            with pytest.raises(OSError, match="stopped after an error of the disk"):
                buffer.append(checked_episode(SPEC, 3, 3))
        with pytest.raises(OSError, match="stopped after an error of the disk"):
            buffer.sync()
        assert told == [1]
        live = buffer.reader.live
        plan = Plan(buffer.spec, View())
        assert_whole(SPEC, buffer.reader.at_indices(plan, np.arange(live.start, live.end)).arrays)
        with pytest.raises(OSError, match="stopped"):
            store.close()
    assert told == [1]


@pytest.mark.usefixtures("quiet_syncer")
def test_a_buffer_whose_disk_failed_does_not_keep_the_others_from_being_closed(
    tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path)
    buffers = {name: create(store, name, "interval") for name in "abc"}
    disk.broken = lambda path: "/b/" in str(path)
    with caplog.at_level(logging.CRITICAL), pytest.raises(OSError, match="broken disk"):
        store.close()
    for name in "ac":
        assert buffers[name]._cursor.durable.head == 3
    disk.broken = lambda path: False
    with Store(tmp_path) as successor:  # and the lock is free
        assert successor.names() == ["a", "b", "c"]
