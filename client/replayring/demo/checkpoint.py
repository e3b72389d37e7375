"""What of a training outlives the learner's process: it is published, as the policy is.

So a learner that was killed goes on where it was, on whichever machine it is started again, and
needs no files of its own. What it had done since the last checkpoint is made up for: how many
updates there are depends on the steps that actors have taken, and those are in the buffer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

import replayring
from replayring.demo.plot import Evaluation

__all__ = ["CHECKPOINT", "Training", "load", "save"]

CHECKPOINT = "pendulum-learner"


@dataclass
class Training:
    """How far a training is, beside its networks.

    Attributes:
        first_index: frames that the buffer had ever held when the training began.
        first_episode: the same for episodes.
        steps: environment steps that have been trained on.
        evaluations: those so far.
    """

    first_index: int
    first_episode: int
    steps: int = 0
    evaluations: list[Evaluation] = field(default_factory=list)


def save(client: replayring.ReplayClient, training: Training, agent: Mapping[str, Tensor]) -> None:
    """Publish all of it, in place of the checkpoint before."""
    counts = [training.first_index, training.first_episode, training.steps]
    rows = [(e.steps, e.seconds, e.mean_return) for e in training.evaluations]
    tensors = {
        "counts": np.array(counts, np.int64),
        "evaluations": np.array(rows, np.float64).reshape(-1, 3),
        **{f"agent.{name}": tensor for name, tensor in agent.items()},
    }
    client.publish(CHECKPOINT, tensors)


def load(client: replayring.ReplayClient) -> tuple[Training, dict[str, Tensor]] | None:
    """The training that was saved last and its agent's tensors, or None if there never was one."""
    try:
        _, tensors = client.latest(CHECKPOINT)
    except replayring.NotFoundError:
        return None
    first_index, first_episode, steps = map(int, tensors["counts"])
    evaluations = [
        Evaluation(int(at), float(seconds), float(mean_return))
        for at, seconds, mean_return in tensors["evaluations"]
    ]
    agent = {
        name.removeprefix("agent."): torch.from_numpy(value)
        for name, value in tensors.items()
        if name.startswith("agent.")
    }
    return Training(first_index, first_episode, steps, evaluations), agent
