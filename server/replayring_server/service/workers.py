"""Where engine calls run: short ones on the event loop, long ones on threads of their kind."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from enum import Enum
from typing import Any, Generic, TypeAlias, TypeVar

from replayring_proto.errors import ServerUnavailableError

T = TypeVar("T")

LeaveTo: TypeAlias = "Callable[[Future[Any]], None]"

# Handing a call to a thread and back takes as long as moving a quarter of this, on a busy machine
# as long as all of it; and nobody notices that the loop is busy meanwhile. But for actors: beside a
# learner of large batches one would add half as much, so while some add it is less.
INLINE_BYTES = 2 << 20
_INLINE_BYTES_WHILE_ADDING = 3 << 19

# Frames count as being read, or added, for so long after somebody last did.
_LATELY_S = 0.05

# A batch takes the event loop some turns: to take in the request, to draw, to send. So many give a
# learner of small batches some of them, and cost an actor little: most turns have nothing to do.
_TURNS = 24
_LONGEST_TURNS_S = 0.01

# Between the messages of a large episode it has some as well: otherwise as many bytes go out as
# come in, which gives learners of large frames less than half of what they get alone.
_TURNS_BETWEEN_MESSAGES = 8


class Lane(Enum):
    """Kinds of engine calls, which never wait for each other; the value is the threads of each.

    Threads are started when they are first needed, and wait for the disk more than they compute.
    """

    READ = (4, "gathering frames and columns")
    SEARCH = (1, "looking at every live frame for eligible ones")
    APPEND = (4, "writing rows to memory")
    COMMIT = (16, "the same and then the disk: those who wait together share one sync")
    FILES = (2, "creating and deleting buffers")
    PUBLISH = (1, "parameters, which the engine stores one after another")


class _Work(Generic[T]):
    """A call on its way through a lane.

    An executor that cannot start a thread keeps the call in its queue, and gives back nothing by
    which it could be waited for or taken back; so this has a future of its own.
    """

    __slots__ = ("_call", "_done")

    def __init__(self, call: Callable[[], T], done: Future[T]) -> None:
        """Prepares a call, of which `done` is to tell what becomes."""
        self._call: Callable[[], T] | None = call
        self._done: Future[T] | None = done

    def carry_out(self) -> None:
        """Carries it out, unless it was dropped."""
        call, done = self._call, self._done
        if call is None or done is None or not done.set_running_or_notify_cancel():
            return
        # Frames hold those that called them: an error, which holds this one, must not be held by
        # what those hold, or a deleted buffer's files stay until the garbage collector comes by.
        self._call = self._done = None
        try:
            done.set_result(call())
        except BaseException as error:
            done.set_exception(error)
            del done

    def follow(self, entry: Future[None]) -> None:
        """Ends as its entry in the lane's queue does, if that is never come to."""
        if entry.cancelled():
            self.drop()

    def drop(self) -> bool:
        """Takes it back, and returns whether it was in time for that."""
        done = self._done
        if done is None or not done.cancel():
            return False
        self._call = None  # it may have a large episode, and the queue keeps this
        return True


class Workers:
    """Threads for engine calls. Close it when no call is in flight any more."""

    def __init__(self) -> None:
        self._lanes = {
            lane: ThreadPoolExecutor(lane.value[0], f"engine-{lane.name.lower()}") for lane in Lane
        }

        self._read_at = -math.inf
        self._added_at = -math.inf

    async def run(
        self,
        lane: Lane,
        call: Callable[[], T],
        nbytes: int | None = None,
        leave_to: LeaveTo | None = None,
    ) -> T:
        """Runs an engine call; on the loop itself if it moves few bytes and cannot block.

        Args:
            lane: whose threads it is for.
            call: the call.
            nbytes: bytes that it moves; None if it may block.
            leave_to: called with what goes on in a thread although the caller has given up.

        Raises:
            ServerUnavailableError: no thread can be started for it.
        """
        if lane is Lane.READ:
            self._read_at = time.monotonic()
        if nbytes is not None and nbytes <= self._inline_bytes:
            return call()
        work = self._begin(lane, call)
        try:
            return await asyncio.wrap_future(work)
        except asyncio.CancelledError:
            if not work.cancel() and leave_to is not None:
                leave_to(work)
            raise
        finally:
            del work  # see `change`

    async def change(self, lane: Lane, call: Callable[[], T], then: Callable[[], None]) -> T:
        """Runs an engine call that changes something, and `then` when it has ended.

        Both happen even if the caller gives up meanwhile: what is stored is stored, and whoever
        waits for it must hear of it.

        Raises:
            ServerUnavailableError: no thread can be started for it; nothing was changed.
        """
        if lane in (Lane.APPEND, Lane.COMMIT):
            self._added_at = time.monotonic()
        try:
            work = asyncio.wrap_future(self._begin(lane, call))
        except ServerUnavailableError:
            then()
            raise

        def tell(done: asyncio.Future[T]) -> None:
            if not done.cancelled():
                done.exception()  # so that asyncio does not call it unseen if nobody waits
            then()

        work.add_done_callback(tell)
        try:
            return await asyncio.shield(work)
        finally:
            # An error that `work` holds would hold this frame, and this frame `work`.
            del work

    def _begin(self, lane: Lane, call: Callable[[], T]) -> Future[T]:
        """Has a thread of a lane carry out a call.

        Raises:
            ServerUnavailableError: there is none for it; it will not be carried out.
        """
        done: Future[T] = Future()
        work = _Work(call, done)
        try:
            self._lanes[lane].submit(work.carry_out).add_done_callback(work.follow)
        except RuntimeError as error:
            # It is in the lane's queue all the same. Another thread may have it by now.
            if work.drop():
                raise ServerUnavailableError(
                    f"the server has no thread for this call ({error}); try again, and let it have "
                    "more (ulimit -u, or the pids limit of its container) if this goes on"
                ) from None
        return done

    @property
    def reading(self) -> bool:
        """Whether somebody read frames just now, and may be waiting for more."""
        return time.monotonic() - self._read_at <= _LATELY_S

    @property
    def _inline_bytes(self) -> int:
        adding = time.monotonic() - self._added_at <= _LATELY_S
        return _INLINE_BYTES_WHILE_ADDING if adding else INLINE_BYTES

    def give_way(self, loop: asyncio.AbstractEventLoop) -> None:
        """Lets the event loop have some turns, if frames are being read.

        For threads to call amid their work, which may be long. Only one thread at a time runs
        Python, and one that computes lets go of it late; the loop, which needs several turns for a
        batch, would serve a learner a third as often as when it is alone.

        Args:
            loop: the event loop.
        """
        if not self.reading:
            return
        turn = threading.Event()

        def after(turns: int) -> None:
            if turns:
                loop.call_soon(after, turns - 1)
            else:
                turn.set()

        loop.call_soon_threadsafe(after, _TURNS)
        turn.wait(_LONGEST_TURNS_S)

    async def pause(self) -> None:
        """Lets others have some turns of the event loop, if frames are being read.

        For coroutines that receive much, one message after another.
        """
        if self.reading:
            for _ in range(_TURNS_BETWEEN_MESSAGES):
                await asyncio.sleep(0)

    def close(self) -> None:
        """Ends the threads. What still waits for one is dropped; what has begun is finished."""
        for threads in self._lanes.values():
            threads.shutdown(cancel_futures=True)
