"""`compute_sampler_weights`: exact on every ring, both offline layouts, every error."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from replayring.dataset import RemoteDataset
from replayring.weights import compute_sampler_weights
from tests.client.torch_buffers import (
    MakeBuffer,
    make_naive,
    rollout,
)

pytest_plugins = ["tests.client.torch_fixtures"]


class Offline:
    """An offline dataset as LeRobot's older versions have it."""

    def __init__(self, *lengths: int, as_type: Any = torch.tensor) -> None:
        ends = np.cumsum(lengths).tolist()
        self.count = sum(lengths)
        self.episode_data_index: dict[str, Any] = {}
        if lengths:
            self.episode_data_index = {"from": as_type([0, *ends[:-1]]), "to": as_type(ends)}

    def __len__(self) -> int:
        return self.count


class Column:
    """A lazy column, as `datasets` gives one: values one by one, or all at once by a slice."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, key: Any) -> Any:
        assert isinstance(key, slice), "value by value is too slow"
        return self.values[key]


class LaterOffline:
    """An offline dataset as LeRobot's later versions have it."""

    def __init__(
        self, *lengths: int, episodes: list[int] | None = None, as_type: Any = Column
    ) -> None:
        ends = np.cumsum(lengths, dtype=int).tolist()
        starts = [end - length for end, length in zip(ends, lengths, strict=True)]
        table = {"dataset_from_index": as_type(starts), "dataset_to_index": as_type(ends)}
        self.meta = SimpleNamespace(episodes=table if lengths else None)
        self.episodes = episodes
        chosen = range(len(lengths)) if episodes is None else sorted(episodes)
        self.index = [i for e in chosen for i in range(starts[e], ends[e])]

    def __len__(self) -> int:
        return len(self.index)


def online(make: MakeBuffer, *lengths: int, capacity: int = 100) -> RemoteDataset:
    dataset = RemoteDataset(make(capacity=capacity))
    if lengths:
        dataset.add_data(rollout(*lengths))
    return dataset


def check(weights: torch.Tensor, expected: Any) -> None:
    assert weights.dtype == torch.float32
    assert weights.ndim == 1
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float32))
    assert abs(float(weights.double().sum()) - 1) < 1e-6


# As the reference has it


