"""Stopping without waiting for those who merely wait.

A learner's stream, an actor between episodes, a watcher of parameters: such calls last for weeks. A
server that is told to stop ends them at once and leaves its grace to calls that are at work.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from replayring_proto.errors import ServerUnavailableError


class Drain:
    """Knows which calls are waiting. Belongs to one event loop."""

    def __init__(self) -> None:
        self.stopping = False
        self._waiting: set[asyncio.Task[Any]] = set()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Marks the running call as one that waits; when the server stops, it is cancelled there.

        Raises:
            ServerUnavailableError: the server is stopping.
        """
        if self.stopping:
            raise unavailable()
        task = asyncio.current_task()
        assert task is not None
        self._waiting.add(task)
        try:
            yield
        finally:
            self._waiting.discard(task)

    async def requests(
        self, requests: AsyncIterator[bytes], at_work: Callable[[], bool] = lambda: False
    ) -> AsyncIterator[bytes]:
        """Yields a call's requests; the call counts as waiting in between, unless `at_work`."""
        while True:
            try:
                if at_work():
                    message = await anext(requests)
                else:
                    with self.waiting():
                        message = await anext(requests)
            except StopAsyncIteration:
                return
            yield message

    def stop(self) -> None:
        """Ends all calls that wait, now and from now on."""
        self.stopping = True
        for task in self._waiting:
            task.cancel()


def unavailable() -> ServerUnavailableError:
    """Returns the error that calls end with when the server stops."""
    return ServerUnavailableError("the server is stopping; try again when it is back")
