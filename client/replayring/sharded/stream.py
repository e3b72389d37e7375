"""Batches over several shards: who is waited for, and for how long.

How frames are mixed is `_mixing`'s business, where they come from `_feed`'s.
"""

from __future__ import annotations

import logging
import math
import os
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from replayring._background import FOREIGN, Guard
from replayring._batch import Batch, batches_in
from replayring._patience import Patience
from replayring._sampling import CLOSED, Sampling
from replayring._streams import BatchStream
from replayring.sharded._feed import Feed, FileFeed, WireFeed
from replayring.sharded._mixing import Block, Mixture
from replayring.sharded._part import Part
from replayring.sharded._waiting import Out, Waiting
from replayring_proto.errors import ClosedError
from replayring_proto.limits import TOGETHER_BYTES
from replayring_proto.pack import Memory
from replayring_proto.ring import Plan

_LOGGER = logging.getLogger(__name__)

# What has no thread to tell of changes is asked for them: files and silences, and `min_frames`.
_POLL_SECONDS = 0.02
_LOOK_SECONDS = 0.05

# A message costs the processor as much as some 100 KiB in it, at either end.
_MESSAGE_BYTES = 1 << 17


class ShardedStream(BatchStream):
    """Batches of frames that are equally likely over all shards, fetched ahead from each.

    Thread-safe, and closed, as every `SampleStream`.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        waiting: Waiting,
        sampling: Sampling,
        in_flight: int,
        timeout: float | None,
        memory: Memory,
    ) -> None:
        """Starts fetching, unless it has to wait for `min_frames`.

        Args:
            parts: the shards.
            waiting: what it waits for.
            sampling: what to sample, checked.
            in_flight: batches wanted ahead, checked; of each shard if they are small.
            timeout: seconds that `next` waits for a batch, checked; None for the client's own.
            memory: makes what batches are mixed in.
        """
        self._sampling = sampling
        self._waiting = waiting
        self._timeout = timeout
        self._memory = memory
        self._parts = parts
        self._process = os.getpid()
        self._guard = Guard()
        self._lock, self._changed = self._guard.lock, self._guard.changed
        self._closed = False
        self._rng = np.random.default_rng(sampling.seed)
        self._started = False
        self._in_flight, self._group = self._ahead(in_flight)
        # Seeded, a stream shows the same frames again if the shards do, however long it takes.
        oldest = 2 * self._in_flight + 3 - self._group
        self._oldest_age = oldest if sampling.seed is None else math.inf
        self._batch = 0
        self._mixture = self._begun()
        self._lives = [part.life for part in parts]
        self._ready: deque[tuple[Batch, dict[int, int]]] = deque()  # and what each shows
        self._known = [0] * len(parts)  # eligible frames of each shard, as it said last
        self._feeds: list[Feed] = [self._feed(part) for part in parts]
        if sampling.min_frames <= 1:
            self._start()

    @property
    def next_index(self) -> int | None:
        """How fresh the last batch returned is: frames ever added, as it shows the shards.

        Of each shard it counts the oldest frames that may be in the batch. Like `info`, it leaves
        out shards that cannot be reached, or do not give the buffer.
        """
        return self._next_index

    def _draw(self) -> Batch:
        self._check_native()
        patience = self._waiting.patience(self._timeout)
        if not self._started:
            self._await_frames(patience)
        with self._lock:
            self._check_open()
            self._forget_the_gone()
            if not self._ready:
                self._mix(patience)
            return self._take()

    def _poll(self) -> Batch | None:
        self._check_native()
        with self._lock:
            self._check_open()
            self._forget_the_gone()
            if self._ready:
                return self._take()
            if not self._started:
                return None
            if not self._fill():
                self._check()
                return None
            self._finish()
            return self._take()

    def _take(self) -> Batch:
        self._batch += 1
        batch, shown = self._ready.popleft()
        return batch._replace(next_index=self._sum(shown))

    def _check_native(self) -> None:
        if os.getpid() != self._process:
            raise ClosedError(FOREIGN.format("sample stream"))

    def close(self) -> None:
        """Ends it, and what fetches for it. See `SampleStream.close`."""
        if os.getpid() != self._process:
            return
        with self._lock:
            self._closed = True
            self._changed.notify_all()
        for feed in self._feeds:
            feed.end()
        for feed in self._feeds:
            feed.stop()

    def _feed(self, part: Part) -> Feed:
        if part.buffer._files() is None:
            return WireFeed(part, self._unit(part), self._guard)
        return FileFeed(part, self._unit(part), part.buffer._files)

    def _unit(self, part: Part) -> Sampling:
        """Returns what a shard is asked for at a time."""
        query, seed = self._sampling.query, self._sampling.seed
        unit = replace(query, batch_size=max(1, query.batch_size // (4 * len(self._parts))))
        if seed is not None:
            mine = np.random.SeedSequence([seed, part.shard.number])
            seed = int(mine.generate_state(1, np.uint64)[0])
        return Sampling(self._sampling.buffer, unit, 1, seed, count_eligible=True)

    def _ahead(self, in_flight: int) -> tuple[int, int]:
        """Returns how many batches are wanted ahead, and how many are mixed at once.

        Where batches are small, each shard sends ahead as much as makes up for a message. Batches
        that are mixed at once are one large batch that is cut: independent of each other, as others
        are. Seeded, they are mixed one by one, to be the same for any `in_flight`.
        """
        query, shards = self._sampling.query, len(self._parts)
        nbytes = Plan(self._parts[0].buffer.spec, query.view).layout(query.batch_size).nbytes
        worthwhile = math.ceil(2 * shards * _MESSAGE_BYTES / max(nbytes, 1))
        in_flight = min(max(worthwhile, in_flight), in_flight * shards)
        if self._sampling.seed is not None:
            return in_flight, 1
        return in_flight, max(1, min(in_flight // 2, TOGETHER_BYTES // max(nbytes, 1)))

    def _begun(self) -> Mixture:
        return Mixture(self._sampling.query.batch_size, self._group)

    def _forget_the_gone(self) -> None:
        """Begins anew if a buffer is gone: its frames are nobody's, or have others' `index` now."""
        lives = [part.life for part in self._parts]
        if lives != self._lives:
            self._lives = lives
            self._ready.clear()
            self._mixture = self._begun()

    def _mix(self, patience: Patience) -> None:
        """Waits for frames, and has more batches ready."""
        while not self._fill():
            self._check()
            self._forget_the_gone()
            seconds = min(patience.remaining(), _POLL_SECONDS)
            if not seconds:
                raise self._waiting.overdue(patience, self._out())
            self._changed.wait(seconds)
        self._finish()

    def _sum(self, shown: Mapping[int, int]) -> int:
        """Returns the sum over shards that `info` would count if it were asked now."""
        having = [part.shard for part in self._parts if part.counts]
        present = [shard for shard in having if not shard.lost] or having
        return sum(shown.get(shard.number, 0) for shard in present)

    def _fill(self) -> bool:
        """Makes the mixture as whole as it can be now; returns whether it is."""
        if self._closed:
            return False
        mixture = self._mixture
        while mixture.count < mixture.size:
            heads = self._heads()
            if heads is None:
                return False
            mixture.add(self._rng, heads, self._empty())
        return True

    def _empty(self) -> dict[int, int]:
        """Returns frames ever added to shards that have none to give, but can be reached."""
        empty = (feed for feed in self._feeds if not feed.blocks and not feed.out)
        return {feed.part.shard.number: feed.seen for feed in empty}

    def _heads(self) -> dict[int, Block] | None:
        """Returns the head of each shard that has frames; None if one is to be waited for."""
        heads: dict[int, Block] = {}
        for place, feed in enumerate(self._feeds):
            self._drop_old(feed)
            feed.poll()
            if feed.gone:
                self._go_over_wire(place)
                return None
            if feed.blocks:
                heads[feed.part.shard.number] = feed.blocks[0]
            elif not feed.empty and not feed.out:
                self._aim()
                return None
        return heads or None

    def _go_over_wire(self, place: int) -> None:
        """Has a shard whose files are gone asked from now on, by a feed in the place of theirs."""
        part = self._parts[place]
        part.end_life()
        _LOGGER.warning(
            "the files of buffer %r at %s are gone; its frames come over the wire from now on",
            part.buffer.name,
            part.shard.name,
        )
        feed = WireFeed(part, self._unit(part), self._guard)
        self._feeds[place] = feed
        self._aim()
        feed.start()
        if self._closed:  # by the garbage collector, in this thread, before it knew of this feed
            feed.end()

    def _drop_old(self, feed: Feed) -> None:
        """Throws away blocks that are used up, say what was long ago, or are of what is gone."""
        blocks = feed.blocks
        while blocks:
            age = self._batch - blocks[0].born
            young = age <= self._oldest_age / (1 if len(blocks) == 1 else 2)
            if blocks[0].left and young and blocks[0].life is feed.part.life:
                return
            blocks.popleft()

    def _finish(self) -> None:
        """Has the batches of the mixture ready, which is whole, and begins another."""
        whole = self._mixture
        batches = batches_in(whole.pack(self._memory), self._group, 0)
        self._mixture = self._begun()
        for feed in self._feeds:
            self._drop_old(feed)
        self._aim()
        self._ready.extend(zip(batches, whole.shown, strict=True))

    def _aim(self) -> None:
        """Has each shard send ahead its share of the batches that are wanted, as shares are now."""
        for place, feed in enumerate(self._feeds):
            if feed.blocks:
                self._known[place] = feed.blocks[-1].eligible
        frames = self._in_flight * self._sampling.query.batch_size
        for feed, known in zip(self._feeds, self._known, strict=True):
            share = known / sum(self._known) if known else 1 / len(self._feeds)
            # What will be thrown away soon is not counted, so that newer frames come before.
            feed.aim(math.ceil(frames * share), self._batch, self._batch - self._oldest_age / 2)

    def _start(self) -> None:
        with self._lock:
            self._started = True
            self._aim()
        for feed in self._feeds:
            if isinstance(feed, WireFeed):
                feed.start()

    def _await_frames(self, patience: Patience) -> None:
        """Waits until the shards hold `min_frames`; what was fetched before would be old."""
        while not self._waiting.enough(patience.remaining()):
            with self._lock:
                self._check()
                if not patience.remaining():
                    raise self._waiting.overdue(patience, self._out())
                self._changed.wait(min(patience.remaining(), _LOOK_SECONDS))
        self._start()

    def _check(self) -> None:
        """Raises what ends the stream."""
        self._check_open()
        for feed in self._feeds:
            feed.check()
        self._waiting.check({feed.part: feed.trouble for feed in self._feeds})

    def _check_open(self) -> None:
        self._parts[0].shard.client._channel.check_open()
        if self._closed:
            raise ClosedError(CLOSED)

    def _out(self) -> Out:
        return {feed.part: feed.trouble for feed in self._feeds if feed.out}
