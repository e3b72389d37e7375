"""The buffer that most of the suite uses, episodes for it, and a look at all that it holds."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.contract.transports import BufferUnderTest, Transport

CAPACITY = 20
FPS = 10.0
DATA_SPEC: dict[str, dict[str, Any]] = {
    "image": {"shape": (2, 3), "dtype": np.dtype("uint8")},
    "state": {"shape": (2,), "dtype": "float32"},
    "done": {"shape": (), "dtype": bool},
}
PRESETS = {"index", "episode_index", "frame_index", "timestamp"}
COLUMNS = sorted({*DATA_SPEC, *PRESETS})


def make(transport: Transport, name: str, capacity: int = CAPACITY) -> BufferUnderTest:
    return transport.create_buffer(name, DATA_SPEC, capacity, fps=FPS)


def episode(frames: int, start: int = 0, **changes: Any) -> dict[str, np.ndarray]:
    """Returns an episode whose frames are told apart by values that count from `start`."""
    count = np.arange(start, start + frames)
    arrays = {
        "image": np.broadcast_to(count[:, None, None] % 256, (frames, 2, 3)).astype(np.uint8),
        "state": np.stack([count, -count], axis=1).astype(np.float32),
        "done": np.arange(frames) == frames - 1,
    }
    return {**arrays, **changes}


def flat(*lengths: int, start: int = 0, **changes: Any) -> dict[str, np.ndarray]:
    """Returns whole episodes as `add_data` takes them."""
    parts = [episode(length) for length in lengths]
    arrays = {key: np.concatenate([part[key] for part in parts]) for key in DATA_SPEC}
    total = sum(lengths)
    arrays.update(episode(total, start, done=arrays["done"]))
    arrays["index"] = np.arange(total)
    arrays["episode_index"] = np.repeat(np.arange(len(lengths)), lengths)
    arrays["frame_index"] = np.concatenate([np.arange(length) for length in lengths])
    arrays["timestamp"] = arrays["frame_index"] / FPS
    return {**arrays, **changes}


def numbers(buffer: BufferUnderTest) -> list[int]:
    """Returns what tells frames apart, in position order."""
    return [int(value) for value in buffer.read_columns(["state"])["state"][:, 0]]


def snapshot(buffer: BufferUnderTest) -> tuple[Any, dict[str, list[Any]]]:
    """Returns all that can be seen of a buffer."""
    columns = buffer.read_columns(sorted(buffer.spec.by_name))
    return buffer.info(), {key: array.tolist() for key, array in columns.items()}
