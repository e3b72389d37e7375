"""RemoteDataset in torch's DataLoader: workers, start methods, shuffling, batching."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, Subset

from replayring.collation import collate
from replayring.dataset import RemoteDataset
from tests.client.torch_buffers import (
    MakeBuffer,
    rollout,
)

pytest_plugins = ["tests.client.torch_fixtures"]

FRAMES = 60
COLLATE = pytest.mark.parametrize("collate_fn", [None, collate], ids=["torch", "ours"])


def filled(make: MakeBuffer) -> RemoteDataset:
    dataset = RemoteDataset(
        make(capacity=FRAMES), {"state": [-0.1, 0.0]}, delta_indices={"action": [0, 1, 2]}
    )
    dataset.add_data(rollout(20, 31, 29))  # 80 frames, of which 60 live
    return dataset


@pytest.fixture
def dataset(make_buffer: MakeBuffer) -> RemoteDataset:
    return filled(make_buffer)


def check(batch: dict[str, torch.Tensor], size: int) -> list[int]:
    """Checks that a batch is whole and returns its frames."""
    index, frame = batch["index"], batch["frame_index"]
    assert batch["state"].shape == (size, 2, 2, 3)
    assert batch["state"][:, 1, 0, 0].equal(index.float())
    assert batch["state_is_pad"][:, 0].equal(frame == 0)
    assert batch["action"][:, 0].equal(-index.double())
    assert batch["action_is_pad"].shape == (size, 3)
    assert batch["timestamp"].equal(frame.double() / 10)
    return index.tolist()


def loaded(loader: DataLoader[Any], size: int) -> list[int]:
    frames: list[int] = []
    for batch in loader:
        frames += check(batch, size)
    return frames


def timeout(workers: int) -> int:
    """Makes a worker that hangs a failure; torch knows no timeout without workers."""
    return 100 if workers else 0


@COLLATE
@pytest.mark.parametrize("workers", [0, 2])
def test_every_frame_once(dataset: RemoteDataset, workers: int, collate_fn: Any) -> None:
    loader = DataLoader(
        dataset, batch_size=12, num_workers=workers, collate_fn=collate_fn, timeout=timeout(workers)
    )
    assert len(loader) == 5
    assert loaded(loader, 12) == dataset.get_data_by_key("index").tolist()


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_start_methods(make_real: MakeBuffer, method: str) -> None:
    dataset = filled(make_real)
    dataset[0]  # so that this process has a connection that a fork must not share
    loader = DataLoader(
        dataset,
        batch_size=10,
        shuffle=True,
        num_workers=2,
        collate_fn=collate,
        multiprocessing_context=method,
        timeout=100,
    )
    for _ in range(3 if method == "fork" else 1):
        assert sorted(loaded(loader, 10)) == list(range(20, 80))
    assert len(dataset) == FRAMES  # and goes on working here


@COLLATE
def test_shuffled(dataset: RemoteDataset, collate_fn: Any) -> None:
    loader = DataLoader(
        dataset,
        batch_size=10,
        shuffle=True,
        collate_fn=collate_fn,
        generator=torch.Generator().manual_seed(1),
    )
    first, second = loaded(loader, 10), loaded(loader, 10)
    assert sorted(first) == sorted(second) == list(range(20, 80))
    assert first != second


class Recorded(RemoteDataset):
    """Records how it is asked."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.asked: list[int] = []

    def __getitem__(self, index: int) -> Any:
        self.asked.append(1)
        return super().__getitem__(index)

    def __getitems__(self, indices: Sequence[int]) -> Any:
        self.asked.append(len(indices))
        return super().__getitems__(indices)


@COLLATE
def test_a_batch_is_fetched_at_once(make_buffer: MakeBuffer, collate_fn: Any) -> None:
    dataset = Recorded(make_buffer())
    dataset.add_data(rollout(25))
    for batch in DataLoader(dataset, batch_size=10, collate_fn=collate_fn):
        assert batch["state"].shape == (len(batch["index"]), 2, 3)
    assert dataset.asked == [10, 10, 5]


