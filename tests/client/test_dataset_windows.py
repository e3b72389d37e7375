"""RemoteDataset: windows in seconds and in frames, padding and tolerance."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from replayring.dataset import RemoteDataset
from replayring_proto.errors import InvalidRequestError
from tests.client.torch_buffers import (
    FPS,
    MakeBuffer,
    make_naive,
    rollout,
)

pytest_plugins = ["tests.client.torch_fixtures"]


def window(dataset: RemoteDataset, position: int, key: str = "index") -> tuple[list, list]:
    """The window of one item and its mask."""
    item = dataset[position]
    assert item[f"{key}_is_pad"].dtype == torch.bool
    return item[key].tolist(), item[f"{key}_is_pad"].tolist()


# Setting windows


def test_delta_timestamps_are_kept_as_arrays(make_buffer: MakeBuffer) -> None:
    offsets = {
        "state": [-0.1, 0],
        "action": np.array([0.0, 0.1]),
        "index": torch.tensor([0.0]),
    }
    dataset = RemoteDataset(make_buffer(), offsets)
    kept = dataset.delta_timestamps
    assert kept.keys() == {"state", "action", "index"}
    assert all(isinstance(value, np.ndarray) for value in kept.values())
    assert kept["state"].tolist() == [-0.1, 0.0]
    kept["state"][:] = 5
    offsets["action"][:] = 5
    assert dataset.delta_timestamps["state"].tolist() == [-0.1, 0.0]
    assert dataset.delta_timestamps["action"].tolist() == [0.0, 0.1]
    dataset.set_delta_timestamps(None)
    assert dataset.delta_timestamps is None


def test_no_windows_is_not_the_same_as_none(make_buffer: MakeBuffer) -> None:
    dataset = RemoteDataset(make_buffer(), {})
    dataset.add_data(rollout(2))
    assert dataset.delta_timestamps == {}
    assert dataset[0].keys() == RemoteDataset(dataset.buffer)[0].keys()


@pytest.mark.parametrize(
    "value",
    [
        {"nothing": [0.0]},
        {"state": []},
        {"state": [float("nan")]},
        {"state": [float("inf")]},
        {"state": ["now"]},
        {"state": [[0.0, 0.1]]},
        {"state": 0.1},
        [("state", [0.0])],
        {"action": [0.0]},  # which has a window in frames already
    ],
)
def test_windows_that_cannot_be_are_errors_when_set(make_buffer: MakeBuffer, value: object) -> None:
    dataset = RemoteDataset(make_buffer(), {"state": [0.1]}, delta_indices={"action": [0]})
    with pytest.raises(InvalidRequestError):
        dataset.set_delta_timestamps(value)
    assert dataset.delta_timestamps.keys() == {"state"}
    with pytest.raises(InvalidRequestError):
        RemoteDataset(dataset.buffer, value, delta_indices={"action": [0]})


def test_seconds_without_fps_are_an_error_when_set(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer(fps=None)
    with pytest.raises(ValueError, match="fps"):
        RemoteDataset(buffer, {"state": [0.0]})
    dataset = RemoteDataset(buffer)
    with pytest.raises(ValueError, match="fps"):
        dataset.set_delta_timestamps({"state": [0.0]})
    assert dataset.fps is None
    assert dataset.tolerance_s is None


@pytest.mark.parametrize("value", [{"nothing": [0]}, {"state": [0.5]}, {"state": []}, [0]])
def test_delta_indices_are_checked_at_once(make_buffer: MakeBuffer, value: object) -> None:
    with pytest.raises(InvalidRequestError):
        RemoteDataset(make_buffer(), delta_indices=value)


def test_tolerance(make_buffer: MakeBuffer) -> None:
    dataset = RemoteDataset(make_buffer())
    assert dataset.tolerance_s == 1 / FPS - 1e-4
    dataset.tolerance_s = 0.04
    assert dataset.tolerance_s == 0.04
    for bad in (-0.1, float("nan"), float("inf")):
        with pytest.raises(InvalidRequestError):
            dataset.tolerance_s = bad
    assert dataset.tolerance_s == 0.04
    dataset.tolerance_s = None
    assert dataset.tolerance_s == 1 / FPS - 1e-4


# Windows in seconds


def test_within_tolerance(make_buffer: MakeBuffer) -> None:
    dataset = RemoteDataset(make_buffer(), {"index": [-0.2, 0, 0.139]})
    dataset.add_data(rollout(5))
    dataset.tolerance_s = 0.04
    assert window(dataset, 2) == ([0, 2, 3], [False] * 3)


def test_beyond_tolerance_inside_the_episode(make_buffer: MakeBuffer) -> None:
    dataset = RemoteDataset(make_buffer(), {"index": [-0.2, 0, 0.141]})
    dataset.add_data(rollout(5))
    dataset.tolerance_s = 0.04
    with pytest.raises(AssertionError):
        dataset[2]
    with pytest.raises(AssertionError):
        dataset.__getitems__([4, 2])
    assert window(dataset, 4) == ([2, 4, 4], [False, False, True])


def test_beyond_tolerance_outside_the_episode(make_buffer: MakeBuffer) -> None:
    dataset = RemoteDataset(make_buffer(), {"index": [-0.3, -0.24, 0, 0.26, 0.3]})
    dataset.add_data(rollout(5))
    dataset.tolerance_s = 0.04
    assert window(dataset, 2) == ([0, 0, 2, 4, 4], [True, False, False, True, True])


def test_windows_stay_within_their_episode(make_buffer: MakeBuffer) -> None:
    dataset = RemoteDataset(make_buffer(), {"index": [-0.2, -0.1, 0.0, 0.1, 0.2]})
    dataset.add_data(rollout(3, 4, 3))
    assert window(dataset, 3) == ([3, 3, 3, 4, 5], [True, True, False, False, False])
    assert window(dataset, 6) == ([4, 5, 6, 6, 6], [False, False, False, True, True])


def test_windows_of_every_column(make_buffer: MakeBuffer) -> None:
    keys = ["state", "action", "image", "index", "episode_index", "frame_index", "timestamp"]
    dataset = RemoteDataset(make_buffer(), {key: [-0.1, 0.0, 0.1] for key in keys})
    data = rollout(4, 3)
    dataset.add_data(data)
    item = dataset[4]
    assert item.keys() == {*keys, *(f"{key}_is_pad" for key in keys)}
    for key in keys:
        assert np.array_equal(item[key].numpy(), data[key][[4, 4, 5]])
        assert item[f"{key}_is_pad"].tolist() == [True, False, False]


def test_each_column_has_its_own_offsets(make_buffer: MakeBuffer) -> None:
    dataset = RemoteDataset(
        make_buffer(), {"state": [-0.1, 0.0]}, delta_indices={"action": [0, 1, 2]}
    )
    dataset.add_data(rollout(4))
    batch = torch.utils.data.default_collate(dataset.__getitems__([0, 3]))
    assert batch["state"].shape == (2, 2, 2, 3)
    assert batch["state_is_pad"].tolist() == [[True, False], [False, False]]
    assert batch["action"].tolist() == [[0, -1, -2], [-3, -3, -3]]
    assert batch["action_is_pad"].tolist() == [[False] * 3, [False, True, True]]
    assert batch["image"].shape == (2, 2)


def test_a_repeated_last_timestamp_can_be_reached(make_buffer: MakeBuffer) -> None:
    """Rollouts copy-pad their last frame, timestamp included; the copy is the last observation."""
    dataset = RemoteDataset(make_buffer(), {"index": [-0.1, 0.0, 0.1]})
    data = rollout(4)
    data["timestamp"] = np.array([0.0, 0.1, 0.2, 0.2])
    dataset.add_data(data)
    assert window(dataset, 1) == ([0, 1, 2], [False] * 3)  # asked for exactly: the nearer one
    assert window(dataset, 2) == ([1, 2, 3], [False, False, True])  # beyond: the last one
    assert window(dataset, 3) == ([1, 3, 3], [False, False, True])  # offset 0 is the frame itself


def test_equally_far_the_earlier_frame(make_buffer: MakeBuffer) -> None:
    dataset = RemoteDataset(make_buffer(fps=4), {"index": [0.125, -0.125]})
    dataset.add_data(rollout(4, fps=4))
    assert window(dataset, 1) == ([1, 0], [False, False])


def test_a_padded_query_on_the_last_timestamp_is_inside() -> None:
    dataset = RemoteDataset(make_naive(fps=4), {"index": [0.25]})
    data = rollout(3, fps=4)
    data["timestamp"] = np.array([0.0, 0.5, 0.5])
    dataset.add_data(data)
    dataset.tolerance_s = 0.125
    with pytest.raises(AssertionError):
        dataset[0]
    assert window(dataset, 1) == ([2], [True])


# Windows in frames


def test_windows_in_frames(make_buffer: MakeBuffer) -> None:
    dataset = RemoteDataset(make_buffer(fps=None), delta_indices={"index": [-2, 0, 1, 50]})
    dataset.add_data(rollout(3, 4))
    assert window(dataset, 0) == ([0, 0, 1, 2], [True, False, False, True])
    assert window(dataset, 5) == ([3, 5, 6, 6], [False, False, False, True])


def test_next_observation_is_a_window(make_buffer: MakeBuffer) -> None:
    dataset = RemoteDataset(make_buffer(), delta_indices={"state": [0, 1]})
    data = rollout(4)
    dataset.add_data(data)
    for position in range(3):
        item = dataset[position]
        assert np.array_equal(item["state"].numpy(), data["state"][position : position + 2])
        assert not item["state_is_pad"].any()


# Windows in a ring


@pytest.mark.parametrize("kind", ["seconds", "frames"])
def test_an_episode_that_wraps_is_one(make_buffer: MakeBuffer, kind: str) -> None:
    """Its window crosses the ring's end; padding and range follow the episode, not the slots."""
    deltas = {"index": [-0.1, 0.0, 0.1]} if kind == "seconds" else None
    indices = {"index": [-1, 0, 1]} if kind == "frames" else None
    dataset = RemoteDataset(make_buffer(capacity=10), deltas, delta_indices=indices)
    dataset.add_data(rollout(7, 6))  # frames 7..12, in slots 7, 8, 9, 0, 1, 2
    assert window(dataset, 9) == ([8, 9, 10], [False] * 3)
    assert window(dataset, 0) == ([9, 10, 11], [False] * 3)
    assert window(dataset, 7) == ([7, 7, 8], [True, False, False])
    assert window(dataset, 2) == ([11, 12, 12], [False, False, True])


