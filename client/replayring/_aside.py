"""A thread that does work for another, piece by piece and in order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_JOIN_SECONDS = 5.0


class Aside:
    """A thread of one's own, from the first piece of work to `close`. Thread-safe.

    No executor of Python's: who asks one for an outcome takes a lock in several steps, of which
    Ctrl-C leaves it held (see `_signals`). The thread would wait for it for ever, and with it the
    end of the process.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._orders: queue.SimpleQueue[tuple[Callable[[], Any], Any] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def begin(self, work: Callable[[], T]) -> queue.SimpleQueue[T]:
        """Returns where the outcome will be of work that raises nothing."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            thread.start()
            self._thread = thread
        outcome: queue.SimpleQueue[T] = queue.SimpleQueue()
        self._orders.put((work, outcome))
        return outcome

    def close(self) -> None:
        """Ends the thread, once all that was begun is done, and waits for that, for a bounded time.

        A thread that is in the middle of torch's code when the interpreter ends aborts the process.
        """
        self._orders.put(None)
        if self._thread not in (None, threading.current_thread()):
            self._thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        while (order := self._orders.get()) is not None:
            work, outcome = order
            outcome.put(work())
            del order, work, outcome  # not to be kept alive while waiting for more
