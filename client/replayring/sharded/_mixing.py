"""Mixing frames of several shards into batches, each frame as likely as any other. No I/O here.

A block is what one shard drew at one moment: frames that are independent and uniform among the
`eligible` ones there were. Of each shard the oldest block that is not used up is its head.

Why a batch is exact. Each of its frames is had by drawing a shard, with the heads' `eligible` as
weights, and taking the next unused frame of that head. Given the heads, that frame is uniform over
all frames that the heads were drawn from, and independent of those before it: which shard is drawn
does not depend on what the blocks hold. A head that is used up is replaced, with another weight,
*before* the next shard is drawn. That is what matters: to draw first, find the block empty, and
draw again would favour the shards whose blocks last longer.

Many draws are made at once and cut after the one that uses up a block. The cut depends on the draws
before it and on no later ones, so those that are kept are as they would be one by one.

How fresh a batch is. Of each shard it is as fresh as the oldest head that was there while it was
drawn, which is mostly the one that it began with. That head counts even if no frame was taken of
it: so the number says nothing about the batch's own draws, and who leaves out stale batches leaves
out no frames more often than others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from replayring._replies import Arrays
from replayring_proto.pack import Memory, Pack, aligned_empty, layout_for

Places = npt.NDArray[np.int64]


@dataclass(slots=True)
class Block:
    """Frames that one shard drew at one moment.

    Attributes:
        arrays: the frames, each equally likely among the eligible ones and independent.
        frames: how many.
        eligible: how many frames were eligible when they were drawn; above zero.
        next_index: how many had ever been added by then.
        born: the batch that was being made when the block came.
        life: stands for the buffer that it was drawn from; see `Part`.
        used: how many of its frames are taken.
    """

    arrays: Arrays
    frames: int
    eligible: int
    next_index: int
    born: int = 0
    life: object = None
    used: int = 0

    @property
    def left(self) -> int:
        """Frames that are not taken yet."""
        return self.frames - self.used


def draw_heads(rng: np.random.Generator, heads: Sequence[Block], count: int) -> Places:
    """Draws the head for each of the next frames, in order: `count` of them, or fewer.

    Args:
        rng: the random stream.
        heads: a block for each shard that has one; none is used up.
        count: frames wanted.

    Returns:
        Places in `heads`. They end with the frame that uses one up, if one does.
    """
    ends = np.cumsum([head.eligible for head in heads])
    drawn = np.searchsorted(ends, rng.integers(0, ends[-1], count), side="right")
    cut = count
    for place, head in enumerate(heads):
        if head.left <= cut:
            uses = np.flatnonzero(drawn[:cut] == place)
            if len(uses) >= head.left:
                cut = int(uses[head.left - 1]) + 1
    return drawn[:cut]


class Mixture:
    """A batch that is being made, or several of one size, one after the other. Not thread-safe.

    Attributes:
        size: frames that it is to have.
        count: frames that it has.
        shown: for each of the batches, how fresh it is: for each shard, how many frames had ever
            been added to it, as the batch shows it.
    """

    def __init__(self, size: int, batches: int = 1) -> None:
        """Begins.

        Args:
            size: frames of a batch.
            batches: how many there are to be.
        """
        self.size = size * batches
        self.count = 0
        self.shown: list[dict[int, int]] = [{} for _ in range(batches)]
        self._batch_size = size
        self._parts: list[tuple[Block, int, int, Places]] = []

    def add(
        self, rng: np.random.Generator, heads: Mapping[int, Block], empty: Mapping[int, int] = {}
    ) -> None:
        """Takes frames from the heads until it is whole or one of them is used up.

        Args:
            rng: the random stream.
            heads: a block for each shard that has one, by shard.
            empty: of shards that have no frames, how many had ever been added.
        """
        blocks = list(heads.values())
        drawn = draw_heads(rng, blocks, self.size - self.count)
        added = {shard: block.next_index for shard, block in heads.items()}
        self._show({**empty, **added}, len(drawn))
        for place, block in enumerate(blocks):
            places = np.flatnonzero(drawn == place)
            if len(places):
                start, block.used = block.used, block.used + len(places)
                self._parts.append((block, start, block.used, places + self.count))
        self.count += len(drawn)

    def _show(self, added: Mapping[int, int], frames: int) -> None:
        """Notes what the batches show that the next frames go to; none gets fresher by it."""
        first, last = self.count, self.count + frames - 1
        for shown in self.shown[first // self._batch_size : last // self._batch_size + 1]:
            for shard, count in added.items():
                shown[shard] = min(count, shown.get(shard, count))

    def pack(self, memory: Memory = aligned_empty) -> Pack:
        """Returns all frames, in memory of their own."""
        first = self._parts[0][0].arrays
        form = [(key, array.dtype, (self.size, *array.shape[1:])) for key, array in first.items()]
        joined = Pack(layout_for(tuple(form)), memory)
        for block, start, end, places in self._parts:
            for key, array in joined.arrays.items():
                array[places] = block.arrays[key][start:end]
        return joined
