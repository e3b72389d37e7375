"""What is inserted and sampled: three shapes of data that robots and agents produce."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from replayring_proto.spec import BufferSpec

SMALL = {
    "obs": {"shape": (17,), "dtype": "float32"},
    "action": {"shape": (6,), "dtype": "float32"},
    "reward": {"shape": (), "dtype": "float32"},
    "done": {"shape": (), "dtype": "bool"},
}
PIXELS = {
    "image": {"shape": (3, 96, 96), "dtype": "uint8"},
    "state": {"shape": (14,), "dtype": "float32"},
    "action": {"shape": (14,), "dtype": "float32"},
}


@dataclass(frozen=True)
class Workload:
    """One shape of data, and how it is sampled.

    Attributes:
        name: what it is called.
        data_spec: its columns.
        capacity: frames.
        episode_frames: frames per episode.
        batch_size: frames, or windows, per batch.
        sampling: further arguments of `Buffer.sample`.
    """

    name: str
    data_spec: dict[str, dict[str, Any]]
    capacity: int
    episode_frames: int
    batch_size: int
    sampling: dict[str, Any] = field(default_factory=dict)

    @property
    def spec(self) -> BufferSpec:
        """The buffer's spec."""
        return BufferSpec.from_data_spec(self.data_spec, self.capacity, 30)

    def episode(self) -> dict[str, np.ndarray]:
        """Returns an episode of random values."""
        rng = np.random.default_rng(0)
        return {
            name: rng.integers(0, 2, (self.episode_frames, *column["shape"])).astype(
                column["dtype"]
            )
            for name, column in self.data_spec.items()
        }


WINDOW = {"delta_indices": {"obs": range(16), "action": range(16), "reward": range(16)}}

WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("small", SMALL, 100_000, 200, 256),
        Workload("pixels", PIXELS, 20_000, 100, 64),
        Workload("sequence", SMALL, 100_000, 200, 256, WINDOW),
    )
}
