"""Sample streams that give what a test says, and the buffer that hands one out."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from replayring_proto.errors import ClosedError
from tests.client.torch_buffers import make_naive
from tests.naive import NaiveBuffer


class ScriptedStream:
    """A stream that gives what it was told to and waits when that is used up."""

    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)
        self.waiting = threading.Event()
        self.closed = threading.Event()
        self.closings = 0
        self.next_index = 0

    def __next__(self) -> Any:
        if self.steps:
            step = self.steps.pop(0)
            if isinstance(step, Exception):
                raise step
            return step
        self.waiting.set()
        assert self.closed.wait(30)
        raise ClosedError("closed")

    def close(self) -> None:
        self.closings += 1
        self.closed.set()


class ScriptedBuffer(NaiveBuffer):
    """A buffer whose streams are scripted."""

    def __init__(self, *streams: ScriptedStream) -> None:
        super().__init__(make_naive().spec)
        self.streams = list(streams)
        self.options: list[dict[str, Any]] = []

    def sample_stream(self, batch_size: int, **options: Any) -> Any:
        self.options.append({"batch_size": batch_size, **options})
        return self.streams[len(self.options) - 1]


def one(number: int) -> dict[str, np.ndarray]:
    return {"x": np.array([number])}
