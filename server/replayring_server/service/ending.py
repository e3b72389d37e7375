"""Ending a call from outside, so that its peer is told why."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from replayring_proto.errors import ReplayRingError


class Ending:
    """Ends the call of the task that makes this. Belongs to one event loop.

    Attributes:
        reason: why the call was ended where it waited, if it was.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = asyncio.current_task()
        self._writing = False
        self._last_words: ReplayRingError | None = None
        self.reason: ReplayRingError | None = None

    async def write(self, context: grpc.aio.ServicerContext[Any, Any], message: Any) -> None:
        """Sends a reply. Afterwards comes `check`."""
        self._writing = True
        await context.write(message)
        self._writing = False

    def check(self) -> None:
        """Checks that the call is not to end now.

        Raises:
            ReplayRingError: it is, for this reason.
        """
        if self._last_words is not None:
            raise self._last_words

    def now(self, error: ReplayRingError) -> None:
        """Ends the call where it waits; its peer gets `error`."""
        if self.reason is None and self._task is not None:
            self.reason = error
            self._task.cancel()

    def gently(self, error: ReplayRingError) -> None:
        """Ends the call where it waits, or when the message on its way has been sent.

        Before that gRPC takes no status: the peer, if it does read, would never be answered.
        """
        if self._writing:
            self._last_words = error
        else:
            self.now(error)
