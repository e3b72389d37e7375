"""How long a call may take, and when it is made again."""

from __future__ import annotations

import random
import time

from replayring._channel import Channel, Stub
from replayring_proto.errors import (
    AccessDeniedError,
    DeadlineError,
    ReplayRingError,
    ServerError,
    ServerUnavailableError,
    StorageError,
    TLSError,
)

LASTING_SECONDS = 600.0
"""Deadline of one call of a stream or a watch; it is then made again, unseen by the caller."""

LOCKED_OUT = (AccessDeniedError, TLSError, StorageError)
"""Failures that are about who calls and how, not about what was asked for: no or another token, a
certificate, a file with one of these. Somebody has to do something about them."""

_ATTEMPTS = 3  # where it is not known whose failure it is
_LONGEST_SECONDS = 30 * 86_400.0  # gRPC knows no infinite timeout
_FIRST_DELAY_SECONDS = 0.05
_LAST_DELAY_SECONDS = 0.5  # what is back is found within this; see `_channel` for the network


class BackOff:
    """Delays between attempts: exponential, with full jitter. Not thread-safe."""

    def __init__(self) -> None:
        self._failures = 0
        self._unclear = 0

    def reset(self) -> None:
        """Begins anew, after an attempt that got somewhere."""
        self._failures = self._unclear = 0

    def allows(self, failure: ReplayRingError) -> bool:
        """Whether to try again after a failure that may be nobody's word on what was asked for.

        HTTP/2 proxies, and gRPC itself where a stream is reset, say INTERNAL or UNKNOWN of a broken
        connection, too. Where it stays so, it is meant.
        """
        if isinstance(failure, ServerError):
            self._unclear += 1
        return isinstance(failure, ServerError) and self._unclear < _ATTEMPTS

    def delay(self) -> float:
        """Returns the seconds to wait before the next attempt."""
        most = min(_FIRST_DELAY_SECONDS * 2**self._failures, _LAST_DELAY_SECONDS)
        self._failures = min(self._failures + 1, 16)
        return random.uniform(0, most)


class Patience:
    """How long one call may take over all its attempts. Not thread-safe.

    Attributes:
        what: the call, for messages: "sample from 'online'".
        timeout: seconds that the caller gave.
        attempts: attempts begun.
        abandoned: whether the caller is gone; what is going on is to end.
    """

    def __init__(self, what: str, timeout: float) -> None:
        self.what = what
        self.timeout = timeout
        self.attempts = 0
        self.abandoned = False
        self._stub: Stub | None = None
        self._until = time.monotonic() + timeout
        self._back_off = BackOff()

    def remaining(self) -> float:
        """Returns the seconds left, at least 0."""
        return max(0.0, self._until - time.monotonic())

    def call_timeout(self) -> float:
        """Returns the deadline of one attempt, in seconds from now."""
        return min(self.remaining(), _LONGEST_SECONDS)

    def progress(self) -> None:
        """Says that the server did something: the next failure is a first one."""
        self._back_off.reset()

    def begin(self, stub: Stub) -> None:
        """Says that an attempt begins, with a call of `stub`."""
        self.attempts += 1
        self._stub = stub
        if self.abandoned:
            stub.cancel()

    def abandon(self) -> None:
        """Ends the attempt that is going on, and has no other made. Callable from any thread."""
        self.abandoned = True
        if self._stub is not None:
            self._stub.cancel()

    def wait(self, channel: Channel) -> bool:
        """Waits before the next attempt; False when there is no time left for one."""
        channel.wait_closed(min(self._back_off.delay(), self.remaining()))
        return self.remaining() > 0


def passing(failure: ReplayRingError) -> bool:
    """Whether a failure may be gone at the next attempt."""
    return isinstance(failure, (ServerUnavailableError, DeadlineError))
