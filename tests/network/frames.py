"""Frames whose every value follows from two numbers, so that any wrong one is seen."""

from __future__ import annotations

from typing import Any

import numpy as np

SPEC = {
    "number": {"shape": (), "dtype": "int64"},
    "row": {"shape": (), "dtype": "int64"},
    "values": {"shape": (64,), "dtype": "float64"},
}


def episode(number: int, frames: int = 50) -> dict[str, Any]:
    """Returns the writer's `number`-th episode."""
    rows = np.arange(frames)
    numbers = np.full(frames, number)
    return {"number": numbers, "row": rows, "values": _values(numbers, rows)}


def check(batch: dict[str, Any]) -> None:
    """Checks every value of frames that came back."""
    number, row = (np.asarray(batch[key]) for key in ("number", "row"))
    assert np.array_equal(np.asarray(batch["values"]), _values(number, row)), "torn or mixed rows"
    assert np.array_equal(np.asarray(batch["frame_index"]), row), "frames of other places"


def _values(numbers: Any, rows: Any) -> Any:
    return (numbers * 1e3 + rows)[:, np.newaxis] + np.arange(64) / 64
