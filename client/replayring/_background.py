"""A thread that keeps a call to the server going, through broken connections and forks."""

from __future__ import annotations

import logging
import os
import threading
import time
from abc import ABC, abstractmethod

import grpc

from replayring._calls import Caller
from replayring._channel import Interrupted, Stub
from replayring._patience import BackOff, passing
from replayring._signals import WORKERS
from replayring_proto.errors import ClosedError, ReplayRingError, ServerUnavailableError

_LOGGER = logging.getLogger(__name__)

_JOIN_SECONDS = 5.0
_LOOK_SECONDS = 1.0

FOREIGN = "this {} belongs to the process that forked this one; make another here"


class _Condition(threading.Condition):
    """A condition for threads that run others' code between any two steps.

    Ctrl-C leaves `wait` with the lock held: the base lets go of it one step before its `try`, and
    an interrupt between the two would end as "cannot release un-acquired lock". And what the
    garbage collector closes, in the thread that is about to wait for that, is seen soon: `wait`
    returns after a second at the latest, which `wait_for` takes as it comes.
    """

    def wait(self, timeout: float | None = None) -> bool:
        try:
            return super().wait(_LOOK_SECONDS if timeout is None else min(timeout, _LOOK_SECONDS))
        except BaseException:
            try:
                self.notify(0)  # which needs the lock, and does nothing
            except RuntimeError:
                self.acquire()
            raise


class Guard:
    """A lock, and a condition over it.

    Attributes:
        lock: to be taken by itself, never by the condition: see `_signals`.
        changed: notified of every change.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.changed = _Condition(self.lock)


class Background(ABC):
    """Makes one call after another while there is work, backing off while the server is away.

    Subclasses say what the work is. They guard their state with `_lock`, call `_got_somewhere`
    whenever the server did something for them, and must not raise from the methods below anything
    but gRPC's errors and replayring's.

    Thread-safe. Belongs to the process that made it. Whoever made it stops it; closing the client
    ends it too.
    """

    def __init__(self, caller: Caller, name: str, guard: Guard | None = None) -> None:
        """Prepares; `start` starts the thread.

        Args:
            caller: makes the calls.
            name: what this is, for messages.
            guard: guards the state; several may share one.
        """
        self._caller = caller
        self._name = name
        self._process = os.getpid()
        guard = guard or Guard()
        self._lock, self._changed = guard.lock, guard.changed
        self._progress = 0
        self._trouble: ReplayRingError | None = None
        self._ended = False
        self._stub: Stub | None = None
        self._thread: threading.Thread | None = None
        caller.channel.add(self)

    @property
    def foreign(self) -> bool:
        """Whether another process made this, which forked the present one."""
        return os.getpid() != self._process

    def check_native(self) -> None:
        """Raises `ClosedError` in a forked copy, whose thread and locks are the parent's."""
        if self.foreign:
            raise ClosedError(FOREIGN.format(self._name))

    def start(self) -> None:
        """Starts the thread, unless that was done."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name=f"replayring {self._name}", daemon=True
                )
                self._thread.start()

    def end(self) -> None:
        """Has the thread end, without waiting for it."""
        with self._lock:
            self._ended = True
            stub = self._stub
            self._changed.notify_all()
        if stub is not None:
            WORKERS.send(stub.cancel)

    def stop(self) -> None:
        """Ends the thread and waits for that, for a bounded time."""
        self.end()
        if self._thread not in (None, threading.current_thread()):
            self._thread.join(_JOIN_SECONDS)

    def _got_somewhere(self, steps: int = 1) -> None:
        """Says that the server did something, or that many things. `_lock` is held."""
        self._progress += steps
        self._trouble = None
        self._caller.channel.outage.answered()
        self._changed.notify_all()

    @abstractmethod
    def _has_work(self) -> bool:
        """Whether a call is to be made now. `_lock` is held."""

    def _endures(self, failure: ReplayRingError) -> bool:
        """Whether to make the next call in spite of a failure."""
        return passing(failure)

    @abstractmethod
    def _converse(self, stub: Stub) -> None:
        """Makes one call, from beginning to end."""

    @abstractmethod
    def _give_up(self, failure: ReplayRingError) -> None:
        """Takes a failure that trying again will not mend. `_lock` is held."""

    def _run(self) -> None:
        try:
            self._keep_calling()
        finally:  # after a defect too, so that nobody waits for a thread that is gone
            self.end()

    def _keep_calling(self) -> None:
        back_off = BackOff()
        while self._await_work():
            before, begun = self._progress, time.monotonic()
            failure = self._one_call()
            if self._progress > before:
                back_off.reset()
            if failure is None:
                continue
            if isinstance(failure, ServerUnavailableError) and not self._ended:
                self._caller.channel.outage.failed(failure, begun)
            with self._lock:
                if self._endures(failure) or back_off.allows(failure):
                    if not passing(failure) and type(failure) is not type(self._trouble):
                        _LOGGER.warning("%s keeps trying: %s", self._name, failure)
                    self._trouble = failure
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._ended, back_off.delay())
                else:
                    self._give_up(failure)
                    back_off.reset()
                    self._changed.notify_all()

    def _await_work(self) -> bool:
        with self._lock:
            self._changed.wait_for(lambda: self._ended or self._has_work())
            return not self._ended

    def _begin(self, stub: Stub) -> None:
        """Makes `stub` the one whose call `end` cancels."""
        with self._lock:
            self._stub = stub
            if self._ended:
                stub.cancel()

    def _one_call(self) -> ReplayRingError | None:
        """Returns why the call failed, if it did."""
        before = self._progress
        try:
            with self._caller.channel.use(lasting=True) as stub:
                self._begin(stub)
                self._converse(stub)
        except Interrupted:
            return None
        except grpc.RpcError as error:
            return self._caller.channel.failure(error)
        except ReplayRingError as error:
            return error
        finally:
            self._stub = None
        if self._progress == before:
            return ServerUnavailableError("the server ended the call without an answer")
        return None
