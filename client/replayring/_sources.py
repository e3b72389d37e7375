"""Where an iteration's batches come from: a sample stream, made into tensors of some kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from replayring._batch import Batch
from replayring._blocks import block_of, tensors_in
from replayring._page_locked import Reserve, locked
from replayring._streams import BatchStream
from replayring.collation import Item, to_tensors


class Source(Protocol):
    """Where an iteration's batches come from. Thread-safe."""

    def take(self) -> tuple[Item, int | None]:
        """Returns the next batch, and how many frames had been added when it was drawn."""

    def close(self) -> None:
        """Ends it; who waits gets `ClosedError`. Callable from any thread, and again."""


class InMemory:
    """Batches as tensors in the memory that they arrived in."""

    def __init__(self, stream: BatchStream, convert: Callable[[Batch], Item]) -> None:
        self._stream = stream
        self._convert = convert
        self.close = stream.close

    def take(self) -> tuple[Item, int | None]:
        batch = self._stream._draw()
        return self._convert(batch), batch.next_index


def from_arrays(batch: Batch) -> Item:
    """Returns the tensors of a batch whose memory is numpy's."""
    return to_tensors(batch.arrays)


def from_reserve(reserve: Reserve, batch: Batch) -> Item:
    """Returns the tensors of a batch in a block of a reserve's, which is filled up here.

    They are to be of torch's own making: where one is copied to a GPU and let go, torch knows by
    that which block not to use again before the copy has ended.
    """
    reserve.fill()
    return tensors_in(locked(block_of(batch)), batch)
