"""Says in the log when the server is away and when it is back: once each, whoever noticed.

A server that is away again and again, since it is slow, would fill the log with that. So of outages
that follow each other closely only those are told that last: the first at once, the next if it
lasts for a second, then for two, four, ...; and one in ten minutes in any case, with how many were
not told. One that comes after ten good minutes is a first one.
"""

from __future__ import annotations

import logging
import math
import threading
import time

from replayring_proto.errors import ReplayRingError

_LOGGER = logging.getLogger(__name__)

_CALM_SECONDS = 600.0
_FIRST_WORTH_SECONDS = 1.0


class Outage:
    """What one client knows of its server's absence. Thread-safe.

    A connection that breaks and is made again at once is no outage: one begins with a failure and
    is certain when an attempt that was begun after that has failed as well.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._begun: float | None = None  # on the monotonic clock
        self._certain = False
        self._lines = _Lines(address)

    @property
    def certain(self) -> bool:
        """Whether the server is away, as far as is known."""
        return self._certain

    @property
    def seconds(self) -> float:
        """How long the server has been away; 0 if it is not."""
        begun = self._begun
        return 0.0 if begun is None else time.monotonic() - begun

    def failed(self, failure: ReplayRingError, begun: float) -> None:
        """Says that the server could not be reached by an attempt begun at `begun`, monotonic."""
        with self._lock:
            if self._begun is None:
                self._begin()
            elif begun >= self._begun:
                self._certain = True
            line = self._away(failure)
        _log(line)

    def silent(self, failure: ReplayRingError) -> None:
        """Says that the server gave no answer for so long that it counts as away."""
        with self._lock:
            if self._begun is None:
                self._begin()
            self._certain = True
            line = self._away(failure)
        _log(line)

    def answered(self) -> None:
        """Says that the server answered."""
        if self._begun is None:
            return
        with self._lock:
            line = self._lines.back(self.seconds) if self._certain else ""
            self._begun, self._certain = None, False
        _log(line)

    def _begin(self) -> None:
        self._begun = time.monotonic()
        self._lines.begin()

    def _away(self, failure: ReplayRingError) -> str:
        return self._lines.away(failure, self.seconds) if self._certain else ""


class _Lines:
    """What the log is to say of one server's outages; "" for nothing. Guarded by their lock."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._said = False  # of the present outage
        self._last = -math.inf  # when there was a line
        self._ended = -math.inf  # when the last outage was over
        self._worth = 0.0  # seconds for which an outage lasts that is told
        self._untold = 0
        self._untold_seconds = 0.0

    def begin(self) -> None:
        """Says that an outage begins."""
        self._said = False
        if time.monotonic() - self._ended >= _CALM_SECONDS:
            self._worth = 0.0

    def away(self, failure: ReplayRingError, seconds: float) -> str:
        """Returns what to say of a server that has been away for some seconds."""
        now = time.monotonic()
        if self._said or (seconds < self._worth and now - self._last < _CALM_SECONDS):
            return ""
        self._said, self._last = True, now
        self._worth = min(max(2 * self._worth, _FIRST_WORTH_SECONDS), _CALM_SECONDS)
        return (
            f"the server at {self._address} cannot be reached ({failure}); calls are made again "
            f"until their timeout, writers and streams until it is back{self._others()}"
        )

    def back(self, seconds: float) -> str:
        """Returns what to say of a server that is back after some seconds."""
        self._ended = time.monotonic()
        if not self._said:
            self._untold += 1
            self._untold_seconds += seconds
            return ""
        self._last = self._ended
        return f"the server at {self._address} is back after {seconds:.1f} s"

    def _others(self) -> str:
        """Returns what to say of the outages that nothing was said of."""
        count, seconds = self._untold, self._untold_seconds
        self._untold, self._untold_seconds = 0, 0.0
        if not count:
            return ""
        return (
            f"; since the last line about it, it was away {count:,} times more, for "
            f"{seconds:.1f} s in all: it is slow, or its network is"
        )


def _log(line: str) -> None:
    # That it is back is as loud as the warning before it: whoever saw that one waits for this.
    if line:
        _LOGGER.warning("%s", line)
