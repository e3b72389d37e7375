"""Sampling is uniform over the eligible frames, and over nothing else.

Seeds are fixed, so these tests give one answer. The bounds are six standard deviations wide: what
they find is a bias, not bad luck.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from replayring_proto.errors import InvalidRequestError, InvalidSpecError
from replayring_proto.query import SampleQuery, View
from replayring_proto.ring import Live, NothingEligible, UniformSampler
from tests.engine.frames import assert_whole, checked_spec
from tests.engine.rings import MemoryRing

DRAWS = 200_000


@dataclass(frozen=True)
class Mix:
    """A ring's capacity, and the lengths of the episodes appended to it."""

    capacity: int
    lengths: tuple[int, ...]

    def ring(self) -> MemoryRing:
        ring = MemoryRing(checked_spec(self.capacity, width=1))
        for frames in self.lengths:
            ring.append(frames)
        return ring

    def eligible(self, drop: int) -> np.ndarray:
        """The `index` of each eligible frame, counted out one by one."""
        ends = np.cumsum(self.lengths)
        frames = [
            (index, end - index - 1)
            for end, length in zip(ends, self.lengths, strict=True)
            for index in range(end - length, end)
        ]
        return np.array([i for i, following in frames[-self.capacity :] if following >= drop])


MIXES = {
    "not yet full": Mix(50, (7, 1, 20)),
    "one episode": Mix(50, (50,)),
    "short ones": Mix(50, (1, 2, 3, 1, 4, 1, 1, 2) * 9),
    "the oldest truncated": Mix(50, (30, 30, 15)),
    "wrapped in the middle of one": Mix(50, (45, 5, 33, 12)),
    "one longer than the slack": Mix(100, (60, 100, 3, 70)),
    "long and short": Mix(100, (3, 60, 1, 1, 1, 20, 40, 2, 13)),
}


def draw(ring: MemoryRing, drop: int, seed: int = 0, draws: int = DRAWS) -> np.ndarray:
    sampler = UniformSampler(
        ring.reader(), SampleQuery(draws, View(keys=()), drop), np.random.default_rng(seed)
    )
    index: np.ndarray = sampler.batch().arrays["index"]
    return index


def assert_uniform(drawn: np.ndarray, eligible: np.ndarray) -> None:
    """Chi square: each eligible frame was drawn as often as chance has it, and no other was."""
    frames, counts = np.unique(drawn, return_counts=True)
    np.testing.assert_array_equal(frames, eligible)
    expected = len(drawn) / len(eligible)
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    freedom = len(eligible) - 1
    assert abs(chi2 - freedom) < 6 * np.sqrt(2 * freedom) + 6


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
@pytest.mark.parametrize("drop", [0, 1, 2, 7])
def test_every_eligible_frame_is_as_likely_as_any_other(mix: Mix, drop: int) -> None:
    eligible = mix.eligible(drop)
    if len(eligible):
        assert_uniform(draw(mix.ring(), drop), eligible)
    else:
        with pytest.raises(NothingEligible):
            draw(mix.ring(), drop)


def test_batches_of_one_frame_are_as_uniform_as_large_ones() -> None:
    """The first of several candidates is kept, not the luckiest."""
    mix = MIXES["long and short"]
    sampler = UniformSampler(
        mix.ring().reader(), SampleQuery(1, View(keys=()), 2), np.random.default_rng(1)
    )
    drawn = np.concatenate([sampler.batch().arrays["index"] for _ in range(4_000)])
    assert_uniform(drawn, mix.eligible(2))


def test_several_batches_drawn_together_are_as_uniform_as_single_ones() -> None:
    mix = MIXES["long and short"]
    sampler = UniformSampler(
        mix.ring().reader(), SampleQuery(50, View(keys=()), 2), np.random.default_rng(1)
    )
    packs = [sampler.batch(batches).arrays["index"] for batches in (7, 1, 16) * 40]
    assert [len(pack) for pack in packs[:3]] == [350, 50, 800]
    assert_uniform(np.concatenate(packs), mix.eligible(2))


def test_draws_do_not_depend_on_each_other() -> None:
    """Pairs of neighbours in a batch are as likely as all other pairs."""
    mix = Mix(20, (3, 6, 5, 6))
    drawn = draw(mix.ring(), drop=2)
    eligible = mix.eligible(2)
    pairs = np.searchsorted(eligible, drawn[:-1:2]) * len(eligible) + np.searchsorted(
        eligible, drawn[1::2]
    )
    assert_uniform(pairs, np.arange(len(eligible) ** 2))


