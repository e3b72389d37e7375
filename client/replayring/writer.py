"""Writing to a buffer step by step, in the background and exactly once."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Protocol

from replayring._adding import Acknowledgement, new_writer_id
from replayring._arguments import seconds, whole
from replayring._calls import Caller
from replayring._replies import Arrays
from replayring._sender import Sender
from replayring._spill import Spill
from replayring._steps import Steps
from replayring_proto.episode import check_episode
from replayring_proto.errors import InvalidEpisodeError, ReplayRingError
from replayring_proto.spec import BufferSpec, check_name

__all__ = ["Writer"]

_LOGGER = logging.getLogger(__name__)

DEFAULT_IN_FLIGHT_BYTES = 64 << 20
DEFAULT_SPILL_BYTES = 4 << 30

Relabel = Callable[[Acknowledgement], Acknowledgement]


class EpisodeSender(Protocol):
    """What a writer needs of the one that sends its episodes: see `Sender`."""

    @property
    def writer_id(self) -> str: ...
    @property
    def acknowledged(self) -> int: ...
    @property
    def pending(self) -> list[int]: ...
    @property
    def last(self) -> Acknowledgement | None: ...
    @property
    def foreign(self) -> bool: ...
    def check(self) -> None: ...
    def put(self, arrays: Arrays) -> int: ...
    def put_regardless(self, arrays: Arrays) -> int: ...
    def flush(self, timeout: float | None = None) -> None: ...
    def close(self) -> None: ...
    def abandon(self, steps: int) -> None: ...


class Writer:
    """Collects steps into episodes and sends those in the background; made by `Buffer.writer`.

    Each episode is stored exactly once, in the order in which they were queued, across broken
    connections and restarts of the server. An episode that the server refuses makes the next call
    of this writer raise that error, which names the episode's sequence; episodes queued after it
    are sent none the less. A call that raises does nothing else. A token that may only read makes
    the next call raise `AccessDeniedError`, once; the episodes wait until it may write.

    While the server is away, episodes wait in memory, up to `max_in_flight_bytes`, then in files,
    up to `max_spill_bytes` of `spill_dir` if that is given, and then `end_episode` and
    `add_episode` wait. The log says so once for each outage. A spill directory belongs to one
    writer and outlives its process: the next writer that is given it has the same identity, goes
    on with the numbering, and first sends what the last one left there.

    Threads may share one: they take turns, and steps go to one episode, whoever appends them. It
    belongs to the process that made it. Whoever made it closes it, best with
    `with`: leaving it normally ends the episode of steps that were appended since the last end, and
    flushes; leaving it with an exception drops those steps, and flushes. One that is let go without
    that sends what it has while the program runs, and says so with a `ResourceWarning`.
    """

    def __init__(
        self,
        caller: Caller,
        buffer: str,
        spec: BufferSpec,
        *,
        writer_id: str | None = None,
        max_in_flight_bytes: int = DEFAULT_IN_FLIGHT_BYTES,
        spill_dir: str | os.PathLike[str] | None = None,
        max_spill_bytes: int = DEFAULT_SPILL_BYTES,
        timeout: float | None = None,
        relabel: Relabel | None = None,
        on_missing: Callable[[ReplayRingError], None] | None = None,
    ) -> None:
        """Prepares for writing; what is left in a spill directory is sent from now on.

        Args are those of `Buffer.writer`, and `relabel`, which turns an acknowledgement of this
        server into what the caller is to see; None for as it is. And `on_missing`, as of `Sender`.
        """
        in_flight = whole(max_in_flight_bytes, "max_in_flight_bytes", 1)
        max_spill = whole(max_spill_bytes, "max_spill_bytes", 1)
        timeout = None if timeout is None else seconds(timeout)
        if writer_id is not None:
            check_name(writer_id, "writer_id")
        caller.channel.check_open()
        spill = None
        if spill_dir is not None:
            spill = Spill(Path(spill_dir).absolute(), buffer, writer_id, max_spill)
            writer_id = spill.writer_id
        self._take_over(
            spec,
            Sender(
                caller,
                buffer,
                writer_id or new_writer_id(),
                in_flight,
                timeout=timeout,
                spill=spill,
                on_missing=on_missing,
            ),
            relabel,
        )

    @classmethod
    def over(cls, spec: BufferSpec, sender: EpisodeSender) -> Writer:
        """Returns a writer that sends by `sender`, which it takes over."""
        writer = cls.__new__(cls)
        writer._take_over(spec, sender, None)
        return writer

    def _take_over(self, spec: BufferSpec, sender: EpisodeSender, relabel: Relabel | None) -> None:
        self._spec = spec
        self._steps = Steps(spec)
        self._turn = threading.RLock()
        self._sender = sender
        self._relabel = relabel
        self._finalizer = weakref.finalize(self, _let_go, self._sender, self._steps)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Writer belongs to the process that made it; send the buffer there, and make one"
        )

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self._leave()
            return
        try:
            self.close()
        except ReplayRingError as failure:
            # The exception that is under way tells more; it must not be hidden by this one.
            _LOGGER.warning("a writer was closed because of an exception, and then: %s", failure)

    @property
    def writer_id(self) -> str:
        """This writer's identity, under which the server knows its sequences."""
        return self._sender.writer_id

    @property
    def acknowledged(self) -> int:
        """Episodes acknowledged, those included that were left in the spill directory."""
        return self._sender.acknowledged

    @property
    def pending(self) -> list[int]:
        """Sequences of the episodes that are not acknowledged, in order; also after `close`."""
        return self._sender.pending

    @property
    def last_acknowledgement(self) -> Acknowledgement | None:
        """The latest acknowledgement, or None."""
        last = self._sender.last
        return last if last is None or self._relabel is None else self._relabel(last)

    def append(self, frame: Mapping[str, Any]) -> None:
        """Adds one time step to the episode. Its values are copied before this returns.

        Args:
            frame: a value of the column's shape for every declared column; `timestamp` (seconds)
                and `frame_index` may be added, in all steps of an episode or in none.

        Raises:
            InvalidEpisodeError: it does not fit the buffer's spec or the steps before it.
        """
        self._sender.check()
        with self._turn:
            self._steps.add(frame)

    def end_episode(self) -> int:
        """Queues the steps since the last end as one episode; returns its sequence.

        Waits, up to the timeout, while there is no room for it.

        Raises:
            InvalidEpisodeError: there are no steps.
            ServerUnavailableError, DeadlineError: there was no room in time. The steps are kept:
                try again.
            StorageError: it cannot be spilled. The steps are kept.
        """
        self._sender.check()
        with self._turn:
            if not len(self._steps):
                raise InvalidEpisodeError("the episode has no steps; append some before ending it")
            sequence = self._sender.put(self._steps.arrays())
            self._steps.clear()
        return sequence

    def discard_episode(self) -> None:
        """Forgets the steps since the last end."""
        self._sender.check()
        with self._turn:
            self._steps.clear()

    def add_episode(self, data: Mapping[str, Any]) -> int:
        """Queues a whole episode, as `Buffer.add_episode` takes it; returns its sequence.

        Its values are copied.

        Steps that were appended stay, and belong to the next episode that is ended.

        Raises:
            InvalidEpisodeError: it does not fit the buffer's spec.
            ServerUnavailableError, DeadlineError, StorageError: as for `end_episode`.
        """
        self._sender.check()
        return self._sender.put(check_episode(self._spec, data))

    def flush(self, timeout: float | None = None) -> None:
        """Waits until every queued episode is acknowledged.

        Args:
            timeout: seconds to wait; None for the writer's own.

        Raises:
            ServerUnavailableError, DeadlineError: some are not, yet; they stay queued, and the
                message names them.
            AccessDeniedError, TLSError, StorageError: nor are they while the server does not let
                this client in, or a file of its credentials cannot be used; they stay queued.
            ReplayRingError: what an episode was refused for.
        """
        self._sender.check()
        self._sender.flush(timeout)

    def close(self) -> None:
        """Flushes, then ends. Steps that were not ended are dropped.

        What is in memory and was not acknowledged in time goes to the spill directory, where the
        next writer finds it, if there is one. Calling it again does nothing.

        Raises:
            ReplayRingError: as `flush`. The writer is closed none the less. The message says how
                many episodes are acknowledged, which are not, which of those lie in the spill
                directory, and which may be lost.
        """
        if self._sender.foreign or self._finalizer.detach() is None:
            return
        self._steps.clear()
        self._sender.close()

    def _leave(self) -> None:
        """Ends the last episode, if it has steps, and closes.

        It is not to be lost for what an earlier one was refused for, which closing tells.
        """
        try:
            with self._turn:
                if len(self._steps) and self._finalizer.alive:
                    self._sender.put_regardless(self._steps.arrays())
        finally:
            self.close()


def _let_go(sender: EpisodeSender, steps: Steps) -> None:
    """What happens to a writer that nobody closed, when it or the interpreter ends."""
    sender.abandon(len(steps))
