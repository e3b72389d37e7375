"""Batches over shards are unbiased, at every fill ratio and while shards fill.

Seeds are fixed, so these tests give one answer; the bounds are six standard deviations wide. Each
of the two ways to mix that come to mind first fails them, in this file.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from replayring.sharded._mixing import Block, Mixture, draw_heads

BATCH = 64
RATIOS = {
    "1:1": (500, 500),
    "1:10": (100, 1000),
    "1:1000": (10, 10_000),
    "one empty": (0, 700),
    "four": (1, 20, 300, 4000),
}

Mix = Callable[["Shards", np.random.Generator], dict[str, np.ndarray]]


class Shards:
    """Shards that hold so many eligible frames, and send blocks of them when asked."""

    def __init__(self, held: Sequence[int], blocks: Sequence[int], seed: int) -> None:
        self.held = list(held)
        self._frames = blocks
        self._rng = np.random.default_rng(seed)
        self._blocks: list[deque[Block]] = [deque() for _ in held]

    def draw(self, shard: int) -> Block:
        held, frames = self.held[shard], self._frames[shard]
        arrays = {
            "shard": np.full(frames, shard),
            "frame": self._rng.integers(0, held, frames),
            "added": np.full(frames, held),
        }
        return Block(arrays, frames, held, held)

    def heads(self) -> dict[int, Block]:
        for shard, blocks in enumerate(self._blocks):
            while blocks and not blocks[0].left:
                blocks.popleft()
            if not blocks and self.held[shard]:
                blocks.append(self.draw(shard))
        return {shard: blocks[0] for shard, blocks in enumerate(self._blocks) if blocks}


def as_it_is(shards: Shards, rng: np.random.Generator) -> dict[str, np.ndarray]:
    mixture = Mixture(BATCH)
    while mixture.count < mixture.size:
        mixture.add(rng, shards.heads())
    return mixture.pack().arrays


def equal_shares(shards: Shards, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A control: as many frames of each shard that has some."""
    blocks = [shards.draw(shard) for shard, held in enumerate(shards.held) if held]
    places = np.arange(BATCH) % len(blocks)
    return {
        key: np.array([blocks[place].arrays[key][row] for row, place in enumerate(places)])
        for key in ("shard", "frame")
    }


