"""A writer's background: sends episodes in order and exactly once, however often the call breaks.

Theory of operation. Episodes wait in `_pending`, in order, until they are acknowledged. A thread
makes calls. Each call begins with everything pending and takes what is added meanwhile; when
nothing comes for a while it ends, and the next episode begins another. So an idle writer has no
call, and every call ends and has a deadline. A call that breaks is made again with what is then
pending, under the same sequences: the server stores each once.

A refused episode ends its call. It is the first one pending, since acknowledgements come in order;
it is dropped, its error is kept for the caller, and the next call begins with the one after it.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator

from replayring._adding import METHOD, Acknowledgement, Outgoing, acknowledgement, messages
from replayring._background import Background
from replayring._calls import Arrays, Caller
from replayring._channel import Stub
from replayring._patience import LASTING_SECONDS, LOCKED_OUT, passing
from replayring_proto.errors import ClosedError, NotFoundError, ReplayRingError
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

    def __init__(self, caller: Caller, buffer: str, writer_id: str, max_bytes: int) -> None:
        super().__init__(caller, "writer")
        self.writer_id = writer_id
        self.acknowledged = 0
        self.last: Acknowledgement | None = None
        self._buffer = buffer
        self._max_bytes = max_bytes
        self._sequence = 0
        self._pending: deque[Outgoing] = deque()
        self._pending_bytes = 0
        self._errors: deque[ReplayRingError] = deque()
        self._outbox: queue.SimpleQueue[Outgoing | None] | None = None

    def check(self) -> None:
        """Raises what an earlier episode was refused for, once for each; or `ClosedError`."""
        self.check_native()
        with self._lock:
            if self._errors:
                raise self._errors.popleft()
            self._check_not_ended()

    def put(self, arrays: Arrays) -> None:
        """Queues a copy of an episode, waiting while too much is unacknowledged.

        Raises:
            ReplayRingError: as `check`; or there was no room in time. The episode is not queued.
        """
        self.check()
        pack = Pack.of(arrays)
        nbytes = Outgoing(0, pack.arrays).nbytes
        self._wait(lambda: not self._pending or self._pending_bytes + nbytes <= self._max_bytes)
        with self._lock:
            self._check_not_ended()
            self._sequence += 1
            episode = Outgoing(self._sequence, pack.arrays, pack)
            self._pending.append(episode)
            self._pending_bytes += nbytes
            if self._outbox is not None:
                self._outbox.put(episode)
            self._changed.notify_all()
        self.start()

    def flush(self, timeout: float | None = None) -> None:
        """Waits until nothing is pending.

        Raises:
            ReplayRingError: as `check`; or it took too long: what is pending stays so.
        """
        self._wait(lambda: not self._pending, timeout)
        with self._lock:
            if self._errors:
                raise self._errors.popleft()

    def stop(self) -> None:
        """Ends the thread and logs the errors that nobody was told."""
        super().stop()
        while self._errors:
            _LOGGER.warning("%s", self._errors.popleft())

    def _wait(self, ready: Callable[[], bool], timeout: float | None = None) -> None:
        patience = self._caller.patience(f"writing to {self._buffer!r}", timeout)
        with self._lock:
            seconds = min(patience.remaining(), threading.TIMEOUT_MAX)
            self._changed.wait_for(lambda: ready() or self._ended, seconds)
            if ready():
                return
            self._check_not_ended()
            waiting, trouble = len(self._pending), self._trouble
        raise self._caller.overdue(
            patience,
            trouble,
            lambda: f"{waiting} episodes still wait to be acknowledged, and stay queued",
        )

    def _check_not_ended(self) -> None:
        if not self._ended:
            return
        if not self._pending:
            raise ClosedError("this writer was closed; make another")
        raise ClosedError(
            f"this writer was closed with {len(self._pending)} episodes unacknowledged (sequences "
            f"{self._pending[0].sequence} to {self._pending[-1].sequence}), which may be lost"
        )

    def _has_work(self) -> bool:
        return bool(self._pending)

    def _endures(self, failure: ReplayRingError) -> bool:
        # Nobody else has these episodes: they wait until somebody has let this writer in again.
        return passing(failure) or isinstance(failure, LOCKED_OUT)

    def _converse(self, stub: Stub) -> None:
        outbox: queue.SimpleQueue[Outgoing | None] = queue.SimpleQueue()
        with self._lock:
            for episode in self._pending:
                outbox.put(episode)
            self._outbox = outbox
        requests = messages(self._buffer, self.writer_id, _until_idle(outbox))
        try:
            with stub.converse(METHOD, requests, LASTING_SECONDS) as call:
                for encoded in call:
                    self._take(encoded)
        finally:
            self._outbox = None
            outbox.put(None)

    def _take(self, encoded: bytes) -> None:
        with self._lock:
            self.last = acknowledgement(encoded, self._pending[0] if self._pending else None)
            self.acknowledged += 1
            self._progress += 1
            self._trouble = None
            self._drop_first()
            self._changed.notify_all()

    def _give_up(self, failure: ReplayRingError) -> None:
        """Drops the episode that the server refused; all of them where their buffer is gone."""
        if isinstance(failure, ClosedError):
            self._ended = True
        elif self._pending:
            first = last = self._drop_first()
            while isinstance(failure, NotFoundError) and self._pending:
                last = self._drop_first()
            which = f"sequence {first}" if first == last else f"sequences {first} to {last}"
            self._errors.append(
                type(failure)(f"{which} of writer {self.writer_id} not stored: {failure}")
            )

    def _drop_first(self) -> int:
        episode = self._pending.popleft()
        self._pending_bytes -= episode.nbytes
        return episode.sequence


def _until_idle(outbox: queue.SimpleQueue[Outgoing | None]) -> Iterator[Outgoing]:
    """Yields what is put, until that is None or nothing comes for a while."""
    while True:
        try:
            episode = outbox.get(timeout=_IDLE_SECONDS)
        except queue.Empty:
            return
        if episode is None:
            return
        yield episode
