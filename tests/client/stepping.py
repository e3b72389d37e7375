"""Something that happens at one step of Python, so that a test can have it at each in turn."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any


class AtStep:
    """While entered, does something before one of the steps of some functions in this thread.

    As a thread, a signal handler or Ctrl-C may come between any two.

    Attributes:
        reached: whether there was such a step.
    """

    def __init__(
        self, number: int, of: Callable[[CodeType], bool], deed: Callable[[], object]
    ) -> None:
        """Prepares for step `number`, from 0, of all that `of` says is meant."""
        self.reached = False
        self._left = number
        self._of = of
        self._deed = deed

    def __enter__(self) -> AtStep:
        self._before = sys.gettrace()
        sys.settrace(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _called(self, frame: FrameType, *_: Any) -> Any:
        if not self._of(frame.f_code):
            return None
        frame.f_trace_opcodes = True
        return self._stepped

    def _stepped(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "opcode" and not self.reached:
            self.reached = self._left == 0
            self._left -= 1
            if self.reached:
                self._deed()
        return self._stepped


def named(name: str) -> Callable[[CodeType], bool]:
    """Returns what tells functions of a name."""
    return lambda code: code.co_name == name
