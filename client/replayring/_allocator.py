"""How this process's allocator treats memory that was freed."""

from __future__ import annotations

import numpy as np

# Up to here (DEFAULT_MMAP_THRESHOLD_MAX) glibc learns from what is freed. Less its own few bytes.
_MOST_BYTES = (32 << 20) - 8192


def keep_freed_batches() -> None:
    """Has glibc keep the memory of a batch that was let go for the next one.

    By itself it gives blocks of some 100 KiB back to the system, which has to fault in, and clear,
    every page of the next one: batches of windows from files then come at a quarter of the rate.
    It learns not to when a large block was freed, mallopt(3) says; most programs do that by chance,
    some do not. So one is freed here, whose pages are never touched. Elsewhere that does nothing.
    """
    np.empty(_MOST_BYTES, np.uint8)
