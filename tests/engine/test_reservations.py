"""How far ahead of appends rows are reserved: as far as the disk needs, and no further for long."""

from __future__ import annotations

import numpy as np
import pytest

from replayring_proto import layout
from replayring_server.engine.cursor import Checkpoint, Cursor

CAPACITY = 1000
SLACK = layout.physical_rows(CAPACITY) - CAPACITY


class Disk:
    """A cursor, to which frames are appended while it syncs."""

    def __init__(self) -> None:
        page = np.zeros(layout.CURSOR_BYTES, np.uint8)
        Cursor.format(page, Checkpoint())
        self.appended = 0  # during each sync
        self.seconds = 1.0  # that it takes to append a frame
        self.clock = 0.0
        self.cursor = Cursor(page, CAPACITY, self._sync, lambda: self.clock)

    def _sync(self) -> None:
        if hasattr(self, "cursor"):
            self._append(self.appended)

    def _append(self, frames: int) -> None:
        self.cursor.counters.head += frames
        self.clock += frames * self.seconds

    def renew(self) -> int:
        """Appends until it is time to renew, renews, and returns how far beyond the head then."""
        counters = self.cursor.counters
        while not self.cursor.running_out:
            self._append(1)
        begin = counters.head
        self.cursor.renew()
        return self.cursor.durable.reserved - begin

    def reserved(self) -> int:
        """Returns how far beyond the head rows are reserved."""
        return self.cursor.durable.reserved - self.cursor.counters.head


def test_without_haste_one_slack_is_reserved() -> None:
    disk = Disk()
    disk.seconds = 0.02 / SLACK
    assert [disk.renew() for _ in range(5)] == [SLACK] * 5


def test_appends_that_outrun_a_sync_have_more_reserved_but_no_more_than_half_of_the_ring() -> None:
    disk = Disk()
    disk.appended = 50
    disk.renew()
    assert disk.renew() == 4 * 50
    disk.appended = 400
    disk.renew()
    assert disk.renew() == CAPACITY // 2


def test_a_slow_sync_is_remembered_for_some_time() -> None:
    """The next one may be as slow, and appends would wait for it."""
    disk = Disk()
    disk.appended = 100
    disk.renew()
    disk.appended = 0
    ahead = [disk.renew() for _ in range(40)]
    assert ahead[:3] == [400, 400 * 15 // 16, 400 * 15 // 16 * 15 // 16]
    assert ahead == sorted(ahead, reverse=True)
    assert ahead[-1] == SLACK


def test_appends_that_come_fast_have_those_of_20_ms_reserved() -> None:
    """However fast syncs are: each costs the server some time."""
    disk = Disk()
    disk.seconds = 1e-4
    assert [disk.renew() for _ in range(3)][-1] == pytest.approx(200, abs=2)
    disk.seconds = 1e-5
    assert [disk.renew() for _ in range(6)][-1] == CAPACITY // 2
    disk.seconds = 1.0
    assert [disk.renew() for _ in range(60)][-1] == SLACK


def test_as_much_is_reserved_for_a_sync_of_the_ring_as_told_but_no_more_than_half_of_the_ring() -> (
    None
):
    disk = Disk()
    for told, reserved in ((SLACK + 1, SLACK + 1), (SLACK, SLACK + 1), (CAPACITY, CAPACITY // 2)):
        disk.cursor.reserve_for_sync(told)
        assert disk.reserved() == reserved


def test_at_the_end_what_was_not_used_is_given_back() -> None:
    disk = Disk()
    counters = disk.cursor.counters
    disk.cursor.reserve_for_sync(CAPACITY)
    counters.intent = counters.head = 300
    disk.cursor.release()
    assert disk.reserved() == CAPACITY // 2 - 300, "frames that no sync has covered need it"
    disk.cursor.checkpoint(300, 0, 1)
    disk.cursor.reserve_for_sync(CAPACITY)
    disk.cursor.release()
    assert disk.reserved() == SLACK
    disk.cursor.reserve_for_sync(CAPACITY)
    counters.intent = 300 + 2 * SLACK  # an append failed half-way: its rows may have changed
    disk.cursor.release()
    assert disk.reserved() == 2 * SLACK
