"""The threads that write to the disk before appends would have to wait for it."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
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
        with ThreadPoolExecutor(_AT_ONCE - 1, "replayring-sync-one") as helpers:
            while not self._stopping.wait(max(due - time.monotonic(), 0)):
                due = time.monotonic() + INTERVAL_S
                _sync_all(deque(self._buffers()), helpers)

    def _reserve(self) -> None:
        while (buffer := self._running_out.get()) is not None and not self._stopping.is_set():
            with _logged(buffer):
                buffer.renew_reservation()
            del buffer  # which may be deleted while this waits for the next


def _sync_all(due: deque[Buffer], helpers: ThreadPoolExecutor) -> None:
    """Syncs buffers, several at a time; all of them, though no thread can be started for it."""
    helping = []
    with contextlib.suppress(RuntimeError):  # the system allows no more threads: this one does it
        for _ in range(min(_AT_ONCE, len(due)) - 1):
            helping.append(helpers.submit(_sync_next, due))
    _sync_next(due)
    wait(helping)


def _sync_next(due: deque[Buffer]) -> None:
    """Syncs one buffer after the other, until none is left for another thread to take."""
    with contextlib.suppress(IndexError):
        while True:
            buffer = due.popleft()
            if buffer.spec.durability == "interval":
                with _logged(buffer):
                    buffer.sync()


@contextlib.contextmanager
def _logged(buffer: Buffer) -> Iterator[None]:
    """Logs what goes wrong with one buffer, as others and later rounds must have their turn."""
    try:
        yield
    except OSError:
        pass  # the buffer has told its store
    except Exception:
        logger.exception("buffer %r could not be written to the disk; trying again", buffer.name)
