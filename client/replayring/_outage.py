"""Says in the log when the server is away and when it is back: once each, whoever noticed."""

from __future__ import annotations

import logging
import threading
import time

from replayring_proto.errors import ReplayRingError

_LOGGER = logging.getLogger(__name__)


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
                self._begun = time.monotonic()
            if self._certain or begun < self._begun:
                return
            self._certain = True
        self._say(failure)

    def silent(self, failure: ReplayRingError) -> None:
        """Says that the server gave no answer for so long that it counts as away."""
        with self._lock:
            if self._certain:
                return
            self._begun = self._begun or time.monotonic()
            self._certain = True
        self._say(failure)

    def _say(self, failure: ReplayRingError) -> None:
        _LOGGER.warning(
            "the server at %s cannot be reached (%s); calls are made again until their timeout, "
            "writers and streams until it is back",
            self._address,
            failure,
        )

    def answered(self) -> None:
        """Says that the server answered."""
        if self._begun is None:
            return
        with self._lock:
            seconds, certain = self.seconds, self._certain
            self._begun, self._certain = None, False
        if certain:
            # As loud as the warning before it: whoever saw that one waits for this.
            _LOGGER.warning("the server at %s is back after %.1f s", self._address, seconds)
