"""How this process's allocator treats memory that was freed."""

from __future__ import annotations

import contextlib
import ctypes

# Of mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8

_KEPT_BYTES = 32 << 20
_ARENAS = 2


def keep_freed_memory() -> None:
    """Has glibc keep some of what is freed, 64 MiB or so; elsewhere, does nothing.

    Packs and messages of megabytes come and go all the time. By itself glibc gives such blocks back
    to the system at once, which then has to fault in, and clear, every page of the next one: a
    third of what it costs to take in an episode of images.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, _ARENAS)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)


def give_back_freed_memory() -> None:
    """Gives what glibc has kept back to the system; takes milliseconds."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
