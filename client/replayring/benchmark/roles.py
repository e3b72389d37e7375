"""What a client can be busy with: each role is one way to use a buffer, repeated for ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from replayring.benchmark.turns import Step
from replayring.benchmark.workloads import Workload
from replayring.buffer import Buffer

__all__ = ["ROLES", "Role", "fill"]

Settle = Callable[[], None] | None
Role = Callable[[Buffer, Workload], AbstractContextManager[tuple[Step, Settle]]]

TIMEOUT = 60.0
LOADER_WORKERS = 2
LOADER_EPOCH = 1 << 60
"""Frames of an epoch: so many that a benchmark sees no other, however fast and long it is."""


@contextmanager
def insert(buffer: Buffer, workload: Workload) -> Iterator[tuple[Step, Settle]]:
    """An actor that adds whole episodes, pipelined. Counts frames that were acknowledged."""
    episode = workload.episode()
    with buffer.writer(timeout=TIMEOUT) as writer:

        def step() -> int:
            writer.add_episode(episode)
            return workload.episode_frames

        yield step, writer.flush


@contextmanager
def insert_one(buffer: Buffer, workload: Workload) -> Iterator[tuple[Step, Settle]]:
    """An actor that waits for each episode's acknowledgement. Counts frames."""
    episode = workload.episode()

    def step() -> int:
        return buffer.add_episode(episode, timeout=TIMEOUT).num_frames

    yield step, None


@contextmanager
def sample(buffer: Buffer, workload: Workload) -> Iterator[tuple[Step, Settle]]:
    """A learner that takes numpy batches from a stream. Counts frames, or windows."""
    with buffer.sample_stream(workload.batch_size, timeout=TIMEOUT, **workload.sampling) as stream:
        yield _taking(stream, workload), None


@contextmanager
def sample_one(buffer: Buffer, workload: Workload) -> Iterator[tuple[Step, Settle]]:
    """A learner that asks for a batch and waits for it, nothing ahead. Counts frames or windows."""

    def step() -> int:
        buffer.sample(workload.batch_size, timeout=TIMEOUT, **workload.sampling)
        return workload.batch_size

    yield step, None


@contextmanager
def tensors(buffer: Buffer, workload: Workload) -> Iterator[tuple[Step, Settle]]:
    """A learner that takes torch tensors from a `BatchDataset`. Counts frames, or windows."""
    from replayring.batches import BatchDataset

    with BatchDataset(buffer, workload.batch_size, timeout=TIMEOUT, **workload.sampling) as batches:
        yield _taking(iter(batches), workload), None


@contextmanager
def loader(buffer: Buffer, workload: Workload) -> Iterator[tuple[Step, Settle]]:
    """A `DataLoader` with workers over a `RemoteDataset`. Counts frames, or windows."""
    from torch.utils.data import DataLoader, RandomSampler

    from replayring.collation import collate
    from replayring.dataset import RemoteDataset

    dataset = RemoteDataset(buffer, timeout=TIMEOUT, **workload.sampling)
    sampler = RandomSampler(dataset, replacement=True, num_samples=LOADER_EPOCH)
    batches = iter(
        DataLoader(
            dataset,
            batch_size=workload.batch_size,
            num_workers=LOADER_WORKERS,
            sampler=sampler,
            collate_fn=collate,
            drop_last=True,
        )
    )
    yield _taking(batches, workload), None


def _taking(batches: Iterator[Any], workload: Workload) -> Step:
    def step() -> int:
        next(batches)
        return workload.batch_size

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
