"""What a soak knows of the server: its resources over time, and what was promised to clients."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.support import ServerProcess

MIB = 1 << 20
WARM_UP_S = 120.0
"""Seconds of a server's life in which caches and pools fill."""

SPAN_S = 600.0
"""Seconds after that in which a slope begins to tell more than the noise."""


@dataclass(frozen=True)
class Footprint:
    """A server's resources at one moment.

    Attributes:
        at: seconds on the monotonic clock.
        total: resident bytes, mapped files included.
        anonymous: resident bytes that belong to no file: what a leak is made of.
        descriptors: open ones.
        threads: running ones.
    """

    at: float
    total: int
    anonymous: int
    descriptors: int
    threads: int

    @classmethod
    def of(cls, server: ServerProcess) -> Footprint:
        """Measures a server."""
        lines = Path(f"/proc/{server.pid}/smaps_rollup").read_text().splitlines()[1:]
        sizes = {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines}
        stats = server.stats
        with stats.oneshot():
            counts = stats.num_fds(), stats.num_threads()
        return cls(time.monotonic(), sizes["Rss"], sizes["Anonymous"], *counts)


@dataclass
class Life:
    """The footprints of one server process."""

    footprints: list[Footprint] = field(default_factory=list)

    def slope(self) -> float | None:
        """Returns the growth of anonymous memory in MiB per hour, by least squares.

        None before there is enough to tell.
        """
        began = self.footprints[0].at if self.footprints else 0.0
        seen = [f for f in self.footprints if f.at - began >= WARM_UP_S]
        if not seen or seen[-1].at - seen[0].at < SPAN_S:
            return None
        hours = np.array([f.at for f in seen]) / 3600
        return float(np.polyfit(hours - hours[0], [f.anonymous / MIB for f in seen], 1)[0])


class Ledger:
    """What the workers have said. Thread-safe.

    Attributes:
        counts: of episodes, rows, torn rows, versions and more.
        errors: what should not have happened, in words.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.errors: list[str] = []
        self._guard = threading.Lock()
        self._head = 0  # acknowledged frames end here, at least
        self._stored: deque[tuple[int, int, int]] = deque(maxlen=300)

    def take(self, word: str, content: object) -> None:
        """Takes what a worker said."""
        with self._guard:
            if word == "error":
                self.errors.append(str(content))
            elif word == "stored" and isinstance(content, list):
                tag, index, frames = content
                self.counts["episodes"] += 1
                self.counts["frames"] += frames
                self._head = max(self._head, index + frames)
                self._stored.append((tag, index, frames))
            elif word == "rows" and isinstance(content, list):
                self.counts["rows"] += content[0]
                self.counts["torn"] += content[1]
            else:
                self.counts[word] += 1

    def promised(self) -> tuple[int, list[tuple[int, int, int]]]:
        """Returns where acknowledged frames end, and the newest episodes: tag, index, frames."""
        with self._guard:
            return self._head, list(self._stored)
