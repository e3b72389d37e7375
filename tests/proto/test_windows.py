"""Which frames a window means, against a search through a list."""

from __future__ import annotations

from itertools import accumulate
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replayring_proto.errors import ToleranceError
from replayring_proto.ring import windows
from replayring_proto.ring.windows import Anchors, Resolved, by_frames, by_seconds
from tests.naive import Frame, frame_at_offset, frame_at_time

# Steps that make ties, repeated timestamps, holes, sums that binary fractions hold exactly, and
# sums that they do not.
steps = st.sampled_from([0.0, 0.0, 0.1, 0.1, 0.125, 0.25, 0.25, 1.0])
episodes = st.builds(
    lambda start, rest: list(accumulate(rest, initial=start)),
    st.sampled_from([0.0, -1.0, 7.5]),
    st.lists(steps, max_size=12),
)
seconds = st.sampled_from(
    [-100.0, -1.0, -0.25, -0.125, -0.1, -0.0625, 0.0, 0.0625, 0.1, 0.125, 0.2, 0.375, 100.0]
)


def frames_of(first: int, times: list[float]) -> list[Frame]:
    return [{"index": first + i, "timestamp": time} for i, time in enumerate(times)]


def anchors_of(first: int, count: int) -> Anchors:
    """Every frame of the episode as an anchor."""
    index = np.arange(first, first + count)
    return Anchors(index, np.full(count, first), np.full(count, first + count - 1))


def resolve(first: int, times: list[float], offsets: list[float], tolerance: float) -> Resolved:
    def times_at(index: np.ndarray) -> np.ndarray:
        return np.array(times)[index - first]

    return by_seconds(anchors_of(first, len(times)), np.array(offsets), tolerance, times_at)


@settings(max_examples=100)
@given(st.integers(0, 50), st.integers(1, 12), st.lists(st.integers(-15, 15), min_size=1))
def test_offsets_in_frames_find_what_a_search_finds(
    first: int, count: int, offsets: list[int]
) -> None:
    episode = frames_of(first, [0.0] * count)
    resolved = by_frames(anchors_of(first, count), np.array(offsets))
    expected = [[frame_at_offset(episode, f, offset) for offset in offsets] for f in episode]
    assert resolved.index.tolist() == [[f["index"] for f, _ in row] for row in expected]
    assert resolved.is_pad.tolist() == [[is_pad for _, is_pad in row] for row in expected]
    assert resolved.misses is None


@settings(max_examples=300)
@given(
    st.integers(0, 50),
    episodes,
    st.lists(seconds, min_size=1, max_size=5),
    st.sampled_from([0.0, 0.125, 0.2, 3.0]),
    st.sampled_from([1, 7, 1 << 14]),
)
def test_offsets_in_seconds_find_what_a_search_finds(
    first: int, times: list[float], offsets: list[float], tolerance: float, at_once: int
) -> None:
    """Ties, repeated timestamps, holes, and both ends: frame by frame, however many at once."""
    episode = frames_of(first, times)
    with mock.patch.object(windows, "_ENTRIES_AT_ONCE", at_once):
        resolved = resolve(first, times, offsets, tolerance)
    assert resolved.index.shape == (len(times), len(offsets))
    assert resolved.misses is not None
    for row, frame in enumerate(episode):
        for column, offset in enumerate(offsets):
            misses = bool(resolved.misses[row, column])
            try:
                expected, is_pad = frame_at_time(episode, frame, offset, tolerance)
            except ToleranceError:
                assert misses
                continue
            assert not misses
            assert resolved.index[row, column] == expected["index"]
            assert resolved.is_pad[row, column] == is_pad


@settings(max_examples=100)
@given(episodes, st.sampled_from([0.0, 0.125, 3.0]))
def test_an_offset_of_zero_is_the_frame_itself(times: list[float], tolerance: float) -> None:
    """Also among frames with the same timestamp."""
    resolved = resolve(10, times, [0.0], tolerance)
    assert resolved.index[:, 0].tolist() == list(range(10, 10 + len(times)))
    assert not resolved.is_pad.any()


def test_a_final_observation_with_a_repeated_timestamp_can_be_reached() -> None:
    """Asked from beyond, the outermost of the equal frames answers."""
    times = [0.0, 0.1, 0.2, 0.2]
    resolved = resolve(0, times, [0.1], tolerance=0.05)
    assert resolved.index[:, 0].tolist() == [1, 2, 3, 3]
    assert resolved.is_pad[:, 0].tolist() == [False, False, True, True]


def test_rounding_does_not_pass_by_the_first_of_two_frames_with_one_timestamp() -> None:
    """0.2 + 0.1 is a little above 0.3: the next frame is meant all the same, not the one after."""
    times = [0.0, 0.1, 0.2, 0.3, 0.3]
    resolved = resolve(0, times, [0.1, 0.2], tolerance=0.05)
    assert resolved.index.tolist() == [[1, 2], [2, 3], [3, 4], [4, 4], [4, 4]]


def test_at_equal_distance_the_earlier_frame_answers() -> None:
    assert resolve(0, [0.0, 1.0], [0.5, -0.5], tolerance=1.0).index.tolist() == [[0, 0], [1, 0]]


@pytest.mark.parametrize(("query", "misses"), [(0.4, True), (-0.4, False), (2.4, False)])
def test_a_hole_inside_the_episode_is_a_miss_and_an_end_is_padding(
    query: float, misses: bool
) -> None:
    resolved = resolve(0, [0.0, 1.0, 2.0], [query], tolerance=0.3)
    assert resolved.misses is not None
    assert resolved.misses[0, 0] == misses
    assert resolved.is_pad[0, 0]


def test_anchors_of_many_episodes_are_resolved_at_once_and_apart() -> None:
    times = np.array([0.0, 1.0, 2.0, 0.0, 1.0])
    anchors = Anchors(np.array([2, 3, 0]), np.array([0, 3, 0]), np.array([2, 4, 2]))
    resolved = by_seconds(anchors, np.array([-1.0, 1.0]), 0.1, lambda index: times[index])
    assert resolved.index.tolist() == [[1, 2], [3, 4], [0, 1]]
    assert resolved.is_pad.tolist() == [[False, True], [True, False], [True, False]]


def test_the_number_of_lookups_grows_with_the_logarithm_of_the_episode() -> None:
    """Times are looked up for the whole batch at once, a dozen rounds for a thousand frames."""
    asked = []

    def times_at(index: np.ndarray) -> np.ndarray:
        asked.append(index.size)
        return index.astype(np.float64)

    for length in (1_000, 1_000_000):
        anchors = anchors_of(0, 8)
        anchors = Anchors(anchors.index, anchors.first, np.full(8, length - 1))
        by_seconds(anchors, np.array([-3.0, 0.0, 5.0]), 0.1, times_at)
    assert len(asked) < 2 * (10 + 20) + 30
