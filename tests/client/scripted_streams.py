"""Sample streams that give what a test says, and the buffer that hands one out."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import numpy as np
import torch

from replayring._batch import Batch, batches_in
from replayring._streams import BatchStream
from replayring_proto.errors import ClosedError
from replayring_proto.pack import Memory, Pack, aligned_empty
from tests.client.torch_buffers import make_naive
from tests.naive import NaiveBuffer

Arrays = dict[str, np.ndarray]


class Together:
    """Arrays that came in one pack, with so many batches in it."""

    def __init__(self, arrays: Arrays, parts: int) -> None:
        self.arrays = arrays
        self.parts = parts


class ScriptedStream(BatchStream):
    """A stream that gives what it was told to and waits when that is used up. Thread-safe.

    A step is a batch's arrays, several of them `Together`, or an error. `next_index` counts the
    batches that were given.
    """

    def __init__(self, *steps: Any, memory: Memory = aligned_empty) -> None:
        self.steps = deque(steps)
        self.memory = memory
        self.given = 0
        self.waiting = threading.Event()
        self.closed = False
        self.closings = 0
        self._changed = threading.Condition()
        self._parts: deque[Batch] = deque()

    def add(self, *steps: Any) -> None:
        with self._changed:
            self.steps.extend(steps)
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self.closings += 1
            self.closed = True
            self._changed.notify_all()

    def _draw(self) -> Batch:
        with self._changed:
            while (batch := self._next()) is None:
                self.waiting.set()
                assert self._changed.wait(30)
            return batch

    def _poll(self) -> Batch | None:
        with self._changed:
            return self._next()

    def _next(self) -> Batch | None:
        if self.closed:
            raise ClosedError("closed")
        if not self._parts:
            if not self.steps:
                return None
            step = self.steps.popleft()
            if isinstance(step, Exception):
                raise step
            arrays, parts = step, 1
            if isinstance(step, Together):
                arrays, parts = step.arrays, step.parts
            self._parts.extend(batches_in(Pack.of(arrays, self.memory), parts, 0))
        self.given += 1
        return self._parts.popleft()._replace(next_index=self.given)


class ScriptedBuffer(NaiveBuffer):
    """A buffer whose streams are scripted."""

    def __init__(self, *streams: ScriptedStream) -> None:
        super().__init__(make_naive().spec)
        self.streams = list(streams)
        self.options: list[dict[str, Any]] = []

    def sample_stream(self, batch_size: int, **options: Any) -> Any:
        self.options.append({"batch_size": batch_size, **options})
        stream = self.streams[len(self.options) - 1]
        stream.memory = options.get("memory", aligned_empty)
        return stream


def one(number: int) -> Arrays:
    return {"x": np.array([number])}


def same(tensors: dict[str, torch.Tensor], arrays: Arrays) -> bool:
    """Returns whether tensors have the keys and values of arrays."""
    return tensors.keys() == arrays.keys() and all(
        np.array_equal(tensors[key].numpy(), arrays[key]) for key in arrays
    )
