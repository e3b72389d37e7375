"""The list of who is there, while others come and go."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from replayring._living import Living


class Thing:
    pass


def at_each_line(work: Callable[[], Any], meanwhile: Callable[[], None]) -> Any:
    """Returns what `work` returns, with something done before each line of Python that it runs."""

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line":
            sys.settrace(None)
            meanwhile()
            sys.settrace(trace)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        return work()
    finally:
        sys.settrace(before)


def test_it_keeps_nothing() -> None:
    living, one, other = Living[Thing](), Thing(), Thing()
    for thing in (one, other, one):
        living.add(thing)
    assert set(living.all()) == {one, other}
    assert len(living.all()) == 2
    del thing, other
    gc.collect()
    assert living.all() == [one]


def test_others_come_and_go_while_it_is_listed() -> None:
    """As other threads have them, and the garbage collector: with a WeakSet, a RuntimeError."""
    living = Living[Thing]()
    things = [Thing() for _ in range(5)]
    for thing in things[1:]:
        living.add(thing)
    staying = set(things[1:4])
    del thing

    def come_and_go() -> None:
        things.pop()
        things.extend([Thing(), Thing()])
        for thing in things[-2:]:
            living.add(thing)

    assert staying <= set(at_each_line(living.all, come_and_go))
