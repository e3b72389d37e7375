"""ConcatDataset: batched fetches, live lengths, and torch's answers wherever both have one."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import ConcatDataset as TorchConcatDataset
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    WeightedRandomSampler,
    default_collate,
)

from replayring.collation import FetchedBatch, MixedBatch, collate
from replayring.concat import ConcatDataset
from replayring.dataset import RemoteDataset
from tests.client.torch_buffers import (
    MakeBuffer,
    make_naive,
    rollout,
)

pytest_plugins = ["tests.client.torch_fixtures"]


class Numbers(Dataset[Any]):
    """Items that tell where they are from; answers `__getitems__` only as a subclass."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = list(numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Any:
        return {"action": torch.tensor(self.numbers[index], dtype=torch.float64)}


class BatchedNumbers(Numbers):
    """Counts its fetches."""

    def __init__(self, *numbers: int) -> None:
        super().__init__(*numbers)
        self.fetches: list[list[int]] = []

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        self.fetches.append(list(indices))
        return [self[index] for index in indices]


def remote(make: MakeBuffer, *lengths: int, **options: Any) -> RemoteDataset:
    dataset = RemoteDataset(make(**options))
    dataset.add_data(rollout(*lengths))
    return dataset


def actions(items: Any) -> list[int]:
    return [int(item["action"]) for item in items]


def test_members_follow_each_other(make_buffer: MakeBuffer) -> None:
    dataset = ConcatDataset([Numbers(100, 101), remote(make_buffer, 3), Numbers(200)])
    expected = [100, 101, 0, -1, -2, 200]
    assert len(dataset) == 6
    assert dataset.cumulative_sizes == [2, 5, 6]
    assert actions(dataset[i] for i in range(6)) == expected
    assert actions(dataset[i] for i in range(-6, 0)) == expected
    assert actions(dataset) == expected
    for position in (6, -7, 1 << 62, 10**30):
        with pytest.raises(IndexError):
            dataset[position]
        with pytest.raises(IndexError):
            dataset.__getitems__([0, position])


@given(
    sizes=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    data=st.data(),
)
def test_as_torch_but_for_errors(sizes: list[int], data: st.DataObject) -> None:
    members = [
        (Numbers, BatchedNumbers)[data.draw(st.booleans())](*range(10 * i, 10 * i + size))
        for i, size in enumerate(sizes)
    ]
    ours, theirs = ConcatDataset(members), TorchConcatDataset(members)
    assert len(ours) == len(theirs)
    if not len(ours):
        return
    positions = data.draw(st.lists(st.integers(-len(ours), len(ours) - 1), min_size=1, max_size=9))
    expected = [theirs[position] for position in positions]
    batch = ours.__getitems__(positions)
    assert actions(batch) == actions(expected)
    assert collate(batch)["action"].equal(default_collate(expected)["action"])


def test_one_fetch_per_member() -> None:
    first, second = BatchedNumbers(0, 1, 2), BatchedNumbers(10, 11)
    dataset = ConcatDataset([first, second])
    batch = dataset.__getitems__([4, 0, 0, -2, 2])
    assert isinstance(batch, MixedBatch)
    assert actions(batch) == [11, 0, 0, 10, 2]
    assert first.fetches == [[0, 0, 2]]
    assert second.fetches == [[1, 0]]


def test_a_growing_last_member_costs_one_call() -> None:
    member = remote(make_naive, 5)
    dataset = ConcatDataset([Numbers(100, 101), member])
    calls = []
    get, info = member.buffer.get, member.buffer.info
    member.buffer.get = lambda *a, **o: calls.append("get") or get(*a, **o)
    member.buffer.info = lambda **o: calls.append("info") or info(**o)
    batch = dataset.__getitems__([6, 1, 2, 0, 2])
    assert calls == ["get"]
    assert actions(batch) == [-4, 101, 0, 100, 0]
    calls.clear()
    dataset[3]
    assert calls == ["get"]


def test_a_batch_from_one_member_stays_as_it_came(make_buffer: MakeBuffer) -> None:
    dataset = ConcatDataset([Numbers(1), remote(make_buffer, 5)])
    assert isinstance(dataset.__getitems__([1, 3, 5]), FetchedBatch)
    assert list(dataset.__getitems__([])) == []


def test_lengths_are_live(make_buffer: MakeBuffer) -> None:
    member = remote(make_buffer, 3)
    dataset = ConcatDataset([Numbers(100), member])
    stale = TorchConcatDataset([Numbers(100), member])
    member.add_data(rollout(2, start=3))
    assert len(dataset) == 6
    assert len(stale) == 4  # what this class is for
    assert int(dataset[5]["action"]) == int(dataset[-1]["action"]) == -4
    assert actions(dataset.__getitems__([5, 0])) == [-4, 100]


