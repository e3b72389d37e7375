"""A writer and a reader whose steps alternate as a test says, each in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable

from tests.engine.rings import MemoryRing


class Stopped(Exception):
    """The test is over; the writer's thread ends."""


class Writer:
    """Appends episodes to a ring in a thread that moves only when, and as far as, it is told to.

    A context manager; leaving it ends the thread.
    """

    def __init__(self, ring: MemoryRing, lengths: Callable[[], int]) -> None:
        """Takes the ring's writing side; `lengths` returns the frames of the next episode."""
        self._ring = ring
        self._lengths = lengths
        self._permits = threading.Semaphore(0)
        self._arrivals = threading.Semaphore(0)
        self._steps = 0  # that may be taken without standing still
        self._stopping = False
        self._thread = threading.Thread(target=self._run)

    def advance(self, steps: int) -> None:
        """Lets the writer take so many steps, and returns when it stands before the next one."""
        if steps:
            self._steps = steps - 1
            self._permits.release()
            self._arrivals.acquire()

    def __enter__(self) -> Writer:
        self._ring.on_write = self._before_step
        self._thread.start()
        self._arrivals.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._permits.release()
        self._thread.join()
        self._ring.on_write = lambda step: None

    def _before_step(self, step: str) -> None:
        if threading.current_thread() is not self._thread or step.startswith("read"):
            return
        if self._steps:
            self._steps -= 1
            return
        self._arrivals.release()
        self._permits.acquire()
        if self._stopping:
            raise Stopped

    def _run(self) -> None:
        try:
            while True:
                self._ring.append(self._lengths())
        except Stopped:
            pass
