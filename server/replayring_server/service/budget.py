"""Memory for packs on their way: who wants some waits its turn until there is room."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque


class Budget:
    """A number of bytes, given out in the order of asking. Belongs to one event loop.

    Nobody overtakes: a large request is not starved by small ones that would still fit. Whoever
    holds some must never wait for more, or two could wait for each other.

    Attributes:
        nbytes: how many there are in all.
        free: how many of them nobody holds.
    """

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.free = nbytes
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def missing(self) -> int:
        """Bytes that have to be given back before the first who waits is served."""
        return self._queue[0][0] - self.free if self._queue else 0

    @property
    def empty(self) -> bool:
        """Whether nobody holds any."""
        return self.free == self.nbytes

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._queue)

    async def take(self, nbytes: int) -> Hold:
        """Returns a hold on that much, at most all there is, once there is room."""
        if nbytes and (self._queue or nbytes > self.free):
            await self._wait(nbytes)
        else:
            self.free -= nbytes
        return Hold(self, nbytes)

    async def _wait(self, nbytes: int) -> None:
        turn = asyncio.get_running_loop().create_future()
        entry = (nbytes, turn)
        self._queue.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.give_back(nbytes)  # granted in the very moment of giving up
                raise
            with contextlib.suppress(ValueError):  # it was passed over before this got to run
                self._queue.remove(entry)
            self._serve()  # it may have been the one that the others waited for
            raise

    def give_back(self, nbytes: int) -> None:
        """Takes back what was given out, and serves who now has room."""
        self.free += nbytes
        self._serve()

    def _serve(self) -> None:
        while self._queue:
            nbytes, turn = self._queue[0]
            if not turn.cancelled():
                if nbytes > self.free:
                    return
                self.free -= nbytes
                turn.set_result(None)
            self._queue.popleft()


class Hold:
    """Some bytes of a budget.

    Attributes:
        budget: what they are of.
        nbytes: how many; 0 once they are given back.
    """

    def __init__(self, budget: Budget, nbytes: int) -> None:
        self.budget = budget
        self.nbytes = nbytes

    def release(self) -> None:
        """Gives them back. Calling it again does nothing."""
        nbytes, self.nbytes = self.nbytes, 0
        self.budget.give_back(nbytes)
