"""Waiting, on the event loop, for something named to change."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Hashable


class Changes:
    """Counts changes and wakes those who wait. Belongs to one event loop; waits cost no thread.

    Whoever waits for a condition reads `count`, checks the condition, and if it does not hold
    awaits `beyond(count)`: a change in between is never missed.
    """

    def __init__(self) -> None:
        self._counts: defaultdict[Hashable, int] = defaultdict(int)
        self._waiting: defaultdict[Hashable, set[asyncio.Future[None]]] = defaultdict(set)

    def notify(self, key: Hashable) -> None:
        """Counts a change of `key` and wakes everybody who waits for one."""
        self._counts[key] += 1
        for future in self._waiting.pop(key, ()):
            if not future.done():
                future.set_result(None)

    def count(self, key: Hashable) -> int:
        """Returns how often `key` has changed so far."""
        return self._counts.get(key, 0)

    async def beyond(self, key: Hashable, count: int) -> None:
        """Returns when `key` has changed more often than `count` times."""
        while self.count(key) <= count:
            future = asyncio.get_running_loop().create_future()
            self._waiting[key].add(future)
            try:
                await future
            finally:
                self._forget(key, future)

    def _forget(self, key: Hashable, future: asyncio.Future[None]) -> None:
        """Keeps nothing of one that was woken or gave up; a key may be any name a peer likes."""
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.discard(future)
            if not waiting:
                del self._waiting[key]
