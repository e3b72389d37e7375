"""LeRobot's `OnlineBuffer`, in process, in the `DataLoader` that replayring's dataset gets too."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import types
from typing import Any

import numpy as np
from benchmark.turns import take_turns
from benchmark.workloads import FPS, PRESETS, Workload
from torch.utils.data import DataLoader, RandomSampler

from tests.benchmarks.peers.program import run

WORKERS = 2
EPOCH = 1 << 60


def load(path: str) -> Any:
    """Returns the module in a file of LeRobot, without LeRobot, of which it needs but a type."""
    for name in ("lerobot", "lerobot.datasets", "lerobot.datasets.lerobot_dataset"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].LeRobotDataset = object
    spec = importlib.util.spec_from_file_location("lerobot_online_buffer", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def loader(workload: Workload, path: str) -> None:
    """Takes batches from a `DataLoader` with workers."""
    columns = {
        name: {"dtype": np.dtype(dtype), "shape": shape}
        for name, (dtype, shape) in workload.columns.items()
    }
    seconds = [at / FPS for at in range(workload.window)]
    windows = dict.fromkeys(columns, seconds) if workload.window > 1 else None
    with tempfile.TemporaryDirectory() as folder:
        buffer = load(path).OnlineBuffer(folder, columns, workload.capacity, FPS, windows)
        for _ in range(workload.capacity // workload.episode_frames):
            buffer.add_data({**workload.episode(), **_presets(workload.episode_frames)})
        sampler = RandomSampler(buffer, replacement=True, num_samples=EPOCH)
        batches = iter(
            DataLoader(
                buffer,
                batch_size=workload.batch_size,
                num_workers=WORKERS,
                sampler=sampler,
                drop_last=True,
            )
        )

        def step() -> int:
            next(batches)
            return workload.batch_size

        take_turns(step)


def _presets(frames: int) -> dict[str, np.ndarray[Any, Any]]:
    """Returns the columns that this buffer wants beside the declared ones; it changes them."""
    values = {"index": np.arange(frames), "frame_index": np.arange(frames)}
    values |= {"episode_index": np.zeros(frames), "timestamp": np.arange(frames) / FPS}
    return {name: values[name].astype(dtype) for name, (dtype, _) in PRESETS.items()}


if __name__ == "__main__":
    run({"loader": loader})
