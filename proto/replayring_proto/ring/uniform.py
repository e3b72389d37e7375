"""Drawing frames uniformly from the eligible ones.

A frame is eligible if at least `drop_n_last_frames` frames follow it in its episode. Drawing from
the whole live window and rejecting what is not eligible is exactly uniform over the eligible
frames, whatever the mix of episodes, and costs the same at any capacity. Only where nearly nothing
is eligible does a scan of the window take over, which is exact as well.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from replayring_proto.errors import OvertakenError
from replayring_proto.pack import Memory, Pack, aligned_empty
from replayring_proto.query import SampleQuery
from replayring_proto.ring.eligible import EligibleCount
from replayring_proto.ring.live import Indices, Live
from replayring_proto.ring.patience import Patience
from replayring_proto.ring.plan import Plan
from replayring_proto.ring.reader import RingReader

# Draws allowed before scanning: a fixed cost, and enough for one eligible frame in a hundred.
_FREE_DRAWS = 1 << 16
_SCANNED_AT_ONCE = 1 << 20
_DRAWS_PER_FRAME = 128


class NothingEligible(Exception):
    """No live frame is eligible at present."""


class UniformSampler:
    """Draws batches from one ring for one query. Not thread-safe: it owns a random stream.

    Attributes:
        plan: what a batch holds.
        eligible: frames that were eligible for the last batch; None unless they are counted.
    """

    def __init__(
        self,
        reader: RingReader,
        query: SampleQuery,
        rng: np.random.Generator | None = None,
        *,
        count: bool = False,
    ) -> None:
        """Plans `query`.

        Args:
            reader: the ring.
            query: what to sample; checked here.
            rng: the random stream; None for fresh entropy.
            count: whether to count the eligible frames with each batch.

        Raises:
            InvalidRequestError: the query does not fit the ring's spec.
        """
        query.check(reader.spec)
        self.plan = Plan(reader.spec, query.view)
        self._reader = reader
        self._query = query
        self._rng = np.random.default_rng() if rng is None else rng
        self._searches = query.drop_n_last_frames > 0
        # No live frame below this `index` is eligible. An episode becomes visible whole, so none
        # will be: while a learner waits, each look at the ring is at new frames only.
        self._barren = 0
        self._count = EligibleCount(reader, query.drop_n_last_frames) if count else None
        self.eligible: int | None = None

    @property
    def costly(self) -> bool:
        """Whether the next draw may take as long as looking at a great many frames.

        So it is if the last one did, or there was none yet, or many came since the last count.
        """
        if self._searches or self._count is None:
            return self._searches
        return self._count.behind(self._reader.live) > _FREE_DRAWS

    def batch(self, batches: int = 1, memory: Memory = aligned_empty) -> Pack:
        """Returns one batch, drawn with replacement, or several in one pack, one after the other.

        All of it is drawn anew if writers overtook it, so that frames about to be overwritten are
        as likely as all others as long as they live.

        Raises:
            NothingEligible: no live frame is eligible.
            OvertakenError: writers overtook it again and again.
            ToleranceError: a window in seconds misses inside an episode.
        """
        if self._count is None:
            return self._reader.gather(self.plan, partial(self._draw, batches), memory)
        patience = Patience()
        while True:
            pack = self._reader.gather(self.plan, partial(self._draw_counted, batches), memory)
            if self.eligible is not None:
                return pack
            del pack  # before there is another one
            if patience.ends():
                raise OvertakenError(
                    f"writers overtook this count {patience.overtaken} times; try again"
                )

    def _draw_counted(self, batches: int, live: Live) -> Indices:
        """Draws from a window and counts the eligible frames of the same one."""
        assert self._count is not None
        self.eligible = self._count.at(live)
        return self._draw(batches, live)

    def _draw(self, batches: int, live: Live) -> Indices:
        if not len(live):
            raise NothingEligible
        count, drop = self._query.batch_size * batches, self._query.drop_n_last_frames
        if not drop:
            return self._candidates(live, count)
        if live.end < self._barren:  # frames were lost with a disk; others get their `index`
            self._barren = 0
        if live.start < self._barren:
            live = Live(self._barren, live.end, live.capacity)
            if len(live) <= _FREE_DRAWS:
                return self._scan(live, count)
        drawn, accepted, found = 0, [], 0
        while found < count:
            if drawn > _FREE_DRAWS + _DRAWS_PER_FRAME * count:
                return self._scan(live, count)
            # A first guess of the acceptance, then what was seen of it, with some to spare.
            rate = max(found, 1) / max(drawn, 1) if drawn else 1.0
            size = min(int((count - found) / rate * 1.1) + 16, _FREE_DRAWS)
            candidates = self._candidates(live, size)
            eligible = candidates[self._reader.frames_after(candidates) >= drop]
            drawn += size
            found += len(eligible)
            accepted.append(eligible)
        self._searches = False
        return np.concatenate(accepted)[:count]

    def _candidates(self, live: Live, size: int) -> Indices:
        return self._rng.integers(live.start, live.end, size)

    def _scan(self, live: Live, count: int) -> Indices:
        self._searches = len(live) > _FREE_DRAWS
        found = []
        for start in range(live.start, live.end, _SCANNED_AT_ONCE):
            window = np.arange(start, min(start + _SCANNED_AT_ONCE, live.end))
            after = self._reader.frames_after(window)
            found.append(window[after >= self._query.drop_n_last_frames])
        eligible = np.concatenate(found) if found else np.arange(0)
        if not len(eligible):
            self._barren = live.end
            raise NothingEligible
        return eligible[self._rng.integers(0, len(eligible), count)]