def test_frames_given_up_by_an_append_that_died_are_not_drawn() -> None:
    ring = Mix(100, (60, 100)).ring()
    counters = ring.counters
    counters.low, counters.intent = 160 + 90 - ring.rows, 160 + 90
    assert_uniform(draw(ring, 0), np.arange(counters.low, 160))
    assert_uniform(draw(ring, 5), np.arange(counters.low, 155))


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the windows that samplers scanned."""
    seen: list[int] = []
    scan = UniformSampler._scan

    def counted(self: UniformSampler, live: Live, count: int) -> np.ndarray:
        seen.append(len(live))
        return scan(self, live, count)

    monkeypatch.setattr(UniformSampler, "_scan", counted)
    return seen


def test_where_nearly_nothing_is_eligible_a_scan_finds_it_all_and_as_uniformly(
    scans: list[int],
) -> None:
    """Two frames of a hundred thousand: rejection alone would look for them too long."""
    mix = Mix(100_000, (1,) * 20 + (50_000, 49_980))
    ring = mix.ring()
    eligible = mix.eligible(49_978)
    assert len(eligible) == 24
    sampler = UniformSampler(
        ring.reader(), SampleQuery(100, View(keys=()), 49_978), np.random.default_rng(3)
    )
    drawn = np.concatenate([sampler.batch().arrays["index"] for _ in range(200)])
    assert scans.count(100_000) == 200
    assert_uniform(drawn, eligible)


def test_where_one_frame_of_a_hundred_is_eligible_nothing_is_scanned(scans: list[int]) -> None:
    mix = Mix(10_000, (100,) * 100)
    assert_uniform(draw(mix.ring(), 99, draws=10_000), mix.eligible(99))
    assert not scans


def test_nothing_eligible_is_said_so() -> None:
    ring = MemoryRing(checked_spec(50))
    for drop in (0, 1):
        with pytest.raises(NothingEligible):
            draw(ring, drop, draws=500)
    for frames in (7, 20, 1):
        ring.append(frames)
    assert len(np.unique(draw(ring, 19, draws=500))) == 1
    for drop in (20, 49):
        with pytest.raises(NothingEligible):
            draw(ring, drop, draws=500)
    ring.append(21)
    assert np.unique(draw(ring, 20, draws=500)).tolist() == [28]


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_a_batch_has_the_size_asked_for_and_whole_frames(batch_size: int) -> None:
    """With replacement, so it may be larger than what there is to draw from."""
    ring = MIXES["short ones"].ring()
    for drop in (0, 3):
        sampler = UniformSampler(ring.reader(), SampleQuery(batch_size, View(), drop))
        for _ in range(5):
            arrays = sampler.batch().arrays
            assert len(arrays["index"]) == batch_size
            assert_whole(ring.spec, arrays)


def test_a_seed_repeats_itself_and_none_does_not() -> None:
    ring = MIXES["long and short"].ring()
    assert np.array_equal(draw(ring, 1, seed=5), draw(ring, 1, seed=5))
    assert not np.array_equal(draw(ring, 1, seed=5), draw(ring, 1, seed=6))
    query = SampleQuery(1000, View(keys=()), 0)
    one, other = (UniformSampler(ring.reader(), query).batch().arrays["index"] for _ in range(2))
    assert not np.array_equal(one, other)


def test_a_query_is_checked_before_anything_is_drawn() -> None:
    reader = MemoryRing(checked_spec(5)).reader()
    with pytest.raises(InvalidRequestError):
        UniformSampler(reader, SampleQuery(0))
    for drop in (-1, 5, 1 << 63):
        with pytest.raises(InvalidRequestError, match="from 0 to 4"):
            UniformSampler(reader, SampleQuery(1, View(), drop), count=True)
    with pytest.raises(InvalidSpecError):
        UniformSampler(reader, SampleQuery(1, View(("nothing",))))


def test_frames_that_were_found_not_eligible_are_not_looked_at_again(scans: list[int]) -> None:
    """A learner that waits looks at new frames only, and draws as uniformly once there are some."""
    ring = Mix(200_000, (50,) * 3_000).ring()
    sampler = UniformSampler(
        ring.reader(), SampleQuery(200, View(keys=()), 60), np.random.default_rng(5)
    )
    for frames in (0, 7, 30):
        if frames:
            ring.append(frames)
        with pytest.raises(NothingEligible):
            sampler.batch()
    assert scans == [150_000, 7, 30]
    assert not sampler.costly
    ring.append(64)
    ring.append(62)
    eligible = np.r_[150_037:150_041, 150_101:150_103]
    drawn = np.concatenate([sampler.batch().arrays["index"] for _ in range(20)])
    assert_uniform(drawn, eligible)
    assert set(scans[3:]) == {126}


@pytest.mark.parametrize("count", [False, True])
def test_frames_that_were_lost_are_forgotten(count: bool) -> None:
    """A failed disk takes the newest frames with it; what comes then has their `index`."""
    ring = Mix(1_000, (5,) * 20).ring()
    query = SampleQuery(200, View(keys=()), 10)
    sampler = UniformSampler(ring.reader(), query, np.random.default_rng(5), count=count)
    with pytest.raises(NothingEligible):
        sampler.batch()
    ring.counters.head = ring.counters.intent = 50
    ring.writer = ring.open_writer()
    eligible = np.arange(0)
    for start in (50, 90):
        ring.append(40)
        eligible = np.append(eligible, np.arange(start, start + 30))
        drawn = np.concatenate([sampler.batch().arrays["index"] for _ in range(20)])
        assert_uniform(drawn, eligible)
        assert sampler.eligible == (len(eligible) if count else None)


def test_a_long_search_is_made_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it takes in memory does not grow with the capacity."""
    monkeypatch.setattr("replayring_proto.ring.uniform._SCANNED_AT_ONCE", 1000)
    mix = Mix(100_000, (1,) * 20 + (50_000, 49_980))
    reader = mix.ring().reader()
    pieces: list[int] = []
    real = reader.frames_after
    monkeypatch.setattr(reader, "frames_after", lambda w: pieces.append(len(w)) or real(w))
    query = SampleQuery(100, View(keys=()), 49_978)
    drawn = UniformSampler(reader, query, np.random.default_rng(3)).batch().arrays["index"]
    assert set(drawn) <= set(mix.eligible(49_978).tolist())
    assert pieces[-100:] == [1000] * 100


def test_many_new_episodes_make_a_count_costly() -> None:
    ring = Mix(200_000, (50,) * 2_000).ring()
    sampler = UniformSampler(ring.reader(), SampleQuery(10, View(keys=()), 1), count=True)
    assert sampler.costly
    sampler.batch()
    assert not sampler.costly
    for _ in range(7):
        ring.append(10_000)
    assert sampler.costly
    sampler.batch()
    assert sampler.eligible == 2_000 * 49 + 7 * 9_999
    assert not sampler.costly
