"""What a client can be busy with: each role is one way to do a task, repeated for ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from replayring.benchmark.tasks import Task
from replayring.benchmark.turns import Step
from replayring.benchmark.workloads import Workload
from replayring.buffer import Buffer

__all__ = ["ROLES", "Role", "Settle", "batches_of", "fill", "loader_of", "taking"]

Settle = Callable[[], None] | None
Role = Callable[[Task], AbstractContextManager[tuple[Step, Settle]]]

TIMEOUT = 60.0
LOADER_WORKERS = 2
LOADER_EPOCH = 1 << 60
"""Frames of an epoch: so many that a benchmark sees no other, however fast and long it is."""


@contextmanager
def insert(task: Task) -> Iterator[tuple[Step, Settle]]:
    """An actor that adds whole episodes, pipelined. Counts frames that were acknowledged."""
    episode = task.workload.episode()
    with task.buffer.writer(timeout=TIMEOUT) as writer:

        def step() -> int:
            writer.add_episode(episode)
            return task.workload.episode_frames

        yield step, writer.flush


@contextmanager
def insert_one(task: Task) -> Iterator[tuple[Step, Settle]]:
    """An actor that waits for each episode's acknowledgement. Counts frames."""
    episode = task.workload.episode()

    def step() -> int:
        return task.buffer.add_episode(episode, timeout=TIMEOUT).num_frames

    yield step, None


@contextmanager
def sample(task: Task) -> Iterator[tuple[Step, Settle]]:
    """A learner that takes numpy batches from a stream. Counts frames, or windows."""
    with task.buffer.sample_stream(
        task.workload.batch_size, timeout=TIMEOUT, **task.workload.sampling
    ) as stream:
        yield taking(stream, task), None


@contextmanager
def sample_one(task: Task) -> Iterator[tuple[Step, Settle]]:
    """A learner that asks for a batch and waits for it, nothing ahead. Counts frames or windows."""

    def step() -> int:
        task.buffer.sample(task.workload.batch_size, timeout=TIMEOUT, **task.workload.sampling)
        return task.workload.batch_size

    yield step, None


@contextmanager
def tensors(task: Task) -> Iterator[tuple[Step, Settle]]:
    """A learner that takes tensors from a `BatchDataset`. Counts frames, or windows."""
    with batches_of(task) as batches:
        yield taking(iter(batches), task), None


def batches_of(task: Task, **options: Any) -> Any:
    """Returns a `BatchDataset`."""
    from replayring.batches import BatchDataset

    workload = task.workload
    return BatchDataset(
        task.buffer, workload.batch_size, timeout=TIMEOUT, **workload.sampling, **options
    )


@contextmanager
def loader(task: Task) -> Iterator[tuple[Step, Settle]]:
    """A `DataLoader` with workers over a `RemoteDataset`. Counts frames, or windows."""
    yield taking(iter(loader_of(task)), task), None


def loader_of(task: Task, **options: Any) -> Any:
    """Returns a `DataLoader` with workers over a `RemoteDataset`."""
    from torch.utils.data import DataLoader, RandomSampler

    from replayring.collation import collate
    from replayring.dataset import RemoteDataset

    dataset = RemoteDataset(task.buffer, timeout=TIMEOUT, **task.workload.sampling)
    return DataLoader(
        dataset,
        batch_size=task.workload.batch_size,
        num_workers=LOADER_WORKERS,
        sampler=RandomSampler(dataset, replacement=True, num_samples=LOADER_EPOCH),
        collate_fn=collate,
        drop_last=True,
        **options,
    )


def taking(batches: Iterator[Any], task: Task) -> Step:
    """Returns a step that takes a batch, and counts frames, or windows."""

    def step() -> int:
        next(batches)
        return task.workload.batch_size

    return step


ROLES: dict[str, Role] = {
    role.__name__: role for role in (insert, insert_one, sample, sample_one, tensors, loader)
}


def fill(buffer: Buffer, workload: Workload) -> None:
    """Fills a buffer of the workload's capacity.

    Ctrl-C closes the buffer's client, so that nobody waits until a server that may be dead has
    acknowledged frames that are of no use any more.
    """
    episode = workload.episode()
    with buffer.writer(timeout=TIMEOUT) as writer:
        try:
            for _ in range(workload.capacity // workload.episode_frames):
                writer.add_episode(episode)
        except KeyboardInterrupt:
            buffer.client.close()
            raise
