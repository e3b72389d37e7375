"""How stale a batch may be when it is handed out.

Counts in frames, as the ring does: a batch is as stale as frames were added since it was drawn.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

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

    def look(self) -> None:
        """Asks again, if the last answer is too old. To be called before a batch is taken."""
        if time.monotonic() - self._asked >= _LOOK_SECONDS:
            self._added = self._ask()
            self._asked = time.monotonic()

    def allows(self, next_index: int | None) -> bool:
        """Returns whether a batch that was drawn from that many frames is fresh enough."""
        return next_index is None or self._added - next_index <= self._most
