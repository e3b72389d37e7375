"""The threads that write to the disk before appends would have to wait for it."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from replayring_server.engine.buffer import Buffer

logger = logging.getLogger(__name__)

INTERVAL_S = 1.0

# Disks take several syncs in the time of one; with many buffers a round must not last much longer.
_AT_ONCE = 8


class Syncer:
    """Syncs buffers once a second, and renews reservations on demand, until stopped.

    The first keeps the promise of durability "interval": at most about a second is lost. The second
    has a thread of its own, as a sync may take long.
    """

    def __init__(self, buffers: Callable[[], Iterable[Buffer]]) -> None:
        """Starts the threads.

        Args:
            buffers: returns the buffers open at present.
        """
        self._buffers = buffers
        self._stopping = threading.Event()
        self._running_out: SimpleQueue[Buffer | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=target, name=f"replayring-{name}", daemon=True)
            for name, target in (("sync", self._sync), ("reserve", self._reserve))
        ]
        for thread in self._threads:
            thread.start()

    def renew(self, buffer: Buffer) -> None:
        """Has a buffer's reservation renewed soon. Called by the buffer, from any thread."""
        self._running_out.put(buffer)

    def stop(self) -> None:
        """Ends the threads; what is under way is finished. May be called again."""
        self._stopping.set()
        self._running_out.put(None)
        for thread in self._threads:
            thread.join()

    def _sync(self) -> None:
        due = time.monotonic() + INTERVAL_S
        with ThreadPoolExecutor(_AT_ONCE, "replayring-sync-one") as threads:
            while not self._stopping.wait(max(due - time.monotonic(), 0)):
                due = time.monotonic() + INTERVAL_S
                try:
                    list(threads.map(_sync_one, self._buffers()))
                except Exception:  # no thread can be started, say; later rounds must come
                    logger.exception("not every buffer was synced; the next round is due")

    def _reserve(self) -> None:
        while (buffer := self._running_out.get()) is not None and not self._stopping.is_set():
            with contextlib.suppress(OSError):
                buffer.renew_reservation()
            del buffer  # which may be deleted while this waits for the next


def _sync_one(buffer: Buffer) -> None:
    if buffer.spec.durability == "interval":
        with contextlib.suppress(OSError):  # the buffer has told its store
            buffer.sync()
