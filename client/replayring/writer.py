"""Writing to a buffer step by step, in the background and exactly once."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from replayring._adding import Acknowledgement, new_writer_id
from replayring._calls import Caller
from replayring._sender import Sender
from replayring._steps import Steps
from replayring_proto.episode import check_episode
from replayring_proto.errors import InvalidEpisodeError, InvalidRequestError, ReplayRingError
from replayring_proto.spec import BufferSpec, check_name

__all__ = ["Writer"]

_LOGGER = logging.getLogger(__name__)

DEFAULT_IN_FLIGHT_BYTES = 64 << 20


class Writer:
    """Collects steps into episodes and sends those in the background; made by `Buffer.writer`.

    Each episode is stored exactly once, in the order in which they were queued, across broken
    connections and restarts of the server. An episode that the server refuses makes the next call
    of this writer raise that error, which names the episode's sequence; episodes queued after it
    are sent none the less. A call that raises does nothing else.

    For one thread at a time, and for the process that made it. Whoever made it closes it, best with
    `with`: leaving it normally ends the episode of steps that were appended since the last end, and
    flushes; leaving it with an exception drops those steps, and flushes.
    """

    def __init__(
        self,
        caller: Caller,
        buffer: str,
        spec: BufferSpec,
        *,
        writer_id: str | None = None,
        max_in_flight_bytes: int = DEFAULT_IN_FLIGHT_BYTES,
    ) -> None:
        """Prepares for writing; nothing is sent before the first episode is queued."""
        if max_in_flight_bytes < 1:
            raise InvalidRequestError(
                f"max_in_flight_bytes is {max_in_flight_bytes}; it must be at least 1"
            )
        identity = new_writer_id() if writer_id is None else check_name(writer_id, "writer_id")
        self._spec = spec
        self._steps = Steps(spec)
        self._sender = Sender(caller, buffer, identity, max_in_flight_bytes)
        self._closed = False

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
        """Episodes acknowledged."""
        return self._sender.acknowledged

    @property
    def last_acknowledgement(self) -> Acknowledgement | None:
        """The latest acknowledgement, or None."""
        return self._sender.last

    def append(self, frame: Mapping[str, Any]) -> None:
        """Adds one time step to the episode. Its values are copied before this returns.

        Args:
            frame: a value of the column's shape for every declared column; `timestamp` (seconds)
                and `frame_index` may be added, in all steps of an episode or in none.

        Raises:
            InvalidEpisodeError: it does not fit the buffer's spec or the steps before it.
        """
        self._sender.check()
        self._steps.add(frame)

    def end_episode(self) -> None:
        """Queues the steps since the last end as one episode.

        Waits, up to the client's timeout, while `max_in_flight_bytes` are unacknowledged.

        Raises:
            InvalidEpisodeError: there are no steps.
            ServerUnavailableError, DeadlineError: there was no room in time. The steps are kept:
                try again.
        """
        self._sender.check()
        if not len(self._steps):
            raise InvalidEpisodeError("the episode has no steps; append some before ending it")
        self._sender.put(self._steps.arrays())
        self._steps.clear()

    def discard_episode(self) -> None:
        """Forgets the steps since the last end."""
        self._sender.check()
        self._steps.clear()

    def add_episode(self, data: Mapping[str, Any]) -> None:
        """Queues a whole episode, as `Buffer.add_episode` takes it. Its values are copied.

        Steps that were appended stay, and belong to the next episode that is ended.

        Raises:
            InvalidEpisodeError: it does not fit the buffer's spec.
            ServerUnavailableError, DeadlineError: as for `end_episode`.
        """
        self._sender.check()
        self._sender.put(check_episode(self._spec, data))

    def flush(self, timeout: float | None = None) -> None:
        """Waits until every queued episode is acknowledged.

        Args:
            timeout: seconds to wait; None for the client's own.

        Raises:
            ServerUnavailableError, DeadlineError: some are not, yet; they stay queued.
            AccessDeniedError, TLSError, StorageError: nor are they while the server does not let
                this client in, or a file of its credentials cannot be used; they stay queued.
            ReplayRingError: what an episode was refused for.
        """
        self._sender.check()
        self._sender.flush(timeout)

    def close(self) -> None:
        """Flushes with the client's timeout, then ends. Steps that were not ended are dropped.

        Calling it again does nothing.

        Raises:
            ReplayRingError: as `flush`. The writer is closed none the less, and what was not
                acknowledged may be lost.
        """
        if self._closed or self._sender.foreign:
            return
        self._closed = True
        self._steps.clear()
        try:
            self._sender.flush()
        finally:
            self._sender.stop()

    def _leave(self) -> None:
        """Ends the last episode, if it has steps, and closes."""
        try:
            if len(self._steps) and not self._closed:
                self.end_episode()
        finally:
            self.close()
