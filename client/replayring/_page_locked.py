"""Memory from which a GPU copies by itself.

To allocate it is a call of CUDA's, and not for any thread: one in another thread ends a graph that
the learner is capturing, unless the learner has said that it may. So threads that receive batches
take it from a `Reserve`, and only the learner's own fills that up.
"""

from __future__ import annotations

import logging
import threading
from collections import deque

import torch
from torch import Tensor

logger = logging.getLogger("replayring")

_told = threading.Event()


class Reserve:
    """Page-locked memory in stock, for what comes next. Thread-safe.

    It keeps as many blocks as were taken at most between two fillings, each of the largest size
    that was asked for. What comes before the first filling gets ordinary memory, from which copies
    are slower; how much that was says nothing, as all that is in flight comes at once then.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks: deque[Tensor] = deque()
        self._nbytes = 0
        self._filled = False
        self._count = 1
        self._taken = 0

    def take(self, nbytes: int) -> Tensor:
        """Returns memory: uint8, of shape (nbytes,). Calls nothing of CUDA's."""
        with self._lock:
            if nbytes > self._nbytes:
                self._nbytes, self._filled = nbytes, False
                self._blocks.clear()
            self._taken += self._filled
            block = self._blocks.popleft() if self._blocks else None
        return ordinary(nbytes) if block is None else block[:nbytes]

    def fill(self) -> None:
        """Allocates what is missing. For the thread that uses the device."""
        with self._lock:
            if not self._nbytes:
                return
            self._count = max(self._count, self._taken)
            self._taken, self._filled = 0, True
            nbytes, missing = self._nbytes, self._count - len(self._blocks)
        for _ in range(missing):
            block = page_locked(nbytes)
            with self._lock:
                if nbytes == self._nbytes:  # or another thread has asked for larger ones
                    self._blocks.append(block)


def page_locked(nbytes: int) -> Tensor:
    """Returns memory that a GPU copies from by itself: uint8, of shape (nbytes,).

    Where the system locks no more of it, the log says so once, and ordinary memory has to do.
    """
    try:
        return torch.empty(nbytes, dtype=torch.uint8, device="cpu", pin_memory=True)
    except RuntimeError as error:
        if not _told.is_set():
            _told.set()
            logger.warning(
                "%s bytes could not be page-locked, so copies from there are slower and the "
                "learner waits for them; where memory is short, lower in_flight or batch_size: %s",
                f"{nbytes:,}",
                error,
            )
        return ordinary(nbytes)


def locked(block: Tensor) -> Tensor:
    """Returns a block of uint8, or a copy of it that is page-locked, unless none can be had."""
    if _told.is_set() or block.is_pinned():
        return block
    return page_locked(len(block)).copy_(block)


def ordinary(nbytes: int) -> Tensor:
    """Returns memory of no kind: uint8, of shape (nbytes,)."""
    # By name: threads have default devices, which may be any.
    return torch.empty(nbytes, dtype=torch.uint8, device="cpu")
