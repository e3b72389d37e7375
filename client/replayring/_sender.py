"""A writer's background: sends episodes in order and exactly once, however often the call breaks.

Theory of operation. Episodes wait in a backlog, in order, until they are acknowledged. A thread
makes calls. Each call begins with the whole backlog and takes what is added meanwhile; when nothing
comes for a while it ends, and the next episode begins another. So an idle writer has no call, and
every call ends and has a deadline. A call that breaks is made again with what is then left, under
the same sequences: the server stores each once.

A refused episode ends its call. It is the first one left, since acknowledgements come in order; it
is dropped, its error is kept for the caller, and the next call begins with the one after it.
"""

from __future__ import annotations

import logging
import queue
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from replayring._adding import (
    GROUP_BYTES,
    METHOD,
    Acknowledgement,
    acknowledgements,
    messages,
)
from replayring._background import Background
from replayring._backlog import Backlog, Held, named
from replayring._calls import Caller
from replayring._channel import Stub
from replayring._outgoing import Outgoing
from replayring._patience import LASTING_SECONDS, LOCKED_OUT, passing
from replayring._replies import Arrays
from replayring._spill import DamagedError, Spill, Spilled
from replayring_proto.errors import (
    AccessDeniedError,
    ClosedError,
    NotFoundError,
    ReplayRingError,
    SequenceReusedError,
    StorageError,
)
from replayring_proto.limits import MAX_EPISODES_PER_MESSAGE

_LOGGER = logging.getLogger(__name__)

_IDLE_SECONDS = 1.0


