"""Episodes whose every value follows from (tag, frame), so that a torn or mixed row is seen.

The columns differ in width and dtype; a row that holds values of two episodes, or zeros, or bytes
of a row half-written, fails `assert_whole`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from replayring_proto.spec import BufferSpec

Arrays = dict[str, np.ndarray[Any, Any]]


def checked_spec(capacity: int, width: int = 32, fps: float | None = 10) -> BufferSpec:
    """A spec of self-checking frames; `width` is the bytes of one column.

    One column is large enough for a file of its own.
    """
    return BufferSpec.from_data_spec(
        {
            "a.tag": {"shape": (), "dtype": "int64"},
            "b.bytes": {"shape": (width,), "dtype": "uint8"},
            "c.words": {"shape": (80,), "dtype": "int32"},
            "z.tag": {"shape": (), "dtype": "int64"},
        },
        capacity,
        fps,
    )


def checked_episode(spec: BufferSpec, tag: int, frames: int) -> Arrays:
    """An episode of that many frames. Tags are above 0, which is what unwritten rows hold."""
    return _values(spec, np.full(frames, tag), np.arange(frames))


def assert_whole(spec: BufferSpec, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Checks that every frame in `arrays` (any leading axes) is a frame of one episode."""
    tags, frames = arrays["a.tag"], arrays["frame_index"]
    assert (tags > 0).all(), "a row that was never written"
    for name, expected in _values(spec, tags, frames).items():
        assert np.array_equal(arrays[name], expected), f"a torn row, seen in {name}"


def assert_contiguous(arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Checks that frames follow each other without gaps: `index`, episodes, frames in them."""
    index, episodes = arrays["index"], arrays["episode_index"]
    tags, frames = arrays["a.tag"], arrays["frame_index"]
    assert (np.diff(index) == 1).all(), "index has gaps"
    new = np.diff(episodes)
    assert np.isin(new, (0, 1)).all(), "episode_index has gaps"
    assert ((np.diff(tags) != 0) == (new == 1)).all(), "episodes are mixed"
    assert (np.diff(frames)[new == 0] == 1).all(), "frames of an episode are missing"
    assert (frames[1:][new == 1] == 0).all(), "an episode lacks its beginning"


def _values(spec: BufferSpec, tags: np.ndarray, frames: np.ndarray) -> Arrays:
    seed = tags * 7919 + frames * 104729
    width, words = spec.column("b.bytes").shape[0], spec.column("c.words").shape[0]
    return {
        "a.tag": tags.astype(np.int64),
        "b.bytes": ((seed[..., None] + np.arange(width)) % 251).astype(np.uint8),
        "c.words": np.repeat(seed[..., None] % (1 << 30), words, axis=-1).astype(np.int32),
        "z.tag": tags.astype(np.int64),
    }
