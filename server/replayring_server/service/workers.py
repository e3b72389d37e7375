"""Where engine calls run: short ones on the event loop, long ones on a few threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

# Copying this much takes about as long as handing a call to a thread and back.
INLINE_BYTES = 256 << 10
_THREADS = 4


class Workers:
    """A few threads for engine calls. Close it when no call is in flight any more."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="engine")

    async def run(self, call: Callable[[], T], nbytes: int | None = None) -> T:
        """Runs an engine call; on the loop itself if it moves few bytes and cannot block.

        Args:
            call: the call.
            nbytes: bytes that it moves; None if it may block.
        """
        if nbytes is not None and nbytes <= INLINE_BYTES:
            return call()
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def change(self, call: Callable[[], T], then: Callable[[], None]) -> T:
        """Runs an engine call that changes something, and `then` when it has ended.

        Both happen even if the caller gives up meanwhile: what is stored is stored, and whoever
        waits for it must hear of it.
        """
        work = asyncio.get_running_loop().run_in_executor(self._threads, call)

        def tell(done: asyncio.Future[T]) -> None:
            if not done.cancelled():
                done.exception()  # so that asyncio does not call it unseen if nobody waits
            then()

        work.add_done_callback(tell)
        try:
            return await asyncio.shield(work)
        finally:
            # An error that `work` holds would hold this frame, and this frame `work`.
            del work

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown()
