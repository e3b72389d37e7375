"""The calls under way: what a handler sees of its own, and who keeps an eye on all of them.

A call is either at work; or at rest, as a learner's stream, an actor between episodes or a watcher
of parameters may be for weeks; or it waits for a peer that owes it something: the rest of an
episode that it began, the taking of a reply, the very first request. Those at rest cost nothing and
are ended when the server stops. Those that are owed are ended when the peer does nothing for too
long, since they hold memory; sooner, if others wait for that.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from typing import Any, TypeAlias

import grpc

from replayring_proto.errors import (
    DeadlineError,
    MalformedMessageError,
    ReplayRingError,
    ServerUnavailableError,
)
from replayring_proto.limits import TOGETHER_BYTES, ServerLimits, check_limit
from replayring_server.allocator import give_back_freed_memory
from replayring_server.engine import Buffer
from replayring_server.service.budget import Budget, Hold
from replayring_server.service.ending import Ending
from replayring_server.tally import CallTally

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"

# A peer that moves less than this in its time does as good as nothing; and so does one that moves
# less than this part of what it holds. Those who wait for that would wait for hours.
_STEP_BYTES = 64 << 10
_STEPS = 1024

# The shortest time that a peer is given is so many ticks: none is much shorter than it should be.
_TICKS = 4

# Of these an answer is work; the call itself may last for weeks.
_LASTING = {"AddEpisodes", "GetItem", "SampleBatch", "WatchParameters"}


class Call:
    """One call, for its handler. Belongs to the event loop, and to the task that made it.

    Attributes:
        idle: ticks for which the peer has owed something and done nothing.
        age: ticks since the call began.
        hold: the memory that the call has taken for its pack; given back when the call ends.
        buffer: the buffer that it keeps from one request to the next, if it does.
        unwanted: says whether what is being sent is of no use any more.
        method: its method.
        outcome: name of the status code that it ended with.
    """

    def __init__(self, calls: Calls, context: Context, method: str) -> None:
        self.method = method
        self.outcome = grpc.StatusCode.CANCELLED.name  # unless somebody gets to say otherwise
        self._calls = calls
        self._context = context
        self._ending = Ending()
        self._begun = False
        self._owed = False
        self._moved = 0
        self.idle = 0
        self.age = 0
        self.hold: Hold | None = None
        self.buffer: Buffer | None = None
        self.unwanted: Callable[[], bool] = lambda: False

    async def request(self) -> bytes:
        """Returns the request of a call that has just one.

        Raises:
            MalformedMessageError: the call ended without it.
        """
        message = await self.read()
        if message is None:
            raise MalformedMessageError("the call ended before its request came; send one")
        return message

    async def read(self, *, midway: bool = False) -> bytes | None:
        """Returns the next request, or None at the end of them.

        Args:
            midway: the peer has begun something; otherwise it may take its time, but for the
                first request.
        """
        with nullcontext() if midway else self.resting(), self._owing(midway or not self._begun):
            message: Any = await self._context.read()
        self._begun = True
        if message is grpc.aio.EOF:
            return None
        self._calls.tally.received_bytes += len(message)
        self._count(len(message))
        return bytes(message)

    async def write(self, message: bytes) -> None:
        """Sends a reply, or a piece of one; returns when the peer's side has room for it."""
        with self._owing(True):
            await self._ending.write(self._context, message)
        self._calls.tally.sent_bytes += len(message)
        self._count(len(message))
        self._ending.check()

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Marks the call as one that merely waits; when the server stops, it is ended there.

        Raises:
            ServerUnavailableError: the server is stopping.
            NotFoundError: its buffer was deleted.
        """
        with self._calls.resting(self):
            if self.buffer is not None:
                self.buffer.check_open()
            yield

    async def take(self, budget: Budget, nbytes: int) -> None:
        """Takes memory for the call's pack, waiting for room. A call holds one pack's at a time.

        A small pack is not worth a queue: so whoever deals in small ones is never held up by the
        large ones of others. Each call has a message or two of that size in memory anyway.
        """
        assert self.hold is None
        with self.resting():
            self.hold = await budget.take(nbytes if nbytes > TOGETHER_BYTES else 0)
        self.begin_pack()

    def begin_pack(self) -> None:
        """Says that from here on it counts what the peer does."""
        self.idle = self._moved = 0

    def pass_on(self) -> Hold:
        """Returns the memory that the call holds, for someone else to give back."""
        hold, self.hold = self.hold, None
        assert hold is not None
        return hold

    def leave_to(self, work: Future[Any]) -> None:
        """Leaves the memory that the call holds to what goes on without it, until that ends."""
        release, loop = self.pass_on().release, asyncio.get_running_loop()
        work.add_done_callback(lambda _: loop.call_soon_threadsafe(release))

    def release(self) -> None:
        """Gives back the memory that the call holds, if it does."""
        if self.hold is not None:
            self.pass_on().release()

    def end(self, error: ReplayRingError) -> None:
        """Ends the call where it waits; its peer gets `error`."""
        self._ending.now(error)

    def end_gently(self, error: ReplayRingError) -> None:
        """Ends the call where it waits, or when the message on its way has been sent."""
        self._ending.gently(error)

    @property
    def ended_with(self) -> ReplayRingError | None:
        """Why the call was ended from outside, if it was."""
        return self._ending.reason

    @property
    def peer(self) -> str:
        """Whose connection it came on."""
        return self._context.peer()

    def tick(self) -> None:
        """Counts the time that passes."""
        self.age += 1
        if self._owed:
            self.idle += 1

    @contextmanager
    def _owing(self, owed: bool) -> Iterator[None]:
        self._owed = owed
        try:
            yield
        finally:
            self._owed = False

    def _count(self, nbytes: int) -> None:
        self._moved += nbytes
        held = self.hold.nbytes if self.hold else 0
        if self._moved >= max(_STEP_BYTES, held // _STEPS):
            self.begin_pack()


class Calls:
    """All calls in flight. Belongs to one event loop.

    Time is counted in ticks rather than read off a clock: a server that was itself stopped for a
    while does not take that for its peers' silence.

    Attributes:
        stopping: whether the server is about to stop.
        staging: memory for packs that come in.
        sending: memory for packs that go out.
        tally: what is counted of calls.
        watchers: calls that follow parameters.
    """

    def __init__(self, limits: ServerLimits, tally: CallTally) -> None:
        self.stopping = False
        self.tally = tally
        self.staging = Budget(limits.max_staging_bytes)
        self.sending = Budget(limits.max_sending_bytes)
        self._limits = limits
        self._tick_s = min(limits.stall_patience_s, limits.unary_timeout_s) / _TICKS
        self._ticks_of_patience = math.ceil(limits.stall_patience_s / self._tick_s)
        self._ticks_of_stall = math.ceil(limits.stall_timeout_s / self._tick_s)
        self._ticks_of_unary = math.ceil(limits.unary_timeout_s / self._tick_s)
        self._calls: dict[Call, bool] = {}  # and whether each is unary
        self._resting: set[Call] = set()
        self.watchers = 0
        self._ticking = False
        self._quiet: int | None = None  # ticks, until memory has been given back

    def __iter__(self) -> Iterator[Call]:
        return iter(self._calls)

    def __len__(self) -> int:
        return len(self._calls)

    @contextmanager
    def entered(self, context: Context, method: str, *, unary: bool) -> Iterator[Call]:
        """Counts the running task as a call, and keeps an eye on it."""
        call, begun = Call(self, context, method), time.perf_counter()
        self._calls[call] = unary
        if not self._ticking:
            self._schedule()
        try:
            yield call
        finally:
            call.release()
            call.buffer = None  # or its files would stay until the garbage collector comes by
            del self._calls[call]
            self.tally.finished[method, call.outcome] += 1
            if call.outcome == grpc.StatusCode.OK.name and method not in _LASTING:
                self.tally.work[method].add(time.perf_counter() - begun)

    def check_room(self) -> None:
        """Checks that there are not too many calls, the last one included.

        Raises:
            ServerUnavailableError: there are. Writers and streams, whose call it is, wait it out.
        """
        calls, most = len(self._calls), self._limits.max_calls
        if calls > most:
            raise ServerUnavailableError(
                f"the server is busy: calls in flight: received {calls:,}, the limit is {most:,}; "
                "end some, share streams, or raise max_calls"
            )

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Counts a watcher of parameters.

        Raises:
            LimitExceededError: there are too many.
        """
        check_limit(
            self.watchers + 1,
            self._limits.max_watchers,
            "calls that follow parameters",
            "end some",
            "max_watchers",
        )
        self.watchers += 1
        try:
            yield
        finally:
            self.watchers -= 1

    @contextmanager
    def resting(self, call: Call) -> Iterator[None]:
        """Marks a call as one that merely waits.

        Raises:
            ServerUnavailableError: the server is stopping.
        """
        if self.stopping:
            raise stopping()
        self._resting.add(call)
        try:
            yield
        finally:
            self._resting.discard(call)

    def stop(self) -> None:
        """Ends all calls that are at rest, now and from now on."""
        self.stopping = True
        for call in self._resting:
            call.end(stopping())

    def let_go(self) -> None:
        """Ends the calls at rest whose buffer was deleted: they keep its disk space from others."""
        for call in self._resting:
            if call.buffer is not None and not call.buffer.is_open:
                call.end(call.buffer.gone())

    def _schedule(self) -> None:
        self._ticking = bool(self._calls)
        if self._ticking:
            asyncio.get_running_loop().call_later(self._tick_s, self._tick)

    def _tick(self) -> None:
        for call, unary in self._calls.items():
            call.tick()
            if call.idle >= self._ticks_of_stall:
                call.end(_stalled(self._limits.stall_timeout_s))
            elif unary and call.age >= self._ticks_of_unary:
                call.end(_overdue(self._limits.unary_timeout_s))
            elif self._is_stalled(call) and call.unwanted():
                call.end(_stalled(self._limits.stall_patience_s, "a newer version is there"))
        for budget in (self.staging, self.sending):
            self._make_room(budget)
        self._count_quiet()
        self._schedule()

    def _count_quiet(self) -> None:
        """Gives memory back when no large pack has been on its way for a while."""
        if not (self.staging.empty and self.sending.empty):
            self._quiet = 0
        elif self._quiet is not None:
            self._quiet += 1
            if self._quiet > self._ticks_of_patience or not self._calls:
                self._quiet = None
                give_back_freed_memory()

    def _is_stalled(self, call: Call) -> bool:
        return call.idle >= self._ticks_of_patience

    def _make_room(self, budget: Budget) -> None:
        """Ends stalled calls, the longest stalled first, until the first who waits has room."""
        missing = budget.missing
        holders = [(c, c.hold) for c in self._calls if c.hold and c.hold.budget is budget]
        stalled = [(call, hold) for call, hold in holders if self._is_stalled(call)]
        for call, hold in sorted(stalled, key=lambda one: one[0].idle, reverse=True):
            if missing <= 0:
                return
            missing -= hold.nbytes
            call.end(_stalled(self._limits.stall_patience_s, "others wait for the memory"))


def stopping() -> ServerUnavailableError:
    """Returns what those are told who wait when the server stops."""
    return ServerUnavailableError("the server is stopping; try again when it is back")


def _stalled(seconds: float, reason: str = "the limit") -> ServerUnavailableError:
    return ServerUnavailableError(
        f"the caller neither sent nor took anything for {seconds:g} s, and {reason}; try again"
    )


def _overdue(seconds: float) -> DeadlineError:
    return DeadlineError(
        f"the call took {seconds:g} s, the limit for a call of one request and one reply; it may "
        "still be carried out; look, then try again, or raise unary_timeout_s"
    )
