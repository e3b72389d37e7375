"""Errors that a caller has caught keep nothing of what was there when they were raised.

An error holds the frames that it passed, the caller's included, with batches and models in them.
Where one of these frames holds the error, too, only the garbage collector lets go of both: late, as
it knows nothing of a GPU's memory.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import replayring

EPISODE = {"state": np.zeros((3, 2)), "reward": np.zeros(3)}


class Model:
    """What a learner has."""


@contextmanager
def no_collector() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def write(buffer: Any) -> None:
    with buffer.writer(timeout=5) as writer:
        writer.add_episode(EPISODE)


GONE: dict[str, Callable[[Any], Any]] = {
    "info": lambda buffer: buffer.info(),
    "sample": lambda buffer: buffer.sample(2),
    "seeded": lambda buffer: buffer.sample(2, seed=3),
    "get": lambda buffer: buffer.get([0]),
    "columns": lambda buffer: buffer.read_columns(["state"]),
    "add": lambda buffer: buffer.add_episode(EPISODE),
    "latest": lambda buffer: buffer.client.latest("nothing"),
    "writer": write,
}


def caught(act: Callable[[], Any], expected: type[Exception]) -> weakref.ref[Model]:
    """Returns what a caller had that caught an error."""
    had: list[weakref.ref[Model]] = []

    def learn() -> None:
        model = Model()
        had.append(weakref.ref(model))
        act()

    try:
        learn()
    except expected:
        return had[0]
    raise AssertionError("no error")


@pytest.mark.parametrize("call", GONE)
@pytest.mark.parametrize("main", [True, False])
def test_of_a_buffer_that_is_gone(buffer: replayring.Buffer, call: str, main: bool) -> None:
    buffer.delete()
    left: list[Any] = []

    def learn() -> None:
        left.append(caught(lambda: GONE[call](buffer), replayring.NotFoundError)())

    with no_collector():
        if main:
            learn()
        else:
            thread = threading.Thread(target=learn)
            thread.start()
            thread.join()
    assert left == [None]


@pytest.mark.parametrize("same_host", [True, False])
def test_of_time_that_is_up(core_server: str, name: str, same_host: bool) -> None:
    with replayring.connect(core_server, same_host=same_host) as client, no_collector():
        buffer = client.create_buffer(name, {"x": {"shape": (), "dtype": "int8"}}, 10)
        assert caught(lambda: buffer.sample(2, timeout=0.05), replayring.DeadlineError)() is None
