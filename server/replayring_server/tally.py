"""What is counted while the server works: plain numbers, bumped where things happen.

Owns the counters that cannot be derived from the files. Knows nothing of who reads them, neither
Prometheus nor gRPC. To count costs well below a microsecond, as it is done for every batch; whoever
reads copies first and thinks afterwards.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from replayring_proto.server_status import Durations, WriterStatus

# From a small batch, drawn in tens of microseconds, to a sync that a slow disk takes its time for.
_BOUNDS_S = (
    *(0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0),
)

_QUIET_BOUNDS_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)

FORGOTTEN_AFTER_S = 600.0
"""Quiet time after which a writer without a call is no longer reported: it has left."""

MAX_WRITERS = 4096
"""Writers of one buffer that are remembered; beyond it, the one that was quiet longest goes."""


class Stopwatch:
    """How long something took, all times that it happened.

    One thread at a time may add; reading takes no lock.
    """

    def __init__(self, bounds_s: tuple[float, ...] = _BOUNDS_S) -> None:
        self._bounds_s = bounds_s
        self._counts = [0] * (len(bounds_s) + 1)
        self._sum_s = 0.0

    def add(self, seconds: float) -> None:
        """Says that it took so long once more."""
        self._counts[bisect_left(self._bounds_s, seconds)] += 1
        self._sum_s += seconds

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measures the block, if it succeeds."""
        begun = time.perf_counter()
        yield
        self.add(time.perf_counter() - begun)

    def durations(self) -> Durations:
        """Returns what was measured so far."""
        return Durations(self._bounds_s, tuple(self._counts), self._sum_s)


class _Writer:
    __slots__ = ("heard", "sequence")

    def __init__(self, heard: float) -> None:
        self.heard = heard
        self.sequence = 0


class Writers:
    """Who writes to one buffer, and since when each has been quiet. Belongs to one event loop."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        # By recency, the quietest first: dicts keep order and whoever is heard moves to the end.
        self._writers: dict[str, _Writer] = {}
        self._calls: Counter[str] = Counter()  # of those that have any, forgotten or not

    def joined(self, writer_id: str) -> None:
        """Says that a writer has opened a call. That is no news of it, unless it is a new one."""
        if writer_id not in self._writers:
            self._heard(writer_id)
        self._calls[writer_id] += 1

    def left(self, writer_id: str) -> None:
        """Says that a call of a writer that joined has ended."""
        self._calls[writer_id] -= 1
        if not self._calls[writer_id]:
            del self._calls[writer_id]

    def acknowledged(self, writer_id: str, sequence: int) -> None:
        """Says that an episode was stored, or recognised as stored before."""
        writer = self._heard(writer_id)
        writer.sequence = max(writer.sequence, sequence)

    def statuses(self) -> list[WriterStatus]:
        """Returns those that are still here, the quietest first, and forgets the others."""
        now = self._now()
        gone = [
            name
            for name, writer in self._writers.items()
            if name not in self._calls and now - writer.heard > FORGOTTEN_AFTER_S
        ]
        for name in gone:
            del self._writers[name]
        return [
            WriterStatus(name, now - writer.heard, writer.sequence, name in self._calls)
            for name, writer in self._writers.items()
        ]

    def _heard(self, writer_id: str) -> _Writer:
        now = self._now()
        writer = self._writers.pop(writer_id, None)
        if writer is None:
            writer = _Writer(now)
            if len(self._writers) >= MAX_WRITERS:
                del self._writers[next(iter(self._writers))]
        writer.heard = now
        self._writers[writer_id] = writer
        return writer


class BufferTally:
    """What is counted of one buffer, from when it was opened. Lives as long as the open buffer.

    Belongs to the event loop, but for `syncs`, which belongs to whoever holds the sync's lock.

    Attributes:
        duplicates: episodes that were sent again and recognised.
        batches_sampled: batches drawn.
        frames_sampled: frames in them.
        syncs: how long each sync took.
        writers: who writes.
    """

    def __init__(self) -> None:
        self.duplicates = 0
        self.batches_sampled = 0
        self.frames_sampled = 0
        self.syncs = Stopwatch()
        self.writers = Writers()

    def acknowledged(self, writer_id: str, sequence: int, *, duplicate: bool) -> None:
        """Says that an episode was stored, or recognised as stored before."""
        self.duplicates += duplicate
        self.writers.acknowledged(writer_id, sequence)

    def sampled(self, batches: int, frames: int) -> None:
        """Says that so many batches, of so many frames in all, were drawn."""
        self.batches_sampled += batches
        self.frames_sampled += frames


class CallTally:
    """What is counted of calls. Belongs to one event loop.

    Attributes:
        received_bytes: of all messages taken from callers.
        sent_bytes: of all messages sent to callers.
        finished: ended calls by method and name of the status code.
        work: how long the work of each method took.
    """

    def __init__(self, methods: Iterable[str]) -> None:
        self.received_bytes = 0
        self.sent_bytes = 0
        self.finished: Counter[tuple[str, str]] = Counter()
        self.work = {method: Stopwatch() for method in methods}


def quiet_of(writers: Iterable[WriterStatus]) -> Durations:
    """Returns how long writers have been quiet."""
    quiet = Stopwatch(_QUIET_BOUNDS_S)
    for writer in writers:
        quiet.add(writer.quiet_s)
    return quiet.durations()
