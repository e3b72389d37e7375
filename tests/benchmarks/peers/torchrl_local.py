"""TorchRL in the learner's own process: memory-mapped storage, no server."""

from __future__ import annotations

import os
import tempfile

os.environ |= {"CUDA_VISIBLE_DEVICES": "", "RL_LOGGING_LEVEL": "ERROR"}

from benchmark.turns import take_turns
from benchmark.workloads import Workload
from torchrl.data import TensorDictReplayBuffer

from tests.benchmarks.peers.program import run
from tests.benchmarks.peers.torchrl_buffers import episode_of, fill, make


def sample(workload: Workload) -> None:
    """Samples batches of tensors."""
    with tempfile.TemporaryDirectory() as folder:
        buffer = make(workload, folder, TensorDictReplayBuffer)
        fill(workload, buffer.extend)

        def step() -> int:
            return len(buffer.sample()) // workload.window

        take_turns(step)


def insert(workload: Workload) -> None:
    """Adds whole episodes."""
    episode = episode_of(workload)
    with tempfile.TemporaryDirectory() as folder:
        buffer = make(workload, folder, TensorDictReplayBuffer)
        fill(workload, buffer.extend)

        def step() -> int:
            buffer.extend(episode)
            return workload.episode_frames

        take_turns(step)


if __name__ == "__main__":
    run({"sample": sample, "insert": insert})