class Sender(Background):
    """Sends the episodes of one writer in a thread of its own. Thread-safe.

    Attributes:
        writer_id: the writer's identity.
        acknowledged: episodes acknowledged.
        last: the latest acknowledgement, or None.
    """

    def __init__(
        self,
        caller: Caller,
        buffer: str,
        writer_id: str,
        max_bytes: int,
        *,
        timeout: float | None = None,
        spill: Spill | None = None,
        on_missing: Callable[[ReplayRingError], None] | None = None,
    ) -> None:
        """Takes over a spill, and goes on with what an earlier process left there.

        `on_missing` is told the error when the server says that the buffer is not there.
        """
        super().__init__(caller, "writer")
        self.writer_id = writer_id
        self.acknowledged = 0
        self.last: Acknowledgement | None = None
        self._buffer = buffer
        self._timeout = timeout
        self._on_missing = on_missing
        self._backlog = Backlog(
            f"writer {writer_id} of {buffer!r}", max_bytes, spill, caller.channel.outage
        )
        self._abandoned = False
        self._errors: deque[ReplayRingError] = deque()
        self._denial: ReplayRingError | None = None  # as long as nobody was told
        self._unreadable: tuple[int, StorageError] | None = None
        self._outbox: queue.SimpleQueue[Held | None] | None = None
        self._told = 0  # the last sequence that was put there
        if self._backlog:
            self.start()

    @property
    def pending(self) -> list[int]:
        """Sequences that are not acknowledged, in order."""
        if self.foreign:  # nobody changes it here, or lets go of the lock
            return self._backlog.sequences()
        with self._lock:
            return self._backlog.sequences()

    def check(self) -> None:
        """Raises what an earlier episode was refused for, once for each; or `ClosedError`.

        Or that the token may not write, once until it may: somebody should know before the end.
        """
        self.check_native()
        with self._lock:
            self._raise_refusal()
            self._raise_denial()
            self._check_not_ended()

    def put(self, arrays: Arrays) -> int:
        """Queues a copy of an episode, waiting while there is no room; returns its sequence.

        Raises:
            ReplayRingError: as `check`; or there was no room in time, or the disk failed. The
                episode is not queued.
        """
        self.check()
        return self.put_regardless(arrays)

    def put_regardless(self, arrays: Arrays) -> int:
        """As `put`, whatever an earlier episode was refused for."""
        self.check_native()
        episode = Outgoing.of(0, arrays)
        self._wait(lambda: self._backlog.has_room(episode))
        with self._lock:
            self._check_not_ended()
            held = self._backlog.add(episode.numbered(self._backlog.sequence + 1))
            self._tell()
            self._changed.notify_all()
        self.start()
        return held.sequence

    def flush(self, timeout: float | None = None) -> None:
        """Waits until nothing is pending.

        Raises:
            ReplayRingError: as `check`; or it took too long: what is pending stays so.
        """
        self._wait(lambda: not self._backlog, timeout)
        self._raise_refusal()

    def close(self) -> None:
        """Flushes, then ends the thread; what is left in memory goes to the spill, if there is one.

        Raises:
            ReplayRingError: as `flush`, saying what became of the episodes.
        """
        failure: ReplayRingError | None = None
        try:
            self._wait(lambda: not self._backlog, closing=True)
            self._raise_refusal()
        except ReplayRingError as error:
            failure = error.with_traceback(None)  # which has this frame
        finally:
            self.stop()
            with self._lock:
                self._backlog.keep()
                self._backlog.close()
            if self._backlog and failure is None:  # Ctrl-C
                _LOGGER.warning("writer %s was closed: %s", self.writer_id, self._account())
        if failure is not None and self._backlog and not isinstance(failure, ClosedError):
            raise type(failure)(f"{failure}; {self._account()}")
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # see `Workers.run`

    def take_over(self, other: Sender) -> None:
        """Ends another one and goes on in its place, once started; neither has a spill.

        Who waits there for room or for acknowledgements gets `ClosedError`.
        """
        Background.stop(other)  # leaves the errors that nobody was told, which are told here
        with other._lock, self._lock:
            for episode in other._backlog.episodes():
                self._backlog.add(_in_memory(episode))
            self._backlog.sequence = other._backlog.sequence
            self.acknowledged = other.acknowledged
            self._errors.extend(other._errors)

    def end_when_sent(self) -> None:
        """Has the thread end as soon as nothing is pending."""
        with self._lock:
            self._abandoned = True
            self._changed.notify_all()

    def abandon(self, steps: int) -> None:
        """Says what becomes of a writer that nobody closed, and ends the thread when all is sent.

        Args:
            steps: steps of an episode that was not ended.
        """
        if self.foreign:
            return
        with self._lock:
            self._backlog.keep()
            self.end_when_sent()
            if self._ended or not self._thread:
                self._backlog.close()
            if self._thread is None and not steps:
                return  # it was never used
            text = f"writer {self.writer_id} of {self._buffer!r} was never closed; use `with`"
            if steps:
                text += f"; {steps} steps of an episode that was not ended are lost"
            if self._backlog:
                text += f"; {self._account()}"
        if steps or self._backlog:
            _LOGGER.warning("%s", text)
        warnings.warn(text, ResourceWarning, stacklevel=2)

    def stop(self) -> None:
        """Ends the thread and logs the errors that nobody was told."""
        super().stop()
        while self._errors:
            _LOGGER.warning("%s", self._errors.popleft())

    def _wait(
        self, ready: Callable[[], bool], timeout: float | None = None, *, closing: bool = False
    ) -> None:
        patience = self._caller.patience(
            f"writing to {self._buffer!r}", self._timeout if timeout is None else timeout
        )
        with self._lock:
            seconds = min(patience.remaining(), threading.TIMEOUT_MAX)
            self._changed.wait_for(lambda: ready() or self._ended, seconds)
            if ready():
                return
            self._check_not_ended()
            waiting, trouble = self.pending, self._trouble
        error = self._caller.overdue(patience, trouble)
        if closing:
            raise error
        raise type(error)(
            f"{error}; {len(waiting)} episodes still wait to be acknowledged ({named(waiting)}), "
            "and stay queued"
        )

    def _raise_refusal(self) -> None:
        with self._lock:
            if self._errors:
                raise self._errors.popleft()

    def _raise_denial(self) -> None:
        denial, self._denial = self._denial, None
        if denial is not None:
            waiting = self.pending
            verb = "wait" if len(waiting) > 1 else "waits"
            raise AccessDeniedError(f"{denial}; {named(waiting)} {verb} until it may write")

    def _check_not_ended(self) -> None:
        if not self._ended:
            return
        text = "this writer, or its client, was closed; make another"
        raise ClosedError(f"{text}; {self._account()}" if self._backlog else text)

    def _account(self) -> str:
        """Says what is acknowledged, and where the rest is."""
        counts = f"{self.acknowledged} episodes are acknowledged, {len(self._backlog)} are not"
        return f"{counts}; {self._backlog.account()}"

    # The thread

    def _has_work(self) -> bool:
        if self._abandoned and not self._backlog:
            self._ended = True
            self._backlog.close()
        return bool(self._backlog)

    def _endures(self, failure: ReplayRingError) -> bool:
        if type(failure) is AccessDeniedError and type(self._trouble) is not AccessDeniedError:
            self._denial = failure
        # Nobody else has these episodes: they wait until somebody has let this writer in again.
        locked_out = isinstance(failure, LOCKED_OUT) and not isinstance(failure, DamagedError)
        return passing(failure) or locked_out

    def _converse(self, stub: Stub) -> None:
        outbox: queue.SimpleQueue[Held | None] = queue.SimpleQueue()
        with self._lock:
            self._outbox, self._told, self._unreadable = outbox, 0, None
            self._tell()
        requests = messages(self._buffer, self.writer_id, self._loaded(_until_idle(outbox)))
        try:
            with stub.converse(METHOD, requests, LASTING_SECONDS) as call:
                for encoded in call:
                    self._take(encoded)
        finally:
            self._outbox = None
            outbox.put(None)
        unreadable, self._unreadable = self._unreadable, None
        if unreadable and self._backlog.first() == [unreadable[0]]:
            raise unreadable[1]

    def _tell(self) -> None:
        """Tells the call of what it does not know yet. `_lock` is held.

        Ctrl-C may come between any two steps: what it kept from being told is told the next time,
        and what was told twice is sent once.
        """
        outbox = self._outbox  # which a call that ends takes away, without the lock
        if outbox is not None:
            for episode in self._backlog.after(self._told):
                outbox.put(episode)
                self._told = episode.sequence

    def _loaded(self, groups: Iterable[list[Held]]) -> Iterator[list[Outgoing]]:
        """Yields episodes in memory, up to one whose file cannot be read."""
        for group in groups:
            loaded: list[Outgoing] = []
            for episode in group:
                try:
                    loaded.append(_in_memory(episode))
                except StorageError as error:
                    self._unreadable = episode.sequence, error
                    break
            yield loaded
            if len(loaded) < len(group):
                return

    def _take(self, encoded: bytes) -> None:
        with self._lock:
            done = acknowledgements(encoded, self._backlog.first(MAX_EPISODES_PER_MESSAGE))
            self.last = done[-1]
            self.acknowledged += len(done)
            self._denial = None
            for _ in done:
                self._backlog.drop_first()
            self._got_somewhere(len(done))

    def _give_up(self, failure: ReplayRingError) -> None:
        """Drops the episode that the server refused; all of them where their buffer is gone."""
        if isinstance(failure, NotFoundError) and self._on_missing:
            self._on_missing(failure)
        if isinstance(failure, ClosedError):
            self._ended = True
        elif self._backlog:
            dropped = [self._backlog.drop_first(failure)]
            while isinstance(failure, NotFoundError) and self._backlog:
                dropped.append(self._backlog.drop_first(failure))
            text = f"{named(dropped)} of writer {self.writer_id} not stored: {failure}"
            if isinstance(failure, NotFoundError) and self._backlog.folder():
                text += f"; what was spilled stays in {self._backlog.folder()}"
            if isinstance(failure, SequenceReusedError):
                text += (
                    f"; somebody else writes as {self.writer_id!r}, or did: leave writer_id out, "
                    "or give every run of every program its own"
                )
            self._errors.append(type(failure)(text))


def _in_memory(episode: Held) -> Outgoing:
    """Returns an episode, read from its file if it lies in one.

    Raises:
        StorageError: the file cannot be read.
    """
    if not isinstance(episode, Spilled):
        return episode
    return Outgoing.of(episode.sequence, episode.packed().arrays)


def _until_idle(outbox: queue.SimpleQueue[Held | None]) -> Iterator[list[Held]]:
    """Yields what was put, as much as is there, until None was put or nothing comes for a while."""
    last = 0
    while True:
        try:
            episode = outbox.get(timeout=_IDLE_SECONDS)
        except queue.Empty:
            return
        group: list[Held] = []
        nbytes = 0
        while episode is not None:
            if episode.sequence > last:
                group.append(episode)
                nbytes += episode.nbytes
                last = episode.sequence
            if nbytes >= GROUP_BYTES or outbox.empty():
                break
            episode = outbox.get()
        yield group
        if episode is None:
            return
