"""A writer's background: sends episodes in order and exactly once, however often the call breaks.

Theory of operation. Episodes wait in `_pending`, in order, until they are acknowledged. A thread
makes calls. Each call begins with everything pending and takes what is added meanwhile; when
nothing comes for a while it ends, and the next episode begins another. So an idle writer has no
call, and every call ends and has a deadline. A call that breaks is made again with what is then
pending, under the same sequences: the server stores each once.

A refused episode ends its call. It is the first one pending, since acknowledgements come in order;
it is dropped, its error is kept for the caller, and the next call begins with the one after it.

Memory is bounded. An episode that finds no room there goes to a file, if there is a spill, and
keeps its place in `_pending`; it is read when its turn comes. Without room in either, `put` waits.
"""

from __future__ import annotations

import logging
import queue
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from replayring._adding import METHOD, Acknowledgement, Outgoing, acknowledgement, messages
from replayring._background import Background
from replayring._calls import Arrays, Caller
from replayring._channel import Stub
from replayring._patience import LASTING_SECONDS, LOCKED_OUT, passing
from replayring._spill import Spill, Spilled
from replayring_proto.errors import (
    ClosedError,
    NotFoundError,
    ReplayRingError,
    SequenceReusedError,
    StorageError,
)
from replayring_proto.pack import Pack

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
    ) -> None:
        """Takes over a spill, and goes on with what an earlier process left there."""
        super().__init__(caller, "writer")
        self.writer_id = writer_id
        self.acknowledged = 0
        self.last: Acknowledgement | None = None
        self._buffer = buffer
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._spill = spill
        self._pending: deque[Outgoing | Spilled] = deque(spill.waiting() if spill else ())
        self._sequence = spill.reserved if spill else 0
        self._memory_bytes = 0
        self._told: set[str] = set()
        self._abandoned = False
        self._errors: deque[ReplayRingError] = deque()
        self._unreadable: tuple[Spilled, StorageError] | None = None
        self._outbox: queue.SimpleQueue[Outgoing | Spilled | None] | None = None
        if self._pending:
            self._sequence = max(self._sequence, self._pending[-1].sequence)
            self._say("goes on with what an earlier one left")
            self.start()

    @property
    def pending(self) -> list[int]:
        """Sequences that are not acknowledged, in order."""
        with self._lock:
            return [episode.sequence for episode in self._pending]

    def check(self) -> None:
        """Raises what an earlier episode was refused for, once for each; or `ClosedError`."""
        self.check_native()
        with self._lock:
            self._raise_refusal()
            self._check_not_ended()

    def put(self, arrays: Arrays) -> int:
        """Queues a copy of an episode, waiting while there is no room; returns its sequence.

        Raises:
            ReplayRingError: as `check`; or there was no room in time, or the disk failed. The
                episode is not queued.
        """
        self.check()
        pack = Pack.of(arrays)
        episode = Outgoing(0, pack.arrays, pack)
        self._wait(lambda: self._has_room(episode))
        with self._lock:
            self._check_not_ended()
            held = self._hold(Outgoing(self._sequence + 1, pack.arrays, pack))
            self._sequence = held.sequence
            self._pending.append(held)
            if self._outbox is not None:
                self._outbox.put(held)
            self._changed.notify_all()
        self.start()
        return held.sequence

    def flush(self, timeout: float | None = None) -> None:
        """Waits until nothing is pending.

        Raises:
            ReplayRingError: as `check`; or it took too long: what is pending stays so.
        """
        self._wait(lambda: not self._pending, timeout)
        self._raise_refusal()

    def close(self) -> None:
        """Flushes, then ends the thread; what is left in memory goes to the spill, if there is one.

        Raises:
            ReplayRingError: as `flush`, saying what became of the episodes.
        """
        failure: ReplayRingError | None = None
        try:
            self._wait(lambda: not self._pending, closing=True)
            self._raise_refusal()
        except ReplayRingError as error:
            failure = error
        finally:
            self.stop()
            self._keep_rest()
            if self._spill:
                self._spill.close()
            if self._pending and failure is None:  # Ctrl-C
                _LOGGER.warning("writer %s was closed: %s", self.writer_id, self._account())
        if failure is not None and self._pending and not isinstance(failure, ClosedError):
            raise type(failure)(f"{failure}; {self._account()}")
        if failure is not None:
            raise failure

    def abandon(self, steps: int) -> None:
        """Says what becomes of a writer that nobody closed, and ends the thread when all is sent.

        Args:
            steps: steps of an episode that was not ended.
        """
        if self.foreign:
            return
        with self._lock:
            self._keep_rest()
            self._abandoned = True
            self._changed.notify_all()
            if self._spill and (self._ended or not self._thread):
                self._spill.close()
            if self._thread is None and not steps:
                return  # it was never used
            text = f"writer {self.writer_id} of {self._buffer!r} was never closed; use `with`"
            if steps:
                text += f"; {steps} steps of an episode that was not ended are lost"
            if self._pending:
                text += f"; {self._account()}"
        if steps or self._pending:
            _LOGGER.warning("%s", text)
        warnings.warn(text, ResourceWarning, stacklevel=2)

    def stop(self) -> None:
        """Ends the thread and logs the errors that nobody was told."""
        super().stop()
        while self._errors:
            _LOGGER.warning("%s", self._errors.popleft())

    # Room

    def _has_room(self, episode: Outgoing) -> bool:
        if self._fits(episode) or (self._spill and self._spill.fits(episode.packed())):
            return True
        if self._caller.channel.outage.certain:
            self._say("waits until there is room")
        return False

    def _fits(self, episode: Outgoing) -> bool:
        return not self._memory_bytes or self._memory_bytes + episode.nbytes <= self._max_bytes

    def _hold(self, episode: Outgoing) -> Outgoing | Spilled:
        """Returns the episode as it is kept: as it is, or in a file."""
        if self._spill:
            self._spill.reserve(episode.sequence)
            if not self._fits(episode) and self._spill.fits(episode.packed()):
                self._say("spills what is more")
                return self._spill.add(episode.sequence, episode.packed())
        self._memory_bytes += episode.nbytes
        return episode

    def _keep_rest(self) -> None:
        """Moves what is pending in memory to the spill, as far as there is room."""
        with self._lock:
            for place, episode in enumerate(list(self._pending)):
                if self._spill is None or isinstance(episode, Spilled):
                    continue
                pack = episode.packed()
                if not self._spill.fits(pack):
                    break
                try:
                    self._pending[place] = self._spill.add(episode.sequence, pack)
                except StorageError as error:
                    _LOGGER.warning("writer %s: %s", self.writer_id, error)
                    break
                self._memory_bytes -= episode.nbytes

    def _say(self, what: str) -> None:
        """Logs that this writer holds much, and what it does about it: once, until all is sent."""
        if what in self._told:
            return
        self._told.add(what)
        away = self._caller.channel.outage.seconds
        spilled = self._spill and (
            f", {self._spill.nbytes:,} of {self._spill.max_bytes:,} bytes in {self._spill.folder}"
        )
        _LOGGER.warning(
            "writer %s of %r %s: it holds %s episodes, %s of %s bytes in memory%s%s",
            self.writer_id,
            self._buffer,
            what,
            f"{len(self._pending):,}",
            f"{self._memory_bytes:,}",
            f"{self._max_bytes:,}",
            spilled or "",
            f"; the server has been away for {away:.1f} s" if away else "",
        )

    # Waiting

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
            f"{error}; {len(waiting)} episodes still wait to be acknowledged ({_named(waiting)}), "
            "and stay queued"
        )

    def _raise_refusal(self) -> None:
        with self._lock:
            if self._errors:
                raise self._errors.popleft()

    def _check_not_ended(self) -> None:
        if not self._ended:
            return
        text = "this writer, or its client, was closed; make another"
        raise ClosedError(f"{text}; {self._account()}" if self._pending else text)

    def _account(self) -> str:
        """Says what is acknowledged, and where the rest is."""
        kept = [e.sequence for e in self._pending if isinstance(e, Spilled)]
        unsafe = [e.sequence for e in self._pending if not isinstance(e, Spilled)]
        text = f"{self.acknowledged} episodes are acknowledged, {len(self._pending)} are not"
        if unsafe:
            text += f"; {_named(unsafe)} may be lost"
        if kept and self._spill:
            text += (
                f"; {_named(kept)} kept in {self._spill.folder}: the next writer with this"
                " spill_dir sends them"
            )
        return text

    # The thread

    def _has_work(self) -> bool:
        if self._abandoned and not self._pending:
            self._ended = True
            if self._spill:
                self._spill.close()
        return bool(self._pending)

    def _endures(self, failure: ReplayRingError) -> bool:
        # Nobody else has these episodes: they wait until somebody has let this writer in again.
        return passing(failure) or isinstance(failure, LOCKED_OUT)

    def _converse(self, stub: Stub) -> None:
        outbox: queue.SimpleQueue[Outgoing | Spilled | None] = queue.SimpleQueue()
        with self._lock:
            for episode in self._pending:
                outbox.put(episode)
            self._outbox = outbox
        requests = messages(self._buffer, self.writer_id, self._loaded(_until_idle(outbox)))
        try:
            with stub.converse(METHOD, requests, LASTING_SECONDS) as call:
                for encoded in call:
                    self._take(encoded)
        finally:
            self._outbox = None
            outbox.put(None)
        unreadable, self._unreadable = self._unreadable, None
        if unreadable and self._pending and self._pending[0] is unreadable[0]:
            raise unreadable[1]

    def _loaded(self, episodes: Iterable[Outgoing | Spilled]) -> Iterator[Outgoing]:
        """Yields episodes in memory, up to one whose file cannot be read."""
        for episode in episodes:
            if isinstance(episode, Spilled):
                try:
                    pack = episode.packed()
                except StorageError as error:
                    self._unreadable = episode, error
                    return
                yield Outgoing(episode.sequence, pack.arrays, pack)
            else:
                yield episode

    def _take(self, encoded: bytes) -> None:
        with self._lock:
            due = self._pending[0].sequence if self._pending else None
            self.last = acknowledgement(encoded, due)
            self.acknowledged += 1
            self._drop_first()
            self._got_somewhere()

    def _give_up(self, failure: ReplayRingError) -> None:
        """Drops the episode that the server refused; all of them where their buffer is gone."""
        if isinstance(failure, ClosedError):
            self._ended = True
        elif self._pending:
            dropped = [self._drop_first(failure)]
            while isinstance(failure, NotFoundError) and self._pending:
                dropped.append(self._drop_first(failure))
            text = f"{_named(dropped)} of writer {self.writer_id} not stored: {failure}"
            if isinstance(failure, NotFoundError) and self._spill and self._spill.nbytes:
                text += f"; what was spilled stays in {self._spill.folder}"
            if isinstance(failure, SequenceReusedError):
                text += (
                    f"; somebody else writes as {self.writer_id!r}, or did: leave writer_id out, "
                    "or give every run of every program its own"
                )
            self._errors.append(type(failure)(text))

    def _drop_first(self, failure: ReplayRingError | None = None) -> int:
        episode = self._pending.popleft()
        if not isinstance(episode, Spilled):
            self._memory_bytes -= episode.nbytes
        elif self._spill and isinstance(failure, StorageError):
            self._spill.set_aside(episode)
        elif self._spill and not isinstance(failure, NotFoundError):  # the buffer may come back
            self._spill.remove(episode)
        if not self._pending and self._told:
            self._told.clear()
            _LOGGER.warning("writer %s has nothing left to send", self.writer_id)
        return episode.sequence


def _until_idle(
    outbox: queue.SimpleQueue[Outgoing | Spilled | None],
) -> Iterator[Outgoing | Spilled]:
    """Yields what is put, until that is None or nothing comes for a while."""
    while True:
        try:
            episode = outbox.get(timeout=_IDLE_SECONDS)
        except queue.Empty:
            return
        if episode is None:
            return
        yield episode


def _named(sequences: list[int]) -> str:
    """Returns sequences in words: "sequences 1 to 3, 7"."""
    runs: list[list[int]] = []
    for sequence in sequences:
        if runs and sequence == runs[-1][1] + 1:
            runs[-1][1] = sequence
        else:
            runs.append([sequence, sequence])
    words = ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in runs)
    return f"sequence{'' if len(sequences) == 1 else 's'} {words}"