def test_without_batching(dataset: RemoteDataset) -> None:
    items = list(DataLoader(dataset, batch_size=None))
    assert len(items) == FRAMES
    assert all(item["index"].shape == () for item in items)


def test_a_batch_sampler(dataset: RemoteDataset) -> None:
    sampler = BatchSampler(SequentialSampler(range(8)), 4, drop_last=True)
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=collate)
    assert len(loaded(loader, 4)) == 8


def test_a_subset(dataset: RemoteDataset) -> None:
    loader = DataLoader(Subset(dataset, [5, -1, 0]), batch_size=3, collate_fn=collate)
    assert loaded(loader, 3) == [int(dataset[i]["index"]) for i in (5, -1, 0)]


@pytest.mark.parametrize("workers", [0, 2])
def test_position_outside_in_a_worker(dataset: RemoteDataset, workers: int) -> None:
    loader = DataLoader(
        dataset, sampler=[0, FRAMES], batch_size=2, num_workers=workers, timeout=timeout(workers)
    )
    with pytest.raises(IndexError, match=str(FRAMES)):
        next(iter(loader))


@pytest.mark.parametrize("workers", [0, 2])
def test_new_frames_are_seen_by_the_next_epoch(make_real: MakeBuffer, workers: int) -> None:
    dataset = RemoteDataset(make_real())
    dataset.add_data(rollout(10))
    loader = DataLoader(
        dataset,
        batch_size=5,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=collate,
        timeout=timeout(workers),
    )
    assert sum(len(batch["index"]) for batch in loader) == 10
    dataset.add_data(rollout(15))
    assert len(loader) == 5
    assert sorted(torch.cat([batch["index"] for batch in loader]).tolist()) == list(range(25))


def test_a_running_loader_sees_new_frames(make_real: MakeBuffer) -> None:
    """A worker's copy of the reference went stale; here it asks the server each time."""
    dataset = RemoteDataset(make_real(capacity=8))
    dataset.add_data(rollout(8))
    loader = DataLoader(
        dataset,
        sampler=RandomSampler(dataset, replacement=True, num_samples=4000),
        batch_size=4,
        num_workers=1,
        prefetch_factor=1,
        collate_fn=collate,
        timeout=100,
    )
    batches = iter(loader)
    assert next(batches)["index"].max() < 8
    dataset.add_data(rollout(8))
    assert any(batch["index"].min() >= 8 for batch in batches)


def test_the_parent_goes_on_while_workers_load(make_real: MakeBuffer) -> None:
    dataset = RemoteDataset(make_real(capacity=1000))
    dataset.add_data(rollout(400))
    loader = DataLoader(
        dataset,
        batch_size=20,
        num_workers=2,
        multiprocessing_context="fork",
        collate_fn=collate,
        timeout=100,
    )
    seen = 0
    for number, batch in enumerate(loader):
        seen += len(batch["index"])
        assert int(dataset[number]["index"]) == number
        dataset.add_data(rollout(1))
    assert (seen, len(dataset)) == (400, 420)


class Tagged(RemoteDataset):
    """Adds frames and tells which process did."""

    def __getitem__(self, index: int) -> Any:
        (acknowledgement,) = self.add_data(rollout(1, start=int(index)))
        return torch.tensor([os.getpid(), acknowledgement.index])


def test_workers_may_write(make_real: MakeBuffer) -> None:
    """Several processes write at once: nothing is lost, and none repeats another's sequence."""
    buffer = make_real(capacity=1000)
    buffer.add_data(rollout(1, start=255))  # the parent has written with this handle before
    loader = DataLoader(
        Tagged(buffer),
        sampler=range(40),
        batch_size=None,
        num_workers=2,
        multiprocessing_context="fork",
        timeout=100,
    )
    pids, indices = torch.stack(list(loader)).T.tolist()
    assert len(set(pids)) == 2
    assert sorted(indices) == list(range(1, 41))
    values = RemoteDataset(buffer).get_data_by_key("action").tolist()
    assert sorted(values) == sorted([-255.0, *(-float(i) for i in range(40))])
