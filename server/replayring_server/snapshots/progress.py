"""How far a copy is, in words for whoever waits for it."""

from __future__ import annotations

import time
from typing import TextIO

EVERY_S = 2.0


class Progress:
    """Says on a stream how far one copy after the other is, now and then. Not thread-safe."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """Takes the stream; without one, nothing is said."""
        self._stream = stream
        self.begin("", 0, 0)

    def begin(self, what: str, parts: int, nbytes: int) -> None:
        """Begins a copy of so many parts and bytes."""
        self._what = what
        self._parts = self._bytes = 0
        self._all_parts, self._all_bytes = parts, nbytes
        self._begun = self._said = time.monotonic()

    def advance(self, nbytes: int) -> None:
        """Counts a part of so many bytes, copied or found to be there."""
        self._parts += 1
        self._bytes += nbytes
        now = time.monotonic()
        if now - self._said >= EVERY_S or self._parts == self._all_parts:
            self._said = now
            self._say(now - self._begun)

    def _say(self, seconds: float) -> None:
        if self._stream:
            print(
                f"{self._what}: {self._bytes / 1e6:,.1f} of {self._all_bytes / 1e6:,.1f} MB, "
                f"{self._parts:,} of {self._all_parts:,} parts, {seconds:.1f} s",
                file=self._stream,
                flush=True,
            )
