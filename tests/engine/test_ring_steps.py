"""The write side of the ring, step by step: what a reader or a successor sees in between."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from replayring_proto import layout
from replayring_proto.errors import StorageError
from replayring_proto.ring import MakingRoom
from tests.engine.frames import checked_spec
from tests.engine.rings import MemoryRing

# Capacity, and lengths of episodes: within and beyond the slack of 64, and as long as can be.
RINGS = [
    (5, [1, 3, 5, 5, 2]),
    (70, [30, 64, 65, 70, 1, 70, 66]),
    (200, [90, 200, 64, 65, 199, 200]),
]
SLICES = 3
PIECES = [1, 3]
"""Episodes of an append."""


class Died(Exception):
    """The process that was appending is gone."""


def ring_of(capacity: int, pieces: int = 1) -> MemoryRing:
    return MemoryRing(checked_spec(capacity), slices=SLICES, pieces=pieces)


def steps_of(ring: MemoryRing, frames: int) -> list[str]:
    """Appends an episode and returns the steps, without the reading of counters."""
    steps: list[str] = []
    ring.on_write = steps.append
    ring.append(frames, lambda: steps.append("before publish"))
    ring.on_write = lambda step: None
    return [step for step in steps if not step.startswith("read")]


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize(("capacity", "lengths"), RINGS)
def test_an_append_stores_low_then_intent_then_rows_then_head(
    capacity: int, lengths: list[int], pieces: int
) -> None:
    for frames in lengths * 4:
        ring = ring_of(capacity, pieces)
        for earlier in lengths * 3:
            ring.append(earlier)
        steps = steps_of(ring, frames)
        if "low" in steps:  # announced by as much of `intent` as goes with the window before it
            assert steps[:2] == ["intent", "low"]
            del steps[:2]
        assert steps[0] == "intent"
        assert steps[-2:] == ["before publish", "head"]
        assert set(steps[1:-2]) == {*layout.stored_columns(ring.spec)}


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize(("capacity", "lengths"), RINGS)
def test_low_rises_only_for_an_episode_longer_than_the_slack(
    capacity: int, lengths: list[int], pieces: int
) -> None:
    """And only when the ring is so full that its rows reach into the live window."""
    ring = ring_of(capacity, pieces)
    for frames in lengths * 6:
        head = ring.counters.head
        live_start = ring.reader().live.start
        reaches = head + frames - ring.rows > live_start
        assert ("low" in steps_of(ring, frames)) == reaches
        assert not reaches or frames > ring.slack
        assert reaches or ring.counters.low <= live_start


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize(("capacity", "lengths"), RINGS)
def test_at_each_step_of_an_append_every_live_frame_is_whole(
    capacity: int, lengths: list[int], pieces: int
) -> None:
    """Whole, contiguous, the newest ones there are, and all published episodes but no other."""
    ring = ring_of(capacity, pieces)
    seen = 0

    def look(step: str) -> None:
        nonlocal seen
        if step.startswith("read"):
            return
        seen += 1
        arrays = ring.assert_live_frames_are_whole()
        assert not len(arrays["a.tag"]) or arrays["a.tag"][-1] == ring.episodes
        assert len(arrays["index"]) <= capacity

    ring.on_write = look
    for frames in lengths * 3:
        ring.append(frames, lambda: look("before publish"))
    assert seen > 8 * SLICES * len(lengths)


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize(("capacity", "lengths"), RINGS)
def test_what_lives_during_an_append_is_all_but_what_the_slack_cannot_spare(
    capacity: int, lengths: list[int], pieces: int
) -> None:
    ring = ring_of(capacity, pieces)
    for frames in lengths * 3:
        before = ring.reader().live
        expected = max(before.start, before.end + frames - ring.rows)

        def look(step: str, expected: int = expected) -> None:
            if step not in ("low", "intent") and not step.startswith("read"):
                assert ring.reader().live.start == expected

        ring.on_write = look
        ring.append(frames)
        ring.on_write = lambda step: None
        live = ring.reader().live
        assert (live.start, live.end) == (max(0, live.end - capacity), before.end + frames)


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize(("capacity", "lengths"), RINGS[1:])  # longer than the slack, some
def test_a_steady_window_is_never_one_that_an_append_made_short(
    capacity: int, lengths: list[int], pieces: int
) -> None:
    """At any step of it."""
    ring = ring_of(capacity, pieces)
    refused = 0

    def look(step: str) -> None:
        nonlocal refused
        ring.on_write = lambda step: None
        try:
            live = ring.reader().window(steady=True)
            assert len(live) == min(live.end, capacity)
        except MakingRoom:
            refused += 1
        ring.on_write = look

    ring.on_write = look
    for frames in lengths * 3:
        ring.append(frames, lambda: look("before publish"))
    assert refused
    assert len(ring.reader().window(steady=True)) == capacity


def test_a_window_that_is_short_for_good_is_steady() -> None:
    ring = ring_of(70)
    ring.append(70)
    ring.counters.low = 10  # as after a power loss
    assert len(ring.reader().window(steady=True)) == 60
    ring.append(5)
    assert len(ring.reader().window(steady=True)) == 65


def die_at(ring: MemoryRing, frames: int, step_number: int) -> bool:
    """Dies before that step of appending an episode; False if the append has fewer steps."""
    count = 0

    def count_down(step: str) -> None:
        nonlocal count
        if step.startswith("read"):
            return
        count += 1
        if count > step_number:
            raise Died

    ring.on_write = count_down
    try:
        ring.append(frames, lambda: count_down("before publish"))
    except Died:
        return True
    finally:
        ring.on_write = lambda step: None
        ring.writer = ring.open_writer()
    return False


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize("frames", [1, 5, 64])
def test_an_append_within_the_slack_that_dies_at_any_step_loses_nothing(
    frames: int, pieces: int
) -> None:
    step = 0
    while True:
        ring = ring_of(70, pieces)
        for earlier in (30, 64, 70, 41):
            ring.append(earlier)
        before = ring.assert_live_frames_are_whole()
        if not die_at(ring, frames, step):
            break
        after = ring.assert_live_frames_are_whole()
        for name in before:
            np.testing.assert_array_equal(after[name], before[name])
        step += 1
    assert step > len(layout.stored_columns(ring.spec))


@pytest.mark.parametrize("frames", [65, 70])
def test_a_longer_append_that_dies_costs_what_the_slack_cannot_spare(frames: int) -> None:
    """What lives stays whole, is the newest, and is no less than the slack."""
    step = 0
    while True:
        ring = ring_of(70)
        for earlier in (30, 64, 70, 41):
            ring.append(earlier)
        head = ring.counters.head
        if not die_at(ring, frames, step):
            break
        arrays = ring.assert_live_frames_are_whole()
        assert arrays["index"][-1] == head - 1
        assert len(arrays["index"]) in (70, ring.rows - frames)
        assert len(arrays["index"]) >= ring.slack
        step += 1
    assert step > len(layout.stored_columns(ring.spec))


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize(("capacity", "lengths"), RINGS)
def test_deaths_upon_deaths_leave_a_ring_that_goes_on(
    capacity: int, lengths: list[int], pieces: int
) -> None:
    """At random steps of random appends; each successor takes over what the last one left."""
    random = np.random.default_rng(capacity)
    ring = ring_of(capacity, pieces)
    deaths = 0
    for _ in range(150):
        frames = int(random.choice(lengths))
        deaths += die_at(ring, frames, int(random.integers(0, 40)))
        arrays = ring.assert_live_frames_are_whole()
        assert not len(arrays["a.tag"]) or arrays["a.tag"][-1] == ring.episodes
    assert deaths > 50


def test_intent_never_falls() -> None:
    """Its rows stay suspect to readers that picked them before the append that died."""
    ring = ring_of(70)
    ring.append(70)
    assert die_at(ring, 60, 5)
    assert ring.counters.intent == 130
    ring.append(3)
    assert ring.counters.intent == 130
    assert ring.counters.head == 73
    ring.append(60)
    assert ring.counters.intent == 133


def test_a_failure_before_publishing_publishes_nothing_and_the_next_append_succeeds() -> None:
    ring = ring_of(5)
    ring.append(3)

    def fail() -> None:
        raise Died

    with pytest.raises(Died):
        ring.append(4, fail)
    assert ring.assert_live_frames_are_whole()["a.tag"].tolist() == [1, 1, 1]
    ring.append(2)
    assert ring.assert_live_frames_are_whole()["a.tag"].tolist() == [1, 1, 1, 2, 2]


def damage(low: int, head: int, intent: int) -> Callable[[MemoryRing], None]:
    def apply(ring: MemoryRing) -> None:
        counters = ring.counters
        counters.low, counters.head, counters.intent = low, head, intent

    return apply


@pytest.mark.parametrize(
    "apply",
    [
        damage(-1, 0, 0),
        damage(5, 3, 10),  # low beyond head
        damage(0, 10, 5),  # published, but never meant to be written
        damage(0, 0, 200),  # more was being written than there are rows
        damage(0, 100, 170),  # rows of live frames were being written
        damage(1 << 62, 1 << 62, -5),
    ],
)
def test_counters_that_contradict_each_other_are_refused(
    apply: Callable[[MemoryRing], None],
) -> None:
    ring = ring_of(70)
    apply(ring)
    with pytest.raises(StorageError, match="cursor is damaged"):
        ring.open_writer()
