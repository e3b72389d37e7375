"""Episodes whose every frame says whose it is, and what a buffer full of them must look like."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

WIDTH = 96
DATA_SPEC = {
    "writer": {"shape": (), "dtype": "int64"},
    "sequence": {"shape": (), "dtype": "int64"},
    "body": {"shape": (WIDTH,), "dtype": "int64"},
}
COLUMNS = (*DATA_SPEC, "index", "episode_index", "frame_index")


def length(writer: int, sequence: int) -> int:
    """Returns the frames of an episode."""
    return 1 + (7 * writer + 3 * sequence) % 13


def episode(writer: int, sequence: int) -> dict[str, np.ndarray]:
    """Returns an episode; every number in it tells it from all others."""
    frames = length(writer, sequence)
    return {
        "writer": np.full(frames, writer),
        "sequence": np.full(frames, sequence),
        "body": np.full((frames, WIDTH), body(writer, sequence)),
    }


def body(writer: int, sequence: int) -> int:
    """Returns what fills an episode's body."""
    return writer * 1_000_003 + sequence


def check(columns: Mapping[str, np.ndarray], acknowledged: Mapping[int, int]) -> None:
    """Checks all frames of a buffer that has lost none.

    Each writer's episodes 1, 2, 3, ... are there once, whole and in order, up to the one that was
    acknowledged last; it may be followed by one or more that were stored and not acknowledged.
    """
    order = np.argsort(columns["index"])
    columns = {key: values[order] for key, values in columns.items()}
    assert columns["index"].tolist() == list(range(len(order)))
    filling = columns["body"]
    torn = (filling != body(columns["writer"], columns["sequence"])[:, None]).any(axis=1)
    assert not torn.any(), f"torn rows: {np.flatnonzero(torn)[:10]}"
    starts = np.flatnonzero(columns["frame_index"] == 0)
    assert columns["episode_index"][starts].tolist() == list(range(len(starts)))
    ends = [*starts[1:].tolist(), len(order)]
    stored: dict[int, int] = {}
    for start, end in zip(starts.tolist(), ends, strict=True):
        writer, sequence = int(columns["writer"][start]), int(columns["sequence"][start])
        assert sequence == stored.get(writer, 0) + 1, f"writer {writer}: {sequence} is not next"
        assert end - start == length(writer, sequence)
        assert (columns["writer"][start:end] == writer).all()
        assert (columns["sequence"][start:end] == sequence).all()
        stored[writer] = sequence
    lost = {w: (n, stored.get(w, 0)) for w, n in acknowledged.items() if stored.get(w, 0) < n}
    assert not lost, f"acknowledged and stored, by writer: {lost}"
