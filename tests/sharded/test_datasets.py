"""The torch side over shards: datasets, weights and workers need to know nothing of them."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import replayring
from tests.sharded.conftest import add_to

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


@pytest.fixture
def filled(buffer: replayring.ShardedBuffer) -> replayring.ShardedBuffer:
    """Two episodes on the first shard and three on the third."""
    for shard, lengths in enumerate(((2, 4), (), (1, 5, 3))):
        for length in lengths:
            add_to(buffer, shard, length, number=100 * shard + length)
    return buffer


def test_items_are_those_of_all_shards(filled: replayring.ShardedBuffer) -> None:
    dataset = replayring.RemoteDataset(filled, delta_indices={"number": [0, 1]})
    assert len(dataset) == dataset.num_frames == 15
    assert dataset.num_episodes == 5
    items = list(dataset)
    assert len(items) == 15
    for position, item in enumerate(items):
        assert dataset[position]["index"] == item["index"]
        assert dataset.by_index([int(item["index"])])["number"][0, 0] == item["number"][0]
    assert torch.equal(
        dataset.get_data_by_key("index"), torch.stack([item["index"] for item in items])
    )
    assert dataset[-1]["index"] == items[-1]["index"]
    with pytest.raises(IndexError):
        dataset[15]
    acks = dataset.add_data({**flat(3), "task": ["a"] * 3})
    assert len(acks) == 1
    assert dataset.by_index([acks[0].index])["number"].shape == (1, 2)


def flat(frames: int) -> dict[str, np.ndarray]:
    return {
        "state": np.zeros((frames, 2)),
        "number": np.zeros(frames, np.int64),
        "index": np.arange(frames),
        "episode_index": np.zeros(frames, np.int64),
        "frame_index": np.arange(frames),
        "timestamp": np.arange(frames) / 10,
    }


@pytest.mark.parametrize("drop", [0, 1, 4])
def test_weights_leave_out_the_last_frames_of_every_episode(
    filled: replayring.ShardedBuffer, drop: int
) -> None:
    dataset = replayring.RemoteDataset(filled)
    weights = replayring.compute_sampler_weights(dataset, drop)
    kept = [n - 1 - i >= drop for n in (2, 4, 1, 5, 3) for i in range(n)]
    assert (weights > 0).tolist() == kept
    assert torch.allclose(weights.sum(), torch.tensor(1.0))


@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_workers_of_any_kind(filled: replayring.ShardedBuffer, start: str) -> None:
    dataset = replayring.RemoteDataset(filled)
    next(iter(dataset))  # so that there is a connection to be forked with
    joined = replayring.ConcatDataset([dataset, dataset])
    sampler = replayring.WeightedSampler(
        lambda: replayring.compute_sampler_weights(dataset, 1, dataset, 0.5, 1), num_samples=64
    )
    loader = DataLoader(
        joined,
        batch_size=16,
        sampler=sampler,
        num_workers=2,
        collate_fn=replayring.collate,
        multiprocessing_context=start,
    )
    numbers = torch.cat([batch["number"] for batch in loader])
    assert len(numbers) == 64
    assert set(numbers.tolist()) <= {2, 4, 205, 203}


@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_batches_in_workers(filled: replayring.ShardedBuffer, start: str) -> None:
    with replayring.BatchDataset(filled, 32, drop_n_last_frames=1, num_batches=6) as batches:
        next(iter(batches))
        loader = DataLoader(batches, batch_size=None, num_workers=2, multiprocessing_context=start)
        got = [batch["number"] for batch in loader]
    assert len(got) == 6
    assert set(torch.cat(got).tolist()) == {2, 4, 205, 203}


def test_a_writer_in_a_forked_child_is_another(filled: replayring.ShardedBuffer) -> None:
    filled.add_episode({"state": np.zeros((2, 2)), "number": np.array([7, 7])})
    child = os.fork()
    if not child:
        try:
            for _ in range(3):
                filled.add_episode({"state": np.zeros((2, 2)), "number": np.array([8, 8])})
        finally:
            os._exit(0)
    for _ in range(3):
        filled.add_episode({"state": np.zeros((2, 2)), "number": np.array([7, 7])})
    assert os.waitpid(child, 0)[1] == 0
    numbers = filled.read_columns(["number"])["number"].tolist()
    assert (numbers.count(7), numbers.count(8)) == (8, 6)
