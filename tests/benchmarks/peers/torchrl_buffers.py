"""TorchRL's replay buffer, as both of its programs make and fill it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from benchmark.workloads import Workload
from tensordict import TensorDict
from torchrl.data import LazyMemmapStorage, RandomSampler, SliceSampler

EPISODE = "episode"

# On two cores more are no faster, and far slower where anything else runs, as the client here does.
torch.set_num_threads(1)


def make(workload: Workload, folder: str, kind: Callable[..., Any]) -> Any:
    """Returns an empty buffer of a class; a batch of it is a batch of the workload."""
    sampler = (
        RandomSampler()
        if workload.window == 1
        else SliceSampler(slice_len=workload.window, traj_key=EPISODE, strict_length=True)
    )
    return kind(
        storage=LazyMemmapStorage(workload.capacity, scratch_dir=folder, existsok=True),
        sampler=sampler,
        batch_size=workload.batch_size * workload.window,
    )


def episode_of(workload: Workload, number: int = 0) -> TensorDict:
    """Returns an episode."""
    frames = workload.episode_frames
    columns = {name: torch.from_numpy(column) for name, column in workload.episode().items()}
    columns[EPISODE] = torch.full((frames,), number, dtype=torch.int64)
    return TensorDict(columns, [frames])


def fill(workload: Workload, extend: Callable[[TensorDict], object]) -> None:
    """Fills a buffer with whole episodes."""
    episode = episode_of(workload)
    for number in range(workload.capacity // workload.episode_frames):
        episode[EPISODE].fill_(number)
        extend(episode)
