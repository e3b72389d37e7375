"""The fork gate: no gRPC state is alive in the instant in which this process forks.

Why. gRPC's core keeps threads, sockets, locks and one epoll set per process. A fork copies all of
that but the threads. A child then inherits locks that nobody will open and shares sockets and the
epoll set with its parent, whose events it can steal or garble. gRPC's own handlers pause the core
around a fork, but only where "there [are] no active gRPC function calls" (grpc/fork.h; see also
https://github.com/grpc/grpc/blob/master/doc/fork_support.md). Learners have such calls all the
time, in sample streams, writers and watches, while a DataLoader forks its workers.

What. Every use of gRPC happens inside the gate. Before a fork, in the thread that forks,

 1. the gate closes: whoever wants in waits until the fork is done, and whoever is in opens no
    channel any more;
 2. short calls get `GRACE_SECONDS` to end by themselves;
 3. every channel of this process is closed, which ends all calls with CANCELLED;
 4. all other threads leave the gate, since what they waited for has ended;
 5. the core, whose last channel is gone, shuts down, and its threads end.

So the child starts with a core that was never initialised, as a fresh process does, and nothing of
the parent's is left to share, destroy or forget. Afterwards the parent's threads find that their
channel was dropped, open another and carry on: calls are made again, streams resume, writers send
again what was not acknowledged. All waits are bounded; if one runs out, the fork goes ahead, the
log says so, and what was left over is kept from being destroyed in the child.

grpcio's handlers are not in the way. Python's part (`GRPC_ENABLE_FORK_SUPPORT=1`) is registered
when the first channel is made; ours after that, hence run before it and leave it nothing to do, as
they do for the core's own (pthread_atfork). A process that uses gRPC for something else as well
keeps the core alive: then step 5 runs out of time, and those handlers do their work.

Python runs no handlers for forks that go on to exec at once (subprocess), which need none.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from replayring._living import Living

_LOGGER = logging.getLogger(__name__)

GRACE_SECONDS = 0.2
DRAIN_SECONDS = 5.0
SHUTDOWN_SECONDS = 0.5

_TASKS = "/proc/self/task"

# How the core names its threads, in versions 1.71 to 1.85. If a later one renames them, a fork no
# longer waits for their end, which the core's own handlers then have to.
_CORE_THREADS = ("event_engine", "grpc_", "lifeguard", "default-exec", "resolver-exec")


class Forkable(Protocol):
    """What the gate needs of a channel."""

    @abstractmethod
    def drop(self) -> None:
        """Closes what is open; the next use opens anew."""

    @abstractmethod
    def forget(self) -> None:
        """In a forked child: starts over, touching nothing of the parent's."""


class ForkGate:
    """Knows who uses gRPC, and keeps everybody out while the process forks. Thread-safe."""

    def __init__(self) -> None:
        self._channels = Living[Forkable]()
        self._registered = False
        self._start()

    def _start(self) -> None:
        self._settling: frozenset[str] | None = None
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._inside: dict[object, tuple[int, bool]] = {}
        self._forking: set[int] = set()

    def add(self, channel: Forkable) -> None:
        """Has `channel` closed before forks from now on. Call it when gRPC is initialised."""
        with self._lock:
            self._channels.add(channel)
            if not self._registered and hasattr(os, "register_at_fork"):
                self._registered = True
                os.register_at_fork(
                    before=self._before, after_in_parent=self._after, after_in_child=self._in_child
                )

    @contextmanager
    def entered(self, *, lasting: bool = False) -> Iterator[None]:
        """Holds this thread inside the gate; waits first while the process forks.

        Args:
            lasting: what is done inside does not end soon by itself, so a fork need not hope so.
        """
        me, token = threading.get_ident(), object()
        with self._lock:
            # Others' handlers may use us in the thread that forks: it must not wait for itself.
            self._changed.wait_for(lambda: not self._forking or me in self._forking)
            self._inside[token] = (me, lasting)
        try:
            yield
        finally:
            with self._lock:
                self._inside.pop(token, None)
                if self._forking:
                    self._changed.notify_all()

    def settle(self) -> None:
        """Has the next fork wait until the core has shut down. Call it before closing a channel."""
        if self._settling is None:
            self._settling = _tasks()

    def closed(self) -> bool:
        """Whether another thread is about to fork, so that this one must open nothing more."""
        return bool(self._forking - {threading.get_ident()})

    def _before(self) -> None:
        with self._lock:
            self._forking.add(threading.get_ident())
            self._changed.wait_for(lambda: not self._others(lasting=False), GRACE_SECONDS)
            channels = self._channels.all()
        for channel in channels:
            channel.drop()
        with self._lock:
            drained = self._changed.wait_for(lambda: not self._others(lasting=True), DRAIN_SECONDS)
        if not drained:
            _LOGGER.warning("forking although threads still use gRPC; the child may not be able to")
        elif self._settling is not None:
            _await_core_shutdown(self._settling)
        self._settling = None

    def _after(self) -> None:
        with self._lock:
            self._forking.discard(threading.get_ident())
            self._changed.notify_all()

    def _in_child(self) -> None:
        self._start()  # the threads that held or awaited anything here do not exist in the child
        for channel in self._channels.all():
            channel.forget()

    def _others(self, *, lasting: bool) -> bool:
        """Whether other threads are inside; those of lasting uses count only if `lasting`."""
        me = threading.get_ident()
        return any(
            thread != me and (lasting or not lasts) for thread, lasts in self._inside.values()
        )


GATE = ForkGate()
"""The gate of this process."""


def _await_core_shutdown(known: frozenset[str]) -> None:
    """Waits until the core's threads have ended, as they do when its last channel is closed.

    Closing the channel returns before that, and a fork in between was seen to hang children in 2 of
    40 cases. The core offers Python no way to ask, so its threads are looked for.

    Args:
        known: threads there were before the channel was closed.
    """
    until = time.monotonic() + SHUTDOWN_SECONDS
    while _core_runs(known) and time.monotonic() < until:
        time.sleep(0.0002)


def core_threads() -> list[str]:
    """Returns the names of gRPC's own threads, and "" for each thread that has just ended."""
    names = [_name(task) for task in _tasks()]
    return [name for name in names if not name or name.startswith(_CORE_THREADS)]


def _core_runs(known: frozenset[str]) -> bool:
    # The core's shutdown may end in a thread of its own, which has another's name at first; so a
    # new one that is not Python's counts as well. One that has just ended may have begun it.
    python = {str(thread.native_id) for thread in threading.enumerate()}
    return bool(core_threads()) or not _tasks() <= known | python


def _tasks() -> frozenset[str]:
    try:
        return frozenset(os.listdir(_TASKS))
    except OSError:  # no Linux
        return frozenset()


def _name(task: str) -> str:
    try:
        with open(f"{_TASKS}/{task}/comm") as file:
            return file.read()
    except OSError:
        return ""
