"""The cursor file: the live counters, and what stands for them after a power loss.

While the machine runs, the mapped counters are the truth: they survive the death of any process.
When it loses power, each page of each file is on the disk as it was at some moment since its last
sync, so counters and rows no longer fit together. What counts then is the newest of two durable
slots, written in turn, each with a checksum:

    head, low   the counters at a moment when all rows below `head` had been synced
    episodes    the number that the next episode got then
    reserved    no row of a frame at or above this `index` was touched under this slot

Rows of frames from `head` to `reserved` may have been written since, over the frames below
`reserved - P`; these are given up, and the rest of the window at `head` is whole. So an append must
not pass `reserved` before a slot with a higher one is on the disk. A new reservation reaches one
slack beyond the append that needs it: what it gives up is then what that append evicts anyway.

Another thread renews it before that, so that appends seldom wait for the disk. Where they outrun
it, it reaches as far as was appended during a few syncs, the slowest of late; and where they come
so fast that it would do little else, as far as in 20 ms. Before the disk is given all the rows to
write, and is slow to take anything else, it reaches as far as came since the last sync. After a
power loss, what would have been evicted in their time is missing as well, though never more than
half of the ring; after a clean end, nothing is.

Which of the two is the truth is told by the boot id, which changes when the machine starts, and is
cleared when the disk fails: the kernel drops what it could not write, and says so only once.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from replayring_proto import layout
from replayring_proto.errors import StorageError
from replayring_proto.ring import Counters

_SYNCS_AHEAD = 4
_SECONDS_AHEAD = 0.02

_SLOT_FORMAT = np.dtype([("words", "<i8", (5,)), ("checksum", "<u4")])


@dataclass(frozen=True)
class Checkpoint:
    """The content of a durable slot; see the module. `generation` grows with each one written."""

    generation: int = 0
    head: int = 0
    low: int = 0
    episodes: int = 0
    reserved: int = 0

    def low_after_power_loss(self, rows: int) -> int:
        """Returns the first frame of a ring of so many rows that nothing was written over since."""
        return min(max(self.low, self.reserved - rows), self.head)


class Cursor:
    """One buffer's mapped cursor file. The durable side takes a lock of its own.

    Attributes:
        counters: the live counters, as thread-safe as `Counters` says.
        restored: whether they had to be taken from a durable slot.
    """

    def __init__(
        self,
        page: npt.NDArray[np.uint8],
        capacity: int,
        sync: Callable[[], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes over a cursor file and, if the machine was restarted since, restores the counters.

        Args:
            page: the mapped file.
            capacity: of the ring.
            sync: writes the file to the disk.
            now: the clock, in seconds.

        Raises:
            StorageError: neither durable slot is whole.
        """
        self.counters = Counters(page)
        self._page = page
        self._rows = layout.physical_rows(capacity)
        self._slack = self._ahead = self._rows - capacity
        self._farthest = max(self._slack, capacity // 2)
        self._sync = sync
        self._now = now
        self._lock = threading.Lock()
        slots = [slot for slot in read_slots(page) if slot]
        if not slots:
            raise StorageError(
                "neither durable slot of the cursor is whole; restore the buffer, or delete it"
            )
        self.durable = max(slots, key=lambda slot: slot.generation)
        boot_id = layout.machine_boot_id()
        self.restored = layout.boot_id_of(page).tobytes() != boot_id
        if self.restored:
            self._restore(boot_id)
        self._renewed = now(), self.counters.head
        # The last server may have died between writing a slot and syncing it.
        sync()

    @staticmethod
    def format(page: npt.NDArray[np.uint8], standing: Checkpoint) -> None:
        """Makes a page of zeros the cursor of a ring that stands so since the machine started."""
        _write_slot(page, standing)
        counters = Counters(page)
        counters.low = standing.low
        counters.head = counters.intent = standing.head
        layout.boot_id_of(page)[:] = np.frombuffer(layout.machine_boot_id(), np.uint8)

    def reserve(self, until: int) -> None:
        """Makes it safe to touch the rows of frames below `until`. Cheap unless it must sync."""
        if until > self.durable.reserved:
            with self._lock:
                slot = self.durable
                self._put(slot.head, slot.low, slot.episodes, until)

    @property
    def running_out(self) -> bool:
        """Whether it is time to renew the reservation."""
        return self.durable.reserved - self.counters.head < self._ahead // 2

    def renew(self) -> None:
        """Reserves rows beyond the present head, unless there is enough left."""
        with self._lock:
            if self.running_out:
                slot, begin, soon = self.durable, self.counters.head, self._appended_soon()
                self._put(slot.head, slot.low, slot.episodes, begin)
                outrun = _SYNCS_AHEAD * (self.counters.head - begin)
                # A slow sync is remembered for some time: the next one may be as slow.
                lately = self._ahead * 15 // 16
                self._ahead = min(max(self._slack, outrun, soon, lately), self._farthest)

    def _appended_soon(self) -> int:
        """Returns how many frames are soon appended if all goes on as since the last renewal."""
        then, before = self._renewed
        self._renewed = now, head = self._now(), self.counters.head
        return int(_SECONDS_AHEAD * (head - before) / max(now - then, 1e-3))

    def reserve_for_sync(self, frames: int) -> None:
        """Reserves rows for so many appends while the ring is synced, or for as many as may be."""
        with self._lock:
            slot, until = self.durable, self.counters.head + min(frames, self._farthest)
            if until > slot.reserved:
                self._write(slot.head, slot.low, slot.episodes, until)

    def checkpoint(self, head: int, low: int, episodes: int) -> None:
        """Records that all rows below `head` are on the disk."""
        with self._lock:
            self._put(head, low, episodes, head)

    def release(self) -> None:
        """Gives back what no append has come to, when none will: a power loss is to cost nothing.

        What one slack holds may stay reserved: it is not above what the ring has dropped by itself.
        """
        with self._lock:
            slot = self.durable
            until = max(self.counters.intent, slot.head + self._slack)
            if slot.head == self.counters.head and until < slot.reserved:
                self._write(slot.head, slot.low, slot.episodes, until)

    def distrust(self) -> None:
        """Has the next server restore the counters, as after a power loss."""
        layout.boot_id_of(self._page)[:] = 0
        with contextlib.suppress(OSError):  # the disk has failed; maybe it takes this later
            self._sync()

    def _put(self, head: int, low: int, episodes: int, until: int) -> None:
        self._write(head, low, episodes, max(self.durable.reserved, until + self._ahead))

    def _write(self, head: int, low: int, episodes: int, reserved: int) -> None:
        slot = Checkpoint(self.durable.generation + 1, head, low, episodes, reserved)
        _write_slot(self._page, slot)
        self._sync()
        self.durable = slot

    def _restore(self, boot_id: bytes) -> None:
        """Makes the counters what the durable slot says. If interrupted, it is done again.

        The slot is written anew first: what had been reserved beyond `head` is given up for good,
        in `low`, and counts no more for what is appended from here on. No reader lives through a
        power loss, so `intent` may fall.
        """
        slot, counters = self.durable, self.counters
        layout.lineage_of(self._page)[:] = np.frombuffer(os.urandom(16), np.uint8)
        low = slot.low_after_power_loss(self._rows)
        self._write(slot.head, low, slot.episodes, slot.head + self._slack)
        counters.low = low
        counters.head = counters.intent = slot.head
        layout.boot_id_of(self._page)[:] = np.frombuffer(boot_id, np.uint8)


def read_slots(page: npt.NDArray[np.uint8]) -> tuple[Checkpoint | None, Checkpoint | None]:
    """Returns both durable slots of a cursor file, None for one that is not whole."""
    return _read_slot(page, 0), _read_slot(page, 1)


def _read_slot(page: npt.NDArray[np.uint8], parity: int) -> Checkpoint | None:
    encoded = _slot_at(page, parity)
    words = encoded["words"][0].copy()  # a server may be writing it: what is checked is what counts
    return Checkpoint(*words.tolist()) if encoded["checksum"][0] == _checksum(words) else None


def _write_slot(page: npt.NDArray[np.uint8], slot: Checkpoint) -> None:
    encoded = _slot_at(page, slot.generation % 2)
    encoded["words"][0] = astuple(slot)
    encoded["checksum"][0] = _checksum(encoded["words"][0])


def _slot_at(page: npt.NDArray[np.uint8], parity: int) -> npt.NDArray[Any]:
    start = layout.SLOT_OFFSETS[parity]
    return page[start : start + _SLOT_FORMAT.itemsize].view(_SLOT_FORMAT)


def _checksum(words: npt.NDArray[Any]) -> int:
    # Seeded, so that a page of zeros is not a slot.
    return zlib.crc32(words.tobytes(), 0x5EED)