@pytest.mark.parametrize("kind", ["seconds", "frames"])
def test_a_truncated_episode_is_a_shorter_one(make_buffer: MakeBuffer, kind: str) -> None:
    deltas = {"index": [-0.2, -0.1, 0.0]} if kind == "seconds" else None
    indices = {"index": [-2, -1, 0]} if kind == "frames" else None
    dataset = RemoteDataset(make_buffer(capacity=10), deltas, delta_indices=indices)
    dataset.add_data(rollout(7, 6))  # frames 0, 1, 2 of the first episode are gone
    assert window(dataset, 3) == ([3, 3, 3], [True, True, False])
    assert window(dataset, 4) == ([3, 3, 4], [True, False, False])
    assert window(dataset, 6) == ([4, 5, 6], [False] * 3)


def test_a_wrapped_gap_is_still_an_error(make_buffer: MakeBuffer) -> None:
    """The reference compared with the wrong ends of a wrapped episode, which any query passed."""
    dataset = RemoteDataset(make_buffer(capacity=10), {"index": [0.2]})
    data = rollout(7, 6)
    data["timestamp"][7:] = [0.0, 0.1, 0.2, 0.8, 0.9, 1.0]
    dataset.add_data(data)
    dataset.tolerance_s = 0.04
    with pytest.raises(AssertionError):
        dataset[8]
    assert window(dataset, 0) == ([12], [False])
    assert window(dataset, 2) == ([12], [True])
