"""Waiting, on the event loop, for something named to change."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

# Those who wait look again this often at most, however fast things change: a fast actor must not
# make sixty waiting learners look sixty times for each of its episodes.
_PAUSE_S = 0.05


class Watch:
    """One who waits for changes of one thing. Belongs to one event loop; waits cost no thread."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._looked = asyncio.get_running_loop().time()

    def notify(self) -> None:
        """Says that there was a change."""
        self._changed.set()

    async def change(self) -> None:
        """Returns when there was a change since this watch began or this returned last."""
        await self._changed.wait()
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._looked + _PAUSE_S - loop.time()))
        self._looked = loop.time()
        self._changed.clear()


class Changes:
    """Wakes those who wait for something to change. Belongs to one event loop.

    Whoever waits for a condition first begins to watch, then checks the condition, and if it does
    not hold awaits a change: none in between is missed. Nothing is kept of what nobody watches,
    as names are whatever peers like.
    """

    def __init__(self) -> None:
        self._watches: dict[Hashable, set[Watch]] = {}

    def notify(self, key: Hashable) -> None:
        """Wakes everybody who waits for a change of `key`."""
        for watch in self._watches.get(key, ()):
            watch.notify()

    @contextmanager
    def watch(self, key: Hashable) -> Iterator[Watch]:
        """Watches `key` within the context."""
        watch = Watch()
        watches = self._watches.setdefault(key, set())
        watches.add(watch)
        try:
            yield watch
        finally:
            watches.discard(watch)
            if not watches and self._watches.get(key) is watches:
                del self._watches[key]
