"""Where an iteration's batches come from: a sample stream, made into tensors of some kind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

import torch

from replayring._blocks import Arrays, block_bytes, fill, layout_of, tensors_in
from replayring.collation import Item


class Source(Protocol):
    """Where an iteration's batches come from. Thread-safe."""

    def take(self) -> tuple[Item, int | None]:
        """Returns the next batch, and how many frames had been added when it was drawn."""

    def close(self) -> None:
        """Ends it; who waits gets `ClosedError`. Callable from any thread, and again."""


class Drawn:
    """A sample stream, each of whose batches comes with its `next_index`."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self.close = stream.close

    def take(self) -> tuple[Arrays, int | None]:
        with self._lock:  # or another thread's batch may come in between
            return next(self._stream), self._stream.next_index


class InMemory:
    """Batches as tensors in this process's memory."""

    def __init__(self, drawn: Drawn, convert: Callable[[Arrays], Item]) -> None:
        self._drawn = drawn
        self._convert = convert
        self.close = drawn.close

    def take(self) -> tuple[Item, int | None]:
        arrays, next_index = self._drawn.take()
        return self._convert(arrays), next_index


def pinned(arrays: Arrays) -> Item:
    """Returns the arrays as tensors in one block of page-locked memory."""
    layout = layout_of(arrays)
    block = torch.empty(block_bytes(layout), dtype=torch.uint8, pin_memory=True)
    fill(layout, arrays, block.numpy())
    return tensors_in(layout, block)
