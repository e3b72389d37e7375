"""Columns on disk, a file each: what numpy alone would keep frames in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from benchmark.workloads import PRESETS, Workload

Columns = dict[str, np.ndarray[Any, Any]]


def mapped(folder: Path, workload: Workload) -> Columns:
    """Maps all eight, or however many, columns in a folder."""
    return {
        name: np.memmap(folder / name, dtype, "r").reshape(-1, *shape)
        for name, (dtype, shape) in {**workload.columns, **PRESETS}.items()
    }


class Picks:
    """Rows to gather, drawn anew each time: a batch of frames, or of windows."""

    def __init__(self, columns: Columns, workload: Workload) -> None:
        self._windowed = workload.window > 1 and set(workload.columns)
        self._offsets = np.arange(workload.window)
        self._rows = min(map(len, columns.values())) - workload.window
        self._size = workload.batch_size
        self._columns = columns
        self._rng = np.random.default_rng()

    def gather(self) -> Columns:
        """Returns the next batch."""
        rows = self._rng.integers(0, self._rows, self._size)
        if not self._windowed:
            return {name: column[rows] for name, column in self._columns.items()}
        windows = rows[:, None] + self._offsets
        return {
            name: column[windows if name in self._windowed else rows]
            for name, column in self._columns.items()
        }