@pytest.mark.parametrize("offline_size", [0, 1, 6])
@pytest.mark.parametrize("online_size", [0, 4])
@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_all_on_one_side(
    make_buffer: MakeBuffer, offline_size: int, online_size: int, ratio: float
) -> None:
    offline = Offline(*[offline_size] * (offline_size > 0))
    dataset = online(make_buffer, *[online_size // 2] * (online_size // 2))
    if not offline_size and not online_size:
        with pytest.raises(ValueError, match="nothing to sample"):
            compute_sampler_weights(offline, online_dataset=dataset, online_sampling_ratio=ratio)
        return
    weights = compute_sampler_weights(offline, online_dataset=dataset, online_sampling_ratio=ratio)
    sides = [not online_size or ratio == 0, not offline_size or ratio == 1]
    expected = np.repeat(np.array(sides, float), [offline_size, online_size])
    check(weights, (expected / expected.sum()).tolist())


def test_ratio(make_buffer: MakeBuffer) -> None:
    weights = compute_sampler_weights(Offline(4), 0, online(make_buffer, 2, 2, 2, 2), 0.8)
    check(weights, [0.05] * 4 + [0.1] * 8)


def test_ratio_and_drop(make_buffer: MakeBuffer) -> None:
    weights = compute_sampler_weights(Offline(4), 0, online(make_buffer, 2, 2, 2, 2), 0.8, 1)
    check(weights, [0.05] * 4 + [0.2, 0.0] * 4)


def test_drop_on_both_sides(make_buffer: MakeBuffer) -> None:
    weights = compute_sampler_weights(Offline(2), 1, online(make_buffer, 2, 2, 2, 2), 0.5, 1)
    check(weights, [0.5, 0] + [0.125, 0] * 4)


def test_arguments_have_the_references_names(make_buffer: MakeBuffer) -> None:
    weights = compute_sampler_weights(
        offline_dataset=Offline(2),
        offline_drop_n_last_frames=1,
        online_dataset=online(make_buffer, 2),
        online_sampling_ratio=0.5,
        online_drop_n_last_frames=1,
    )
    check(weights, [0.5, 0, 0.5, 0])


# What the reference got wrong


def test_drop_applies_without_online_data(make_buffer: MakeBuffer) -> None:
    check(compute_sampler_weights(Offline(3, 2), 1), [1 / 3, 1 / 3, 0, 1 / 3, 0])
    weights = compute_sampler_weights(Offline(3, 2), 1, online(make_buffer), 0.5, 1)
    check(weights, [1 / 3, 1 / 3, 0, 1 / 3, 0])
    weights = compute_sampler_weights(Offline(), 1, online(make_buffer, 3, 1), 0.2, 1)
    check(weights, [1 / 2, 1 / 2, 0, 0])


@pytest.mark.parametrize("drop", [2, 3, 50, 10**30])
def test_drop_may_exceed_an_episode(make_buffer: MakeBuffer, drop: int) -> None:
    weights = compute_sampler_weights(Offline(2, 3, 1), 2, online(make_buffer, 2, 51, 1), 0.5, 2)
    check(weights, [0, 0, 0.5, 0, 0, 0, 0, 0] + [0.5 / 49] * 49 + [0, 0, 0])
    with pytest.raises(ValueError, match="nothing to sample"):
        compute_sampler_weights(Offline(2, 1), drop)
    weights = compute_sampler_weights(Offline(2), drop, online(make_buffer, 4), 0.1, 0)
    check(weights, [0, 0] + [0.25] * 4)
    weights = compute_sampler_weights(Offline(2), 0, online(make_buffer, 2, 1), 0.9, drop)
    check(weights, [0.5, 0.5, 0, 0, 0])


def test_an_episode_that_wraps_is_one(make_buffer: MakeBuffer) -> None:
    # Frames 4..13 live: 10..13 in slots 0..3, 4..9 in slots 4..9; episodes 4..5 and 6..13.
    dataset = online(make_buffer, 6, 8, capacity=10)
    weights = compute_sampler_weights(Offline(), 0, dataset, 1.0, 1)
    check(weights, [1 / 8] * 3 + [0] + [1 / 8, 0] + [1 / 8] * 4)


def test_an_episode_as_long_as_the_ring(make_buffer: MakeBuffer) -> None:
    """Nothing but `index` tells where it begins."""
    dataset = online(make_buffer, 4, 10, capacity=10)  # frames 4..13, one episode; 13 in slot 3
    weights = compute_sampler_weights(Offline(), 0, dataset, 1.0, 2)
    check(weights, [1 / 8] * 2 + [0, 0] + [1 / 8] * 6)


def test_a_truncated_episode_is_a_shorter_one(make_buffer: MakeBuffer) -> None:
    dataset = online(make_buffer, 5, 3, 4, capacity=10)  # frames 2..11; slots 0, 1 are 10, 11
    weights = compute_sampler_weights(Offline(), 0, dataset, 1.0, 3)
    check(weights, [0] * 8 + [1.0, 0.0])  # only frame 8 has 9, 10, 11 behind it


@given(
    lengths=st.lists(st.integers(1, 9), max_size=12),
    capacity=st.integers(9, 20),
    drop=st.integers(0, 10),
    offline_lengths=st.lists(st.integers(1, 5), max_size=4),
    offline_drop=st.integers(0, 6),
    ratio=st.sampled_from([0.0, 0.25, 0.9, 1.0]),
)
def test_against_counting(
    lengths: list[int],
    capacity: int,
    drop: int,
    offline_lengths: list[int],
    offline_drop: int,
    ratio: float,
) -> None:
    dataset = online(make_naive, *lengths, capacity=capacity)
    drawable = {int(frame["index"]) for frame in dataset.buffer.eligible(drop)}
    in_ring = [int(i) in drawable for i in dataset.get_data_by_key("index")]
    in_offline = [i + offline_drop < n for n in offline_lengths for i in range(n)]
    masks = np.array([*in_offline, *in_ring], float)
    parts = np.split(masks, [len(in_offline)])
    for offline in (Offline(*offline_lengths), LaterOffline(*offline_lengths)):
        if not masks.any():
            with pytest.raises(ValueError, match="nothing to sample"):
                compute_sampler_weights(offline, offline_drop, dataset, ratio, drop)
            continue
        share = ratio if all(part.any() for part in parts) else float(parts[1].any())
        expected = np.concatenate(
            [
                part * weight / max(part.sum(), 1)
                for part, weight in zip(parts, (1 - share, share), strict=True)
            ]
        )
        weights = compute_sampler_weights(offline, offline_drop, dataset, ratio, drop)
        check(weights, expected.tolist())


def test_many_frames_and_episodes_are_quick() -> None:
    """No Python loop runs per frame or episode: the reference took seconds for these."""

    class Ring:
        def __init__(self, count: int) -> None:
            self.index = np.roll(np.arange(count, 2 * count), count // 3)
            self.calls = 0

        def __len__(self) -> int:
            return len(self.index)

        def get_data_by_key(self, key: str) -> torch.Tensor:
            self.calls += 1
            return torch.from_numpy(self.index if key == "index" else self.index // 20)

    ring = Ring(1_000_000)
    weights = compute_sampler_weights(Offline(*[20] * 50_000), 1, ring, 0.5, 1)
    assert ring.calls == 2
    assert len(weights) == 2_000_000
    assert abs(float(weights.double().sum()) - 1) < 1e-6
    assert int((weights == 0).sum()) == 100_000


# Offline datasets


@pytest.mark.parametrize("as_type", [torch.tensor, np.array, list])
def test_older_layout(as_type: Any) -> None:
    weights = compute_sampler_weights(Offline(3, 2, as_type=as_type), 1)
    check(weights, [1 / 3, 1 / 3, 0, 1 / 3, 0])


def tensors(values: list[int]) -> Column:
    return Column([torch.tensor(value) for value in values])


@pytest.mark.parametrize("as_type", [Column, tensors, torch.tensor, np.array, list])
def test_later_layout(as_type: Any) -> None:
    weights = compute_sampler_weights(LaterOffline(3, 2, as_type=as_type), 1)
    check(weights, [1 / 3, 1 / 3, 0, 1 / 3, 0])


class WithMapping(LaterOffline):
    """Has the mapping of recent versions."""

    @property
    def absolute_to_relative_idx(self) -> dict[int, int] | None:
        return {a: r for r, a in enumerate(self.index)} if self.episodes is not None else None


class WithPrivateMapping(LaterOffline):
    """Has the mapping of LeRobot 0.4."""

    @property
    def _absolute_to_relative_idx(self) -> dict[int, int] | None:
        return {a: r for r, a in enumerate(self.index)} if self.episodes is not None else None


class WithReader(LaterOffline):
    """Has the mapping in its reader."""

    @property
    def reader(self) -> Any:
        return SimpleNamespace(absolute_to_relative_idx={a: r for r, a in enumerate(self.index)})


class Rows:
    """An `hf_dataset` whose other columns are costly."""

    def __init__(self, index: list[int]) -> None:
        self.index = index

    def select_columns(self, names: list[str]) -> dict[str, Any]:
        assert names == ["index"]
        return {"index": tensors(self.index)}


class WithRows(LaterOffline):
    """Has the absolute index of each loaded frame in a column."""

    @property
    def hf_dataset(self) -> Rows:
        return Rows(self.index)


class WithDict(LaterOffline):
    """Has that column in a plain dict."""

    @property
    def hf_dataset(self) -> dict[str, Any]:
        return {"index": torch.tensor(self.index)}


@pytest.mark.parametrize("kind", [WithMapping, WithPrivateMapping, WithReader, WithRows, WithDict])
def test_some_episodes_are_loaded(kind: Any) -> None:
    # Episodes 1 and 3 of lengths 2 and 3: relative frames 0, 1 and 2, 3, 4.
    offline = kind(4, 2, 1, 3, 2, episodes=[3, 1])
    assert len(offline) == 5
    check(compute_sampler_weights(offline, 0), [0.2] * 5)
    check(compute_sampler_weights(offline, 1), [1 / 3, 0, 1 / 3, 1 / 3, 0])
    check(compute_sampler_weights(offline, 2), [0, 0, 1, 0, 0])
    check(compute_sampler_weights(kind(4, 2), 3), [1, 0, 0, 0, 0, 0])


def test_some_episodes_without_a_way_to_tell_which() -> None:
    with pytest.raises(ValueError, match="absolute_to_relative_idx"):
        compute_sampler_weights(LaterOffline(4, 2, 1, episodes=[1]))


def test_another_buffer_may_be_the_offline_side(make_buffer: MakeBuffer) -> None:
    demos, rollouts = online(make_buffer, 3, 3, capacity=5), online(make_buffer, 2)
    weights = compute_sampler_weights(demos, 1, rollouts, 0.5, 1)
    check(weights, [0, 1 / 6, 0, 1 / 6, 1 / 6, 0.5, 0])  # frames 5, 1, 2, 3, 4 and 0, 1


# Errors


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan"), float("inf")])
def test_ratio_out_of_range(make_buffer: MakeBuffer, ratio: float) -> None:
    with pytest.raises(ValueError, match="online_sampling_ratio"):
        compute_sampler_weights(Offline(3), 0, online(make_buffer, 2), ratio)


@pytest.mark.parametrize("name", ["offline_drop_n_last_frames", "online_drop_n_last_frames"])
def test_negative_drop(make_buffer: MakeBuffer, name: str) -> None:
    arguments = {"online_dataset": online(make_buffer, 2), "online_sampling_ratio": 0.5}
    with pytest.raises(ValueError, match=name):
        compute_sampler_weights(Offline(3), **arguments, **{name: -1})
    with pytest.raises(ValueError, match=f"{name} is 0.5; it must be a whole number"):
        compute_sampler_weights(Offline(3), **arguments, **{name: 0.5})


def test_online_dataset_and_ratio_go_together(make_buffer: MakeBuffer) -> None:
    with pytest.raises(ValueError, match="both"):
        compute_sampler_weights(Offline(3), online_dataset=online(make_buffer, 2))
    with pytest.raises(ValueError, match="both"):
        compute_sampler_weights(Offline(3), online_sampling_ratio=0.5)


@pytest.mark.parametrize("offline", [Offline(), LaterOffline(), []])
def test_nothing_at_all(make_buffer: MakeBuffer, offline: Any) -> None:
    with pytest.raises(ValueError, match="nothing to sample"):
        compute_sampler_weights(offline)
    with pytest.raises(ValueError, match="nothing to sample"):
        compute_sampler_weights(offline, 0, online(make_buffer), 0.5)


@pytest.mark.parametrize(
    "table",
    [
        {},
        {"from": [0], "to": [4]},
        {"from": [-1], "to": [3]},
        {"from": [2], "to": [1]},
        {"from": [0, 1], "to": [3]},
    ],
)
def test_tables_that_do_not_fit(table: dict[str, list[int]]) -> None:
    offline = Offline(3)
    offline.episode_data_index = table
    with pytest.raises(ValueError, match="episodes"):
        compute_sampler_weights(offline)


def test_no_table() -> None:
    with pytest.raises(ValueError, match="no table of episodes"):
        compute_sampler_weights([1, 2, 3])


def test_one_snapshot_serves_a_growing_buffer(make_buffer: MakeBuffer) -> None:
    """Both columns come from one read, and the length of the weights is theirs."""
    dataset = online(make_buffer, 3, 4)
    read = dataset.buffer.read_columns

    def grow_while_reading(keys: Any, **options: Any) -> Any:
        columns = read(keys, **options)
        dataset.buffer.add_data(rollout(5))
        return columns

    grown = SimpleNamespace(wraps=dataset.buffer)
    grown.read_columns = grow_while_reading
    grown.spec = dataset.buffer.spec
    weights = compute_sampler_weights(Offline(), 0, RemoteDataset(grown), 1.0, 1)
    check(weights, [0.2, 0.2, 0, 0.2, 0.2, 0.2, 0])
    assert len(dataset) == 12
