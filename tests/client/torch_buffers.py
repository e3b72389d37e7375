"""Buffers and rollouts for the dataset tests. Their fixtures are in `torch_fixtures`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from replayring_proto.spec import BufferSpec
from tests.naive import NaiveBuffer

FPS = 10.0
DATA_SPEC: dict[str, dict[str, Any]] = {
    "state": {"shape": (2, 3), "dtype": np.dtype("float32")},
    "action": {"shape": (), "dtype": np.dtype("float64")},
    "image": {"shape": (2,), "dtype": np.dtype("uint8")},
}

COLUMNS = {*DATA_SPEC, "index", "episode_index", "frame_index", "timestamp"}

MakeBuffer = Callable[..., Any]


def rollout(*lengths: int, start: int = 0, fps: float = FPS) -> dict[str, np.ndarray]:
    """Whole episodes of these lengths, as `add_data` takes them; every value tells its frame."""
    number = np.arange(start, start + sum(lengths))
    frame_index = np.concatenate([np.arange(length) for length in lengths])
    return {
        "state": number[:, None, None] + np.arange(6, dtype=np.float32).reshape(2, 3) / 8,
        "action": -number.astype(np.float64),
        "image": np.stack([number % 256, number // 256 % 256], axis=1).astype(np.uint8),
        "index": np.arange(len(number)),
        "episode_index": np.repeat(np.arange(len(lengths)), lengths),
        "frame_index": frame_index,
        "timestamp": frame_index / fps,
    }


def episode(length: int, start: int = 0) -> dict[str, np.ndarray]:
    """One episode without preset columns, as `add_episode` takes it."""
    return {key: rollout(length, start=start)[key] for key in DATA_SPEC}


def make_naive(
    capacity: int = 100, fps: float | None = FPS, data_spec: dict[str, Any] = DATA_SPEC
) -> NaiveBuffer:
    """Makes a naive buffer."""
    return NaiveBuffer(BufferSpec.from_data_spec(data_spec, capacity, fps))


def filled(make: MakeBuffer, *lengths: int, **options: Any) -> Any:
    """Makes a buffer that holds episodes of these lengths."""
    buffer = make(**options)
    buffer.add_data(rollout(*lengths))
    return buffer


def count_calls(buffer: object) -> list[str]:
    """Records the names of the calls that a buffer gets from now on."""
    calls: list[str] = []

    def recorded(name: str) -> None:
        original = getattr(buffer, name)

        def method(*args: object, **options: object) -> object:
            calls.append(name)
            return original(*args, **options)

        setattr(buffer, name, method)

    for name in ("get", "info", "read_columns"):
        recorded(name)
    return calls


class Worker:
    """What torch tells of the worker that a thread would be in."""

    def __init__(self, number: int, count: int) -> None:
        self.id = number
        self.num_workers = count
