"""What is inserted and sampled: three shapes of data that robots and agents produce."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

# Not left to numpy, which imports it at its first use: a Ctrl-C in the middle of that is lost,
# since compiled modules drop some exceptions while they start.
from numpy.random import Generator, default_rng

__all__ = ["WORKLOADS", "Workload"]

FPS = 30

SMALL = {
    "obs": ("float32", (17,)),
    "action": ("float32", (6,)),
    "reward": ("float32", ()),
    "done": ("bool", ()),
}
PIXELS = {
    "image": ("uint8", (3, 96, 96)),
    "state": ("float32", (14,)),
    "action": ("float32", (14,)),
}
# What every buffer has beside them, and every batch brings along.
PRESETS = {
    "index": ("int64", ()),
    "episode_index": ("int64", ()),
    "frame_index": ("int64", ()),
    "timestamp": ("float64", ()),
}


@dataclass(frozen=True)
class Workload:
    """One shape of data, and how it is sampled.

    Attributes:
        name: what it is called.
        columns: dtype and shape of each declared column.
        capacity: frames.
        episode_frames: frames per episode.
        batch_size: frames, or windows, per batch.
        window: frames per window; 1 for single frames.
    """

    name: str
    columns: Mapping[str, tuple[str, tuple[int, ...]]]
    capacity: int
    episode_frames: int
    batch_size: int
    window: int = 1

    @property
    def data_spec(self) -> dict[str, dict[str, Any]]:
        """The declared columns, as `create_buffer` takes them."""
        return {
            name: {"dtype": dtype, "shape": shape} for name, (dtype, shape) in self.columns.items()
        }

    @property
    def sampling(self) -> dict[str, Any]:
        """Arguments of `Buffer.sample` beside the batch size."""
        if self.window == 1:
            return {}
        return {"delta_indices": dict.fromkeys(self.columns, range(self.window))}

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame's declared columns."""
        return sum(
            np.dtype(dtype).itemsize * int(np.prod(shape, dtype=int))
            for dtype, shape in self.columns.values()
        )

    @property
    def unit(self) -> str:
        """What a sampled batch consists of."""
        return "frames" if self.window == 1 else "windows"

    def of_capacity(self, frames: int) -> Workload:
        """Returns the same with another capacity."""
        return replace(self, capacity=frames)

    def episode(self, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
        """Returns an episode of random values, which do not compress."""
        rng = default_rng(seed)
        return {
            name: _noise(rng, (self.episode_frames, *shape), np.dtype(dtype))
            for name, (dtype, shape) in self.columns.items()
        }


def _noise(rng: Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 2 if dtype.kind == "b" else 256, shape).astype(dtype)


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("small", SMALL, 100_000, 200, 256),
        Workload("pixels", PIXELS, 20_000, 100, 64),
        Workload("sequence", SMALL, 100_000, 200, 256, window=16),
    )
}
