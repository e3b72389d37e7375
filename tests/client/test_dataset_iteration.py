"""RemoteDataset: iteration, which fetches blocks ahead and shows what changes meanwhile."""

from __future__ import annotations

import numpy as np
import pytest

from replayring.dataset import RemoteDataset
from tests.client.torch_buffers import MakeBuffer, count_calls, episode, make_naive, rollout

pytest_plugins = ["tests.client.torch_fixtures"]


def test_iteration_gives_the_items_in_order(make_buffer: MakeBuffer) -> None:
    dataset = RemoteDataset(make_buffer(), {"action": [-0.1, 0.0]})
    dataset.add_data(rollout(30, 41))
    items = list(dataset)
    assert len(items) == 71
    for position in (0, 1, 2, 3, 7, 30, 63, 70):
        single = dataset[position]
        assert items[position].keys() == single.keys()
        assert all(items[position][key].equal(single[key]) for key in single)


def test_iteration_fetches_blocks() -> None:
    dataset = RemoteDataset(make_naive(capacity=600))
    dataset.add_data(rollout(600))
    calls = count_calls(dataset.buffer)
    assert sum(1 for _ in dataset) == 600
    assert calls.count("get") <= 12


def test_large_frames_are_fetched_one_by_one() -> None:
    data_spec = {"video": {"shape": (3, 512, 1024), "dtype": "uint8"}}
    dataset = RemoteDataset(make_naive(data_spec=data_spec), {"video": [0.0, 0.1]})
    dataset.buffer.add_episode({"video": np.zeros((4, 3, 512, 1024), np.uint8)})
    calls = count_calls(dataset.buffer)
    assert sum(1 for _ in dataset) == 4
    assert calls.count("get") == 4


def test_iteration_sees_what_it_adds(make_buffer: MakeBuffer) -> None:
    dataset = RemoteDataset(make_buffer(capacity=20))
    dataset.add_data(rollout(20))
    seen = []
    for position, item in enumerate(dataset):
        seen.append(int(item["index"]))
        if position == 4:  # overwrites slots 0 to 6; five and six come as they are now
            dataset.add_data(rollout(7))
    assert seen == [0, 1, 2, 3, 4, 25, 26, *range(7, 20)]


def test_iteration_follows_growth_to_the_new_end(make_buffer: MakeBuffer) -> None:
    dataset = RemoteDataset(make_buffer())
    dataset.add_data(rollout(3))
    seen = []
    for item in dataset:
        seen.append(int(item["index"]))
        if len(seen) == 3:
            dataset.buffer.add_episode(episode(2))
    assert seen == [0, 1, 2, 3, 4]


def test_iteration_sees_new_windows() -> None:
    dataset = RemoteDataset(make_naive())
    dataset.add_data(rollout(10))
    shapes = []
    for item in dataset:
        shapes.append(tuple(item["action"].shape))
        if len(shapes) == 4:
            dataset.set_delta_timestamps({"action": [0.0, 0.1]})
    assert shapes == [()] * 4 + [(2,)] * 6


def test_iteration_raises_at_the_item_that_fails(make_buffer: MakeBuffer) -> None:
    dataset = RemoteDataset(make_buffer(), {"action": [0.1]})
    data = rollout(8)
    data["timestamp"] = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.9, 1.0, 1.1])
    dataset.add_data(data)
    dataset.tolerance_s = 0.02
    seen: list[int] = []
    with pytest.raises(AssertionError):
        seen.extend(int(item["index"]) for item in dataset)
    assert seen == [0, 1, 2, 3]


def test_iterations_are_independent(make_buffer: MakeBuffer) -> None:
    dataset = RemoteDataset(make_buffer())
    dataset.add_data(rollout(6))
    pairs = [(int(a["index"]), int(b["index"])) for a in dataset for b in dataset]
    assert pairs == [(a, b) for a in range(6) for b in range(6)]
