"""The thread that keeps the promise of durability "interval": at most about a second is lost."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable

from replayring_server.engine.buffer import Buffer

INTERVAL_S = 1.0


class Syncer:
    """Syncs buffers once a second from a thread of its own, until stopped."""

    def __init__(self, buffers: Callable[[], Iterable[Buffer]]) -> None:
        """Starts the thread.

        Args:
            buffers: returns the buffers open at present.
        """
        self._buffers = buffers
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replayring-sync", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; a sync under way is finished. May be called again."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL_S):
            for buffer in self._buffers():
                if buffer.spec.durability == "interval":
                    with contextlib.suppress(OSError):  # the buffer has told its store
                        buffer.sync()
