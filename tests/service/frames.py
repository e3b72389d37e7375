"""A small buffer for tests of the wire, its episodes, and how to see that nothing changed in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from tests.wire import Refused, Wire, spec_message

CAPACITY = 10
FPS = 10.0
SPEC = spec_message(
    {"position": ("float32", (2,)), "pixel": ("uint8", ()), "done": ("bool", ())},
    capacity=CAPACITY,
    fps=FPS,
)
COLUMNS = ("done", "episode_index", "frame_index", "index", "pixel", "position", "timestamp")


def episode(frames: int = 4, start: int = 0, **changes: Any) -> dict[str, np.ndarray]:
    """Returns an episode that fits `SPEC`; a change of None leaves its key out."""
    count = np.arange(start, start + frames)
    arrays = {
        "position": np.stack([count, -count], axis=1).astype(np.float32),
        "pixel": (count % 256).astype(np.uint8),
        "done": count == start + frames - 1,
    }
    arrays.update(changes)
    return {key: array for key, array in arrays.items() if array is not None}


def state(wire: Wire, buffer: str) -> tuple[bytes, dict[str, list[Any]]]:
    """Returns all that can be seen of a buffer."""
    columns = wire.columns(buffer, *COLUMNS)
    info = wire.info(buffer).SerializeToString(deterministic=True)
    return info, {key: array.tolist() for key, array in columns.items()}


@contextmanager
def refused(code: str, kind: str | None, *words: str) -> Iterator[None]:
    """Expects the call within to be refused with this status, error class and these words."""
    with pytest.raises(Refused) as caught:
        yield
    error = caught.value
    assert (error.code, error.kind) == (code, kind), error
    for word in words:
        assert word in error.message, f"{word!r} is not in {error.message!r}"
    if kind is not None:
        assert error.detail.startswith(error.message)
