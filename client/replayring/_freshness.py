"""How stale a batch may be when it is handed out.

Counts in frames, as the ring does: a batch is as stale as frames were added since it was drawn.
"""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from replayring._signals import WORKERS, outcome
from replayring_proto.errors import ClosedError

# How old the word on the buffer may be. Asking is a round trip: a few in a thousand of a learner's
# time if it is done this often, and too much if it is done for every batch.
_LOOK_SECONDS = 0.1


class Freshness:
    """Tells which batches are fresh enough. Thread-safe: losing a race costs a question.

    Attributes:
        timeout: seconds to wait for one that is.
    """

    def __init__(self, ask: Callable[[], int], max_staleness_frames: int, timeout: float) -> None:
        """Sets the bound.

        Args:
            ask: returns how many frames were ever added.
            max_staleness_frames: frames that may have been added since a batch was drawn.
            timeout: seconds to wait for a batch that is fresh enough.
        """
        self.timeout = timeout
        self._ask = ask
        self._most = max_staleness_frames
        self._added = 0
        self._asked = -math.inf
        self._closed = False
        self._waits: set[queue.SimpleQueue[tuple[Any, BaseException | None]]] = set()

    def look(self) -> None:
        """Asks again, if the last answer is too old. To be called before a batch is taken.

        Raises:
            ClosedError: this was closed, before or meanwhile.
            Exception: what asking raised.
        """
        if time.monotonic() - self._asked >= _LOOK_SECONDS:
            self._added = self._answer()
            self._asked = time.monotonic()

    def close(self) -> None:
        """Wakes who waits for an answer. Callable from any thread, and again."""
        self._closed = True
        for answers in list(self._waits):
            answers.put((None, ClosedError("this iteration was closed")))

    def _answer(self) -> int:
        """Asks, elsewhere: nothing but its time ends a question, and who waits is to be woken."""
        answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self._waits.add(answers)
        try:
            if self._closed:
                raise ClosedError("this iteration was closed")
            WORKERS.begin(lambda: partial(answers.put, outcome(self._ask)))
            answer, error = answers.get()
        finally:
            self._waits.discard(answers)
        if error is not None:
            try:
                raise error
            finally:
                del error  # see `Workers.run`
        added: int = answer
        return added

    def allows(self, next_index: int | None) -> bool:
        """Returns whether a batch that was drawn from that many frames is fresh enough."""
        return next_index is None or self._added - next_index <= self._most
