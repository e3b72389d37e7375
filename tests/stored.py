"""A buffer's columns as they lie on the disk, to be looked at or spoilt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from replayring_proto import layout
from replayring_proto.spec import BufferSpec

SMALL = f"{layout.COLUMNS}/{layout.SMALL}"


def stored_column(folder: Path, spec: BufferSpec, key: str) -> np.ndarray[Any, Any]:
    """A column of the buffer in `folder`, of shape (physical rows, *shape); writing changes it."""
    file = layout.frame_file(spec, key)
    return file.view(np.memmap(folder / file.name, np.uint8, "r+"), key)