def draw_again_where_one_is_used_up(
    shards: Shards, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """A control: draws a shard, finds its block used up, has another one sent and draws anew."""
    parts = []
    while len(parts) < BATCH:
        heads = shards._blocks
        held = np.array(shards.held)
        shard = int(rng.choice(len(held), p=held / held.sum()))
        if not heads[shard]:
            heads[shard].append(shards.draw(shard))
            continue
        block = heads[shard][0]
        parts.append({key: array[block.used] for key, array in block.arrays.items()})
        block.used += 1
        if not block.left:
            heads[shard].popleft()
    return {key: np.array([part[key] for part in parts]) for key in ("shard", "frame")}


def deviation(mix: Mix, held: Sequence[int], *blocks: int, batches: int = 1000) -> float:
    """Returns by how many standard deviations the shard that is furthest off is."""
    shards, rng = Shards(held, (blocks * len(held))[: len(held)], seed=1), np.random.default_rng(2)
    drawn = np.concatenate([mix(shards, rng)["shard"] for _ in range(batches)])
    counts = np.bincount(drawn, minlength=len(held))
    shares = np.array(held) / sum(held)
    spread = np.sqrt(len(drawn) * shares * (1 - shares))
    off = np.abs(counts - len(drawn) * shares)
    return float(np.max(np.divide(off, spread, out=off.copy(), where=spread > 0)))


@pytest.mark.parametrize("block", [5, 64, 500])
@pytest.mark.parametrize("held", RATIOS.values(), ids=RATIOS)
def test_each_shard_gives_its_share(held: tuple[int, ...], block: int) -> None:
    assert deviation(as_it_is, held, block) < 6


def test_shards_that_send_blocks_of_other_lengths_give_their_shares_as_well() -> None:
    assert deviation(as_it_is, (300, 1000), 2, 64) < 6


@pytest.mark.parametrize("held", [(100, 1000), (10, 10_000), (1, 20, 300, 4000)])
def test_control_equal_shares_would_be_found(held: tuple[int, ...]) -> None:
    assert deviation(equal_shares, held, 64) > 6


def test_control_drawing_again_would_be_found() -> None:
    assert deviation(draw_again_where_one_is_used_up, (300, 1000), 2, 64) > 6


@pytest.mark.parametrize("block", [5, 64])
def test_every_frame_is_as_likely_as_any_other(block: int) -> None:
    held = (3, 40, 0, 7)
    shards, rng = Shards(held, [block] * 4, seed=3), np.random.default_rng(4)
    firsts = np.cumsum((0, *held))
    batches = [as_it_is(shards, rng) for _ in range(1000)]
    frames = np.concatenate([firsts[batch["shard"]] + batch["frame"] for batch in batches])
    assert_uniform(frames, sum(held))


@pytest.mark.parametrize("block", [16, 200])
def test_frames_of_a_batch_are_independent(block: int) -> None:
    """Pairs at any two places of a batch are as likely as all other pairs."""
    held = (2, 4)
    shards, rng = Shards(held, [block] * 2, seed=5), np.random.default_rng(6)
    batches = [as_it_is(shards, rng) for _ in range(5_000)]
    frames = np.array([2 * batch["shard"] + batch["frame"] for batch in batches])
    for one, other in ((0, 1), (0, BATCH - 1), (31, 32)):
        assert_uniform(frames[:, one] * 6 + frames[:, other], 36)


def test_while_shards_fill_each_block_counts_as_what_it_was_drawn_from() -> None:
    """One shard grows a hundredfold, the other stays: every draw follows the heads' counts."""
    shards, rng = Shards((50, 500), (16, 16), seed=7), np.random.default_rng(8)
    expected, seen, variance = 0.0, 0, 0.0
    for batch in range(1000):
        shards.held[0] = 50 + batch * 5
        mixture = Mixture(BATCH)
        while mixture.count < mixture.size:
            heads = shards.heads()
            before, share = mixture.count, heads[0].eligible / (heads[0].eligible + 500)
            mixture.add(rng, heads)
            taken = mixture.count - before
            expected += taken * share
            variance += taken * share * (1 - share)
        seen += int((mixture.pack().arrays["shard"] == 0).sum())
    assert abs(seen - expected) < 6 * np.sqrt(variance)


@pytest.mark.parametrize("block", [5, 64, 500])
def test_a_batch_is_no_fresher_than_any_of_its_frames(block: int) -> None:
    """Batches that are mixed together are told apart, and what is fresh is said to be so."""
    shards, rng = Shards((50, 500, 1), (block,) * 3, seed=9), np.random.default_rng(10)
    steps, exact = 500, 0
    for step in range(steps):
        shards.held[0] = 50 + step  # a block's `next_index` is what its shard held
        mixture = Mixture(BATCH, 4)
        while mixture.count < mixture.size:
            mixture.add(rng, shards.heads())
        oldest = np.array([[shown[shard] for shard in range(3)] for shown in mixture.shown])
        arrays = mixture.pack().arrays
        for number, shown in enumerate(oldest):
            of_batch = slice(number * BATCH, (number + 1) * BATCH)
            added = arrays["added"][of_batch][arrays["shard"][of_batch] == 0]
            assert (shown[0] <= added).all()
            exact += int(shown[0] == added.min(initial=shown[0]))
        assert (oldest[:, 1:] == (500, 1)).all()
    assert exact > 0.9 * steps * 4, "and it is said to be older where no old frame was drawn"


def test_a_shard_that_gives_nothing_is_shown_as_it_was_before_it_did() -> None:
    rng = np.random.default_rng(0)
    mixture = Mixture(2, 3)
    mixture.add(rng, {0: Block({}, 3, 1, 70)}, {1: 5})
    assert mixture.shown == [{0: 70, 1: 5}, {0: 70, 1: 5}, {}]
    mixture.add(rng, {0: Block({}, 9, 1, 80), 1: Block({}, 9, 1, 8)})
    assert mixture.shown == [{0: 70, 1: 5}, {0: 70, 1: 5}, {0: 80, 1: 8}]


def test_a_cut_comes_right_after_the_frame_that_uses_a_block_up() -> None:
    blocks = [Block({}, 5, 1, 1, used=3), Block({}, 10_000, 1, 1)]
    drawn = draw_heads(np.random.default_rng(0), blocks, 1000)
    assert (drawn == 0).sum() == 2
    assert drawn[-1] == 0
    assert len(draw_heads(np.random.default_rng(0), blocks[1:], 1000)) == 1000


def assert_uniform(drawn: np.ndarray, values: int) -> None:
    """Chi square, six standard deviations wide."""
    counts = np.bincount(drawn, minlength=values)
    expected = len(drawn) / values
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    assert len(counts) == values
    assert abs(chi2 - (values - 1)) < 6 * np.sqrt(2 * (values - 1)) + 6
