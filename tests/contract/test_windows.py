"""The frames around a frame: by count and by time, padded at the ends of what is alive."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from replayring_proto.errors import InvalidSpecError, LimitExceededError, ToleranceError
from tests.contract.data import DATA_SPEC, FPS, PRESETS, episode, make
from tests.contract.transports import BufferUnderTest, Transport

NAN, INF = float("nan"), float("inf")


def two_episodes(transport: Transport, name: str) -> BufferUnderTest:
    """Returns a buffer with frames 0 to 4 and 5 to 7."""
    buffer = make(transport, name)
    buffer.add_episodes([episode(5), episode(3, 5)])
    return buffer


def around(buffer: BufferUnderTest, index: int, **view: Any) -> tuple[list[int], list[bool]]:
    """Returns the frames in the window of `state` around a frame, and which are padding."""
    fetched = buffer.get(indices=[index], **view)
    return fetched["state"][0, :, 0].astype(int).tolist(), fetched["state_is_pad"][0].tolist()


def by_count(buffer: BufferUnderTest, index: int, *offsets: int) -> tuple[list[int], list[bool]]:
    return around(buffer, index, delta_indices={"state": offsets})


def by_time(
    buffer: BufferUnderTest, index: int, *offsets: float, **options: Any
) -> tuple[list[int], list[bool]]:
    return around(buffer, index, delta_timestamps={"state": offsets}, **options)


def test_window_by_count_stays_in_the_episode(transport: Transport, name: str) -> None:
    buffer = two_episodes(transport, name)
    assert by_count(buffer, 2, -2, -1, 0, 1, 2) == ([0, 1, 2, 3, 4], [False] * 5)
    assert by_count(buffer, 4, 0, 1, 100) == ([4, 4, 4], [False, True, True])
    assert by_count(buffer, 5, -(1 << 40), -1, 0, 2, 1 << 40) == (
        [5, 5, 5, 7, 7],
        [True, True, False, False, True],
    )
    assert by_count(buffer, 6, 1, -1, 1, 0) == ([7, 5, 7, 6], [False] * 4)  # in the order asked


def test_window_by_time_takes_the_nearest_frame(transport: Transport, name: str) -> None:
    buffer = two_episodes(transport, name)
    assert by_time(buffer, 2, -0.2, -0.1, 0, 0.1, 0.2) == ([0, 1, 2, 3, 4], [False] * 5)
    assert by_time(buffer, 2, 0.04, -0.04, 0.06, -0.06) == ([2, 2, 3, 1], [False] * 4)
    assert by_time(buffer, 4, 0, 0.1, 5) == ([4, 4, 4], [False, True, True])
    assert by_time(buffer, 5, -1, -0.1, 0.05) == ([5, 5, 5], [True, True, False])


def test_default_tolerance_is_just_under_a_frame(transport: Transport, name: str) -> None:
    buffer = two_episodes(transport, name)
    just_within, just_beyond = 1 / FPS - 2e-4, 1 / FPS - 5e-5
    assert by_time(buffer, 4, just_within) == ([4], [False])
    assert by_time(buffer, 4, just_beyond) == ([4], [True])


def test_tolerance_can_be_chosen(transport: Transport, name: str) -> None:
    buffer = two_episodes(transport, name)
    assert by_time(buffer, 4, 0.15, 0.25, tolerance_s=0.2) == ([4, 4], [False, True])
    assert by_time(buffer, 4, 0.0, tolerance_s=0.0) == ([4], [False])


def test_gap_within_an_episode_is_an_assertion_error(transport: Transport, name: str) -> None:
    buffer = make(transport, name)
    buffer.add_episode(episode(4, timestamp=np.array([0.0, 0.1, 0.9, 1.0])))
    assert by_time(buffer, 1, 0.05) == ([1], [False])
    text = r"\+0\.4 s .* index 1; .* is 0\.4 s off, beyond tolerance_s=0\.0999\."
    with pytest.raises(ToleranceError, match=text) as caught:
        by_time(buffer, 1, 0.4)
    assert isinstance(caught.value, AssertionError)
    assert by_time(buffer, 1, 0.4, tolerance_s=0.5) == ([1], [False])
    with pytest.raises(AssertionError, match="tolerance_s"):
        buffer.sample(100, delta_timestamps={"state": [0.4]}, tolerance_s=0.1)


def test_repeated_timestamp_is_told_apart_by_order(transport: Transport, name: str) -> None:
    buffer = make(transport, name)
    buffer.add_episode(episode(4, timestamp=np.array([0.0, 0.1, 0.2, 0.2])))
    assert by_time(buffer, 3, 0) == ([3], [False])
    assert by_time(buffer, 2, 0) == ([2], [False])
    assert by_time(buffer, 1, 0.1)[0] == [2]
    assert by_time(buffer, 1, 0.15)[0] == [3]  # from beyond, the last answers
    assert by_time(buffer, 3, -0.1)[0] == [1]


def test_window_over_the_turn_of_the_ring(transport: Transport, name: str) -> None:
    buffer = make(transport, name, 7)
    buffer.add_episode(episode(4))
    buffer.add_episode(episode(6, 4))  # 3 to 9 live; 6 | 7 is where the ring turns
    assert by_count(buffer, 6, -1, 0, 1, 2) == ([5, 6, 7, 8], [False] * 4)
    assert by_time(buffer, 7, -0.3, -0.1, 0.2) == ([4, 6, 9], [False] * 3)
    assert by_count(buffer, 3, -1, 0, 1) == ([3, 3, 3], [True, False, True])


def test_window_stays_in_what_lives_of_a_truncated_episode(transport: Transport, name: str) -> None:
    buffer = make(transport, name, 7)
    buffer.add_episode(episode(6))
    buffer.add_episode(episode(4, 6))  # 3, 4, 5 live of the first
    assert by_count(buffer, 4, -2, -1, 0, 1, 2) == (
        [3, 3, 4, 5, 5],
        [True, False, False, False, True],
    )
    assert by_time(buffer, 4, -0.2, -0.1, 0.1) == ([3, 3, 5], [True, False, False])


def test_any_column_can_be_windowed_presets_too(transport: Transport, name: str) -> None:
    buffer = two_episodes(transport, name)
    presets = {key: [-1, 0] for key in PRESETS}
    fetched = buffer.get(indices=[3, 5], delta_indices=presets, delta_timestamps={"image": [0.1]})
    assert fetched["index"].tolist() == [[2, 3], [5, 5]]
    assert fetched["episode_index"].tolist() == [[0, 0], [1, 1]]
    assert fetched["frame_index"].tolist() == [[2, 3], [0, 0]]
    np.testing.assert_allclose(fetched["timestamp"], [[0.2, 0.3], [0, 0]])
    assert fetched["index_is_pad"].tolist() == [[False, False], [True, False]]
    assert fetched["image"].shape == (2, 1, 2, 3)
    assert fetched["image"][:, 0, 0, 0].tolist() == [4, 6]
    assert set(fetched) == PRESETS | DATA_SPEC.keys() | {f"{key}_is_pad" for key in PRESETS} | {
        "image_is_pad"
    }


def test_windowed_column_need_not_be_named_in_keys(transport: Transport, name: str) -> None:
    buffer = two_episodes(transport, name)
    fetched = buffer.get([0], keys=["done"], delta_indices={"state": [0, 1]})
    assert fetched.keys() == PRESETS | {"done", "state", "state_is_pad"}
    assert fetched["state"].shape == (1, 2, 2)


BAD_VIEWS: dict[str, dict[str, Any]] = {
    "unknown key": {"delta_indices": {"nope": [0]}},
    "unknown key by time": {"delta_timestamps": {"nope": [0]}},
    "no offsets": {"delta_indices": {"state": []}},
    "NaN": {"delta_timestamps": {"state": [0, NAN]}},
    "infinity": {"delta_timestamps": {"state": [INF]}},
    "two windows on a key": {"delta_timestamps": {"state": [0]}, "delta_indices": {"state": [0]}},
    "negative tolerance": {"delta_timestamps": {"state": [0]}, "tolerance_s": -0.1},
    "NaN as tolerance": {"delta_timestamps": {"state": [0]}, "tolerance_s": NAN},
}


@pytest.mark.parametrize("view", BAD_VIEWS.values(), ids=BAD_VIEWS.keys())
def test_bad_view_is_refused(transport: Transport, name: str, view: dict[str, Any]) -> None:
    buffer = two_episodes(transport, name)
    for ask in (lambda: buffer.get([0], **view), lambda: buffer.sample(2, **view)):
        with pytest.raises(InvalidSpecError):
            ask()


def test_too_many_offsets_are_refused(transport: Transport, name: str) -> None:
    buffer = two_episodes(transport, name)
    assert buffer.get([0], delta_indices={"state": range(4096)})["state"].shape == (1, 4096, 2)
    with pytest.raises(LimitExceededError, match="4,097"):
        buffer.get([0], delta_indices={"state": range(4097)})


def test_seconds_need_a_frame_rate(transport: Transport, name: str) -> None:
    buffer = transport.create_buffer(name, DATA_SPEC, 10)
    buffer.add_episode(episode(3))
    assert buffer.get([2])["timestamp"].tolist() == [2]  # the frame's number, without a rate
    assert by_count(buffer, 1, 1) == ([2], [False])
    with pytest.raises(InvalidSpecError, match="no fps"):
        by_time(buffer, 1, 1)
