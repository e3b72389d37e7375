"""One batch over several shards, asked for now: what `ShardedBuffer.sample` does.

All shards are asked at once, each for as many frames as the batch will most likely need of it.
`_mixing` says which of them are taken; what is left over is thrown away. A shard whose frames did
not suffice is asked again before anything else is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from replayring._patience import LOCKED_OUT, Patience, passing
from replayring._replies import Arrays
from replayring._sampling import Sampling, draw
from replayring.sharded._drawn import from_files, from_reply
from replayring.sharded._form import Form
from replayring.sharded._mixing import Block, Mixture
from replayring.sharded._part import Part
from replayring.sharded._shard import ANSWER_SECONDS, Shard, ask_all
from replayring.sharded._waiting import Waiting
from replayring_proto.errors import (
    DeadlineError,
    NotFoundError,
    ReplayRingError,
    ServerUnavailableError,
)

# Standard deviations by which more frames are asked for than a shard will give on average.
_SPARE = 2.0


class Eligible:
    """How many frames of each shard were eligible when last heard of: a guess, to ask by."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def note(self, shard: int, count: int) -> None:
        """Keeps what a shard said."""
        self._counts[shard] = count

    def share(self, shard: int, among: Sequence[int]) -> float:
        """Returns a shard's share of the eligible frames of some shards."""
        counts = [self._counts.get(one) for one in among]
        known = [count for count in counts if count is not None]
        if len(known) < len(among) or not sum(known):
            return 1 / len(among)
        return self._counts[shard] / sum(known)


class OneBatch:
    """A batch that is being made. Not thread-safe; used once."""

    def __init__(
        self, parts: Sequence[Part], sampling: Sampling, waiting: Waiting, eligible: Eligible
    ) -> None:
        """Prepares.

        Args:
            parts: the shards.
            sampling: what to sample, checked.
            waiting: what it waits for.
            eligible: what is known of the shards, which is kept up to date. A seeded batch does not
                go by it, so as to repeat itself.
        """
        self._parts = parts
        self._sampling = sampling
        self._waiting = waiting
        self._eligible = eligible if sampling.seed is None else Eligible()
        self._form = Form.of_view(sampling.buffer, parts[0].buffer.spec, sampling.query.view)
        self._rng = np.random.default_rng(sampling.seed)
        self._mixture = Mixture(sampling.query.batch_size)
        self._heads: dict[int, Block] = {}
        self._without: dict[Part, ReplayRingError | None] = {}  # None for one that is empty
        self._asked = 0
        self._seconds = ANSWER_SECONDS  # twice that of a batch that turns out to take longer

    def arrays(self, patience: Patience) -> Arrays:
        """Returns the batch.

        Raises:
            ReplayRingError: as `SampleStream.__next__`.
        """
        while self._mixture.count < self._mixture.size:
            self._find_heads(patience)
            if self._heads and (self._mixture.count or self._enough(patience)):
                self._mixture.add(self._rng, self._heads)
                self._heads = {shard: head for shard, head in self._heads.items() if head.left}
            else:
                self._wait(patience)
        return self._mixture.pack().arrays

    def _enough(self, patience: Patience) -> bool:
        """Whether `min_frames` are there; the eligible ones, which are known, often suffice."""
        eligible = sum(head.eligible for head in self._heads.values())
        if eligible >= self._sampling.min_frames:
            return True
        return self._waiting.enough(patience.remaining())

    def _wait(self, patience: Patience) -> None:
        """Waits before all shards are asked again."""
        self._waiting.check(self._out())
        if not patience.wait(self._parts[0].shard.client._channel):
            raise self._waiting.overdue(patience, self._out())
        self._heads.clear()
        self._without.clear()

    def _out(self) -> dict[Part, ReplayRingError | None]:
        return {part: error for part, error in self._without.items() if error is not None}

    def _find_heads(self, patience: Patience) -> None:
        """Asks shards until each has a head, or is empty, or is one to go on without."""
        while missing := [p for p in self._present() if p.shard.number not in self._heads]:
            self._parts[0].shard.client._channel.check_open()
            if self._asked and not patience.remaining():
                raise self._waiting.overdue(patience, self._out())
            self._ask(missing, max(min(patience.remaining(), self._seconds), 0.001))

    def _present(self) -> list[Part]:
        """Returns the shards that count: those that are lost do if there are no others."""
        parts = [part for part in self._parts if part not in self._without]
        for part in parts:
            if part.shard.lost:
                part.shard.look_out()
        there = [part for part in parts if part.near or not part.shard.lost]
        return there if there or self._heads or self._without else parts

    def _ask(self, missing: Sequence[Part], seconds: float) -> None:
        """Asks some shards at once, and sorts what they answer."""
        among = [part.shard.number for part in self._parts if part not in self._without]
        frames = {part.shard.number: self._frames(part, among) for part in missing}

        def draw(shard: Shard) -> Block:
            return self._draw(self._parts[shard.number], frames[shard.number], seconds)

        self._asked += 1
        far = [part for part in missing if not part.near]
        near = [part for part in missing if part.near]
        answers = ask_all([part.shard for part in far], draw) if far else []
        answers += [ask_all([part.shard], draw)[0] for part in near]
        for part, answer in zip([*far, *near], answers, strict=True):
            if isinstance(answer, Block):
                self._take(part, answer)
            else:
                self._leave(part, answer, seconds)

    def _frames(self, part: Part, among: Sequence[int]) -> int:
        """Returns how many frames of a shard suffice for the rest of the batch, most likely."""
        left = self._mixture.size - self._mixture.count
        share = self._eligible.share(part.shard.number, among)
        spare = _SPARE * math.sqrt(left * share * (1 - share))
        return min(left, math.ceil(left * share + spare) + 1)

    def _draw(self, part: Part, frames: int, seconds: float) -> Block:
        part.open(part.shard.hasty, seconds)
        sampling = self._unit(part, frames)
        reads = part.buffer._files_for(sampling.query.view, frames)
        if reads is not None:
            return from_files(part.shard, reads, sampling, reads.sampler(sampling))
        part.find(seconds)
        caller = part.shard.hasty._caller
        patience = caller.patience(f"sampling from {sampling.buffer!r}", seconds)
        return from_reply(part.shard, self._form, *draw(caller, sampling, patience))

    def _unit(self, part: Part, frames: int) -> Sampling:
        seed = self._sampling.seed
        if seed is not None:
            mine = np.random.SeedSequence([seed, part.shard.number, self._asked])
            seed = int(mine.generate_state(1, np.uint64)[0])
        query = replace(self._sampling.query, batch_size=frames)
        return Sampling(self._sampling.buffer, query, 1, seed, count_eligible=True)

    def _take(self, part: Part, block: Block) -> None:
        self._eligible.note(part.shard.number, block.eligible)
        part.note(None)
        if block.frames:
            self._heads[part.shard.number] = block
        else:
            self._without[part] = None

    def _leave(self, part: Part, error: ReplayRingError, seconds: float) -> None:
        """Goes on without a shard, or asks it again if it is only slow."""
        if isinstance(error, DeadlineError):
            self._seconds *= 2
            return
        if not passing(error) and not isinstance(error, (NotFoundError, *LOCKED_OUT)):
            raise error
        part.note(error)
        outage = part.shard.client._channel.outage
        if isinstance(error, ServerUnavailableError) and seconds >= ANSWER_SECONDS:
            outage.silent(error)
            part.shard.look_out()
        self._without[part] = error
