"""A learner that trains a network on a device: whether it waits for its batches.

    python -m tests.benchmarks.training

The task comes over stdin, as that of `replayring.benchmark.worker` does. Each role clones
behaviour with the same small network, one update per batch; they differ in how a batch gets to the
device. Their rates beside that of the same update on a batch that is already there say what the
learner loses to replay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise, repeat
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from replayring.benchmark import worker
from replayring.benchmark.roles import Role, Settle, batches_of, loader_of, taking
from replayring.benchmark.tasks import Task
from replayring.benchmark.turns import Step
from replayring.benchmark.workloads import Workload

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
HIDDEN = 512
TARGET = "action"

Batch = Mapping[str, Tensor]


class Cloning(nn.Module):
    """Predicts actions from everything else that a workload's batches hold."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        sizes = {
            name: workload.window * prod(shape)
            for name, (dtype, shape) in workload.columns.items()
            if dtype == "float32"
        }
        outputs = sizes.pop(TARGET)
        self._flat = tuple(sizes)
        self._image = _convolutions() if "image" in workload.columns else None
        inputs = sum(sizes.values()) + (HIDDEN if self._image else 0)
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise((inputs, HIDDEN, HIDDEN)):
            layers += (nn.Linear(fan_in, fan_out), nn.ReLU())
        self._head = nn.Sequential(*layers, nn.Linear(HIDDEN, outputs))

    def forward(self, batch: Batch) -> Tensor:
        """The mean squared error of the actions predicted."""
        features = [
            batch[name].flatten(1) if batch[name].ndim > 1 else batch[name][:, None]
            for name in self._flat
        ]
        if self._image:
            features.append(self._image(batch["image"] / 255))
        predicted = self._head(torch.cat(features, dim=1))
        return (predicted - batch[TARGET].flatten(1)).square().mean()


def _convolutions() -> nn.Module:
    """Those of Mnih et al. (2015), for images of shape (3, 96, 96)."""
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 8, 4), nn.ReLU()),
        *(nn.Conv2d(32, 64, 4, 2), nn.ReLU()),
        *(nn.Conv2d(64, 64, 3, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(64 * 8 * 8, HIDDEN), nn.ReLU()),
    )


def updates(task: Task, batches: Iterator[Batch]) -> tuple[Step, Settle]:
    """Returns a step that takes a batch and learns from it, and what waits for the device."""
    network = Cloning(task.workload).to(DEVICE)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)

    def step() -> int:
        loss = network(next(batches))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        return task.workload.batch_size

    return step, torch.cuda.synchronize if ON_GPU else None


@contextmanager
def train_on_one(task: Task) -> Iterator[tuple[Step, Settle]]:
    """On the same batch, again and again: how fast training is where batches cost nothing."""
    with brought(task) as batches:
        batch = next(iter(batches))
    yield updates(task, repeat(batch))


@contextmanager
def train(task: Task) -> Iterator[tuple[Step, Settle]]:
    """On batches that a `BatchDataset` brings to the device."""
    with brought(task) as batches:
        yield updates(task, iter(batches))


@contextmanager
def train_and_copy(task: Task) -> Iterator[tuple[Step, Settle]]:
    """On batches that the loop itself brings there: a `BatchDataset` without its device."""
    with batches_of(task) as batches:
        yield updates(task, map(_copied, batches))


@contextmanager
def train_from_loader(task: Task) -> Iterator[tuple[Step, Settle]]:
    """On batches of a `DataLoader` that pins them, brought there by the loop."""
    yield updates(task, map(_copied, loader_of(task, pin_memory=ON_GPU)))


@contextmanager
def take(task: Task) -> Iterator[tuple[Step, Settle]]:
    """No training: how fast a `BatchDataset` brings batches to the device."""
    with brought(task) as batches:
        yield taking(iter(batches), task), torch.cuda.synchronize if ON_GPU else None


def brought(task: Task) -> Any:
    """Returns a `BatchDataset` that brings batches to the device."""
    return batches_of(task, device=DEVICE)


def _copied(batch: Batch) -> Batch:
    return {name: value.to(DEVICE, non_blocking=True) for name, value in batch.items()}


_ALL = (train_on_one, train, train_and_copy, train_from_loader, take)
ROLES: dict[str, Role] = {role.__name__: role for role in _ALL}

if __name__ == "__main__":
    worker.main(ROLES)