def test_a_growing_member_in_the_middle_shifts_those_behind(make_buffer: MakeBuffer) -> None:
    member = remote(make_buffer, 2)
    dataset = ConcatDataset([member, Numbers(100)])
    assert int(dataset[2]["action"]) == 100
    member.add_data(rollout(1, start=2))
    assert int(dataset[2]["action"]) == -2
    assert int(dataset[3]["action"]) == 100


def test_errors_tell_whose_position_it_was(make_buffer: MakeBuffer) -> None:
    dataset = ConcatDataset([Numbers(100, 101), remote(make_buffer, 3)])
    with pytest.raises(IndexError, match=r"dataset 1.* 2: .*position 7"):
        dataset.__getitems__([0, 9])
    with pytest.raises(IndexError, match=r"position -6 .* 5 items"):
        dataset[-6]


def test_members_that_are_no_datasets() -> None:
    class Endless(IterableDataset[int]):
        def __iter__(self) -> Any:
            return iter(int, 1)

    with pytest.raises(ValueError, match="at least one"):
        ConcatDataset([])
    with pytest.raises(ValueError, match="Endless"):
        ConcatDataset([Numbers(1), Endless()])


def test_adding_datasets(make_buffer: MakeBuffer) -> None:
    member = remote(make_buffer, 2)
    for dataset in (member + Numbers(100), ConcatDataset([member]) + Numbers(100)):
        assert type(dataset) is ConcatDataset
        assert actions(dataset) == [0, -1, 100]
    member.add_data(rollout(1, start=2))
    assert len(member + Numbers(1)) == 4


def test_nested_and_subset(make_buffer: MakeBuffer) -> None:
    inner = ConcatDataset([Numbers(100, 101), remote(make_buffer, 4)])
    dataset = ConcatDataset([Subset(inner, [5, 0, 3]), inner])
    batch = dataset.__getitems__([0, 3, 1, 8, 2])
    assert actions(batch) == [-3, 100, 100, -3, -1]
    assert collate(batch)["action"].tolist() == [-3, 100, 100, -3, -1]


def test_pickling(make_real: MakeBuffer) -> None:
    dataset = ConcatDataset([Numbers(100), remote(make_real, 3)])
    copy = pickle.loads(pickle.dumps(dataset))
    dataset.datasets[1].add_data(rollout(1, start=3))
    assert actions(copy) == [100, 0, -1, -2, -3]


def test_other_positions_than_python_integers() -> None:
    dataset = ConcatDataset([Numbers(0, 1), Numbers(10)])
    assert actions(dataset.__getitems__(torch.tensor([2, 0]))) == [10, 0]
    assert int(dataset[torch.tensor(2)]["action"]) == 10
    with pytest.raises(TypeError):
        dataset[0.5]


class Offline(Dataset[Any]):
    """Frames as LeRobot's datasets have them: more keys, timestamps in float32."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        return {
            "state": torch.full((2, 3), 100.0 + index),
            "action": torch.tensor(100.0 + index, dtype=torch.float64),
            "index": torch.tensor(index),
            "timestamp": torch.tensor(index / 10),
            "task": "push",
        }


@pytest.mark.parametrize("workers", [0, 2])
def test_offline_and_online_in_a_loader(make_buffer: MakeBuffer, workers: int) -> None:
    """What an online training loop does: weights over [offline; online], torch's sampler."""
    dataset = ConcatDataset([Offline(), remote(make_buffer, 5, 4)])
    weights = torch.ones(15)
    weights[:3] = 0
    weights[-2:] = 0
    sampler = WeightedRandomSampler(
        weights, 400, replacement=True, generator=torch.Generator().manual_seed(3)
    )
    loader = DataLoader(
        dataset,
        batch_size=50,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        timeout=60 * (workers > 0),
    )
    seen = set()
    for batch in loader:
        assert batch.keys() == {"state", "action", "index", "timestamp"}
        assert batch["timestamp"].dtype == torch.float64
        online = batch["action"] <= 0
        assert batch["state"].shape == (50, 2, 3)
        assert batch["action"][online].equal(-batch["index"][online].double())
        assert batch["action"][~online].equal(100 + batch["index"][~online].double())
        assert batch["state"][:, 0, 0].double().equal(batch["action"].abs())
        seen.update(batch["action"].int().tolist())
    assert seen == {103, 104, 105, 0, -1, -2, -3, -4, -5, -6}
