"""Keeps Ctrl-C out of gRPC, by calling it from other threads than the main one.

Python runs signal handlers between any two steps of the main thread. grpc guards its channels with
`threading.Condition`, whose `with` takes several such steps: a KeyboardInterrupt among them leaves
the lock held for ever, and every later call, the closing of the channel included, hangs. (Ctrl-C
in a loop of calls was seen to do that in 3 of 13 programs.) So work for the main thread is done by
a worker thread, and the main thread waits in a queue of C code, which can be interrupted safely.

Our own locks are taken with `with lock:` on locks of C code, which Python does not interrupt;
conditions only wait and notify on such a lock.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")

_Work = Callable[[], None]
_Job = Callable[[], "_Work | None"]  # returns what is left to do when its thread is free again

_IDLE_SECONDS = 5.0


class Workers:
    """Threads that do work for the main thread. They end when they are idle. Thread-safe."""

    def __init__(self) -> None:
        self._idle: list[queue.SimpleQueue[_Job | None]] = []

    def run(self, work: Callable[[], T], abandon: _Work) -> T:
        """Returns what `work` returns, or raises what it raises.

        Args:
            work: done in this thread, or elsewhere if this is the main thread.
            abandon: makes `work` end soon; called, elsewhere, when the wait for it is interrupted.
        """
        if threading.current_thread() is not threading.main_thread():
            return work()
        answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self._post(lambda: partial(answers.put, outcome(work)))
        try:
            answer, error = answers.get()
        except BaseException:
            self._post(abandon)
            raise
        if error is not None:
            try:
                raise error
            finally:
                del error  # or this frame and the error, which has it, would keep each other
        value: T = answer
        return value

    def send(self, work: _Work) -> None:
        """Does `work`, which returns nothing: at once, or soon if this is the main thread."""
        if threading.current_thread() is threading.main_thread():
            self._post(work)
        else:
            work()

    def begin(self, job: _Job) -> None:
        """Does `job`, which raises nothing, in another thread."""
        self._post(job)

    def dismiss(self) -> None:
        """Ends the threads that are idle."""
        while self._idle:
            self._idle.pop().put(None)

    def forget(self) -> None:
        """In a forked child: the threads are not there."""
        self._idle = []

    def _post(self, job: _Job) -> None:
        try:
            inbox = self._idle.pop()
        except IndexError:
            inbox = queue.SimpleQueue()
            thread = threading.Thread(
                target=self._serve, args=(inbox,), name="replayring caller", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # too late for threads: the interpreter is shutting down
                if (rest := job()) is not None:
                    rest()
                return
        inbox.put(job)

    def _serve(self, inbox: queue.SimpleQueue[_Job | None]) -> None:
        while (job := self._next(inbox)) is not None:
            rest = job()
            # Before whoever waits goes on, and perhaps dismisses the threads that are idle.
            self._idle.append(inbox)
            if rest is not None:
                rest()
            del job, rest  # not to be kept alive while waiting for more

    def _next(self, inbox: queue.SimpleQueue[_Job | None]) -> _Job | None:
        try:
            return inbox.get(timeout=_IDLE_SECONDS)
        except queue.Empty:
            pass
        try:
            self._idle.remove(inbox)
        except ValueError:  # somebody has just taken it, and will put something
            return inbox.get()
        return None


def outcome(work: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """Returns what `work` returns, or what it raises."""
    try:
        return work(), None
    except BaseException as error:
        return None, error


WORKERS = Workers()
"""The workers of this process."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=WORKERS.forget)
