"""Counting eligible frames episode by episode gives what looking at each frame gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from replayring_proto.query import SampleQuery, View
from replayring_proto.ring import EligibleCount, Live, RingReader, UniformSampler
from tests.engine.frames import checked_spec
from tests.engine.interleaving import Writer
from tests.engine.rings import MemoryRing


def naive(ring: MemoryRing, live: Live, drop: int) -> int:
    """Looks at every frame."""
    index = np.arange(live.start, live.end)
    return int((ring.columns["_bounds"][index % ring.rows, 1] - index - 1 >= drop).sum())


def turned(capacity: int, length: int) -> MemoryRing:
    """A ring full of episodes of one length, without the time that appending them takes."""
    ring = MemoryRing(checked_spec(capacity, width=1))
    index = np.arange(capacity)
    ring.columns["_bounds"][:capacity, 0] = index // length * length
    ring.columns["_bounds"][:capacity, 1] = np.minimum(index // length * length + length, capacity)
    ring.counters.intent = capacity
    ring.counters.head = capacity
    return ring


@pytest.mark.parametrize("drop", [0, 1, 2, 7, 100])
@pytest.mark.parametrize("seed", range(6))
def test_equals_the_naive_count_on_random_mixes(seed: int, drop: int) -> None:
    """Rings that fill, wrap and truncate, looked at after a few appends or after many."""
    rng = np.random.default_rng(seed)
    capacity = int(rng.integers(1, 400))
    ring = MemoryRing(checked_spec(capacity, width=1))
    reader = ring.reader()
    count = EligibleCount(reader, drop)
    longest = int(rng.integers(1, capacity + 1))
    for looks in range(40):
        for _ in range(int(rng.integers(0, 4)) if looks % 20 else 30):
            ring.append(int(rng.integers(1, longest + 1)))
        live = reader.live
        assert count.at(live) == naive(ring, live, drop)
        assert EligibleCount(reader, drop).at(live) == naive(ring, live, drop)


def test_frames_given_up_by_an_append_that_died_are_not_counted() -> None:
    ring = MemoryRing(checked_spec(100, width=1))
    for frames in (60, 100):
        ring.append(frames)
    count = EligibleCount(ring.reader(), 5)
    assert count.at(ring.reader().live) == 95
    ring.counters.low, ring.counters.intent = 160 + 90 - ring.rows, 160 + 90
    live = ring.reader().live
    assert len(live) < 100
    assert count.at(live) == naive(ring, live, 5) == len(live) - 5


@pytest.mark.parametrize("length", [1, 2, 100, 1000, 100_000])
def test_the_first_look_costs_by_the_episode_or_by_the_piece(length: int) -> None:
    ring = turned(100_000, length)
    reader = ring.reader()
    looks = counted_looks(reader)
    live = reader.live
    assert EligibleCount(reader, 1).at(live) == naive(ring, live, 1)
    assert looks[0] <= min(100_000 // length, 2 * 256 + 4)


def test_a_later_look_costs_by_what_is_new() -> None:
    ring = turned(100_000, 100)
    reader = ring.reader()
    count = EligibleCount(reader, 3)
    count.at(reader.live)
    looks = counted_looks(reader)
    assert count.at(reader.live) == naive(ring, reader.live, 3)
    assert looks[0] == 0
    for _ in range(5):
        ring.append(70)
    assert count.at(reader.live) == naive(ring, reader.live, 3)
    assert looks[0] == 5


def counted_looks(reader: RingReader) -> list[int]:
    """Counts how often `reader` is asked where episodes end, from now on."""
    looks, real = [0], reader.ends_of

    def ends_of(index: np.ndarray) -> Any:
        looks[0] += 1
        return real(index)

    vars(reader)["ends_of"] = ends_of
    return looks


def test_a_look_that_writers_overtake_is_no_count() -> None:
    """A reader stands still before each of its steps while episodes are appended; never a lie."""
    overtaken = counted = 0
    for stop in range(60):
        ring = MemoryRing(checked_spec(100, width=1))
        for frames in (40, 40, 15, 30, 21):
            ring.append(frames)
        reader = ring.reader()
        count = EligibleCount(reader, 2)
        live = reader.live
        expected = naive(ring, live, 2)
        steps = iter(range(stop + 1))

        def stand_still(step: str, ring: MemoryRing = ring, steps: Any = steps) -> None:
            if next(steps, None) == 0:
                return
            if next(steps, "over") == "over":
                ring.on_read = lambda step: None
                for _ in range(3):
                    ring.append(90)

        ring.on_read = stand_still
        got = count.at(live)
        ring.on_read = lambda step: None
        assert got in (None, expected)
        overtaken += got is None
        counted += got is not None
        assert count.at(reader.live) == naive(ring, reader.live, 2), "and it recovers"
    assert overtaken
    assert counted


def test_beside_a_writer_every_count_is_that_of_its_window() -> None:
    """Steps of the writer between looks; a window's count is found by the lengths appended."""
    lengths: list[int] = []
    rng = np.random.default_rng(3)

    def next_length() -> int:
        lengths.append(int(rng.integers(1, 60)))
        return lengths[-1]

    ring = MemoryRing(checked_spec(100, width=1))
    reader = ring.reader()
    count = EligibleCount(reader, 4)
    with Writer(ring, next_length) as writer:
        for _ in range(300):
            writer.advance(int(rng.integers(0, 9)))
            live = reader.live
            ends = np.cumsum(lengths)
            index = np.arange(live.start, live.end)
            following = ends[np.searchsorted(ends, index, side="right")] - index - 1
            assert count.at(live) == int((following >= 4).sum())


class TestSampler:
    def test_each_batch_comes_with_the_count_of_its_moment(self) -> None:
        ring = MemoryRing(checked_spec(100, width=1))
        sampler = UniformSampler(
            ring.reader(), SampleQuery(10, View(keys=()), 3), np.random.default_rng(0), count=True
        )
        for frames in (5, 60, 2, 80, 33, 100, 1):
            ring.append(frames)
            sampler.batch()
            assert sampler.eligible == naive(ring, ring.reader().live, 3)

    def test_without_being_asked_it_counts_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def never(*_: object) -> None:
            raise AssertionError("counted all the same")

        monkeypatch.setattr(EligibleCount, "__init__", never)
        monkeypatch.setattr(EligibleCount, "at", never)
        ring = turned(1000, 10)
        sampler = UniformSampler(ring.reader(), SampleQuery(10, View(keys=()), 3))
        sampler.batch()
        assert sampler.eligible is None

    def test_a_count_that_was_overtaken_is_made_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ring = turned(1000, 10)
        real: Callable[..., int | None] = EligibleCount.at
        answers = iter([None, None])
        monkeypatch.setattr(
            EligibleCount, "at", lambda count, live: next(answers, real(count, live))
        )
        sampler = UniformSampler(ring.reader(), SampleQuery(10, View(keys=()), 3), count=True)
        sampler.batch()
        assert sampler.eligible == 700
