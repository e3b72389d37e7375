"""A writer's background that goes on at another shard when its own is away for too long.

Each shard that it writes to knows it under an identity of its own, so an episode that the first
shard had stored unacknowledged is a new one to the second. That is the price, and it is asked for.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from replayring._adding import Acknowledgement, new_writer_id
from replayring._patience import passing
from replayring._replies import Arrays
from replayring._sender import Sender
from replayring.sharded._numbers import acknowledged_at
from replayring.sharded._part import LOOK_SECONDS, Part
from replayring_proto.errors import ClosedError, ReplayRingError

_LOGGER = logging.getLogger(__name__)

T = TypeVar("T")


class MovingSender:
    """Sends episodes by one `Sender` after another. Thread-safe; closed by its writer.

    Episodes keep their sequences when they move: each sender goes on numbering where the one before
    it ended.
    """

    def __init__(
        self,
        choose: Callable[[str], Part],
        max_bytes: int,
        timeout: float | None,
        move_after_s: float,
    ) -> None:
        """Begins at some shard.

        Args:
            choose: returns the part that an identity belongs to, among those within reach.
            max_bytes: memory for episodes that are not acknowledged.
            timeout: seconds to wait; None for the client's own.
            move_after_s: how long a shard may be away.

        Raises:
            ReplayRingError: the buffer is not at that shard, and cannot be had there.
        """
        self._choose = choose
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._move_after_s = move_after_s
        self._turn = threading.RLock()
        self._closed = False
        self._abandoned = False
        identity = new_writer_id()
        part = choose(identity)
        part.open(part.shard.client, timeout)
        self._sender = self._sender_to(part, identity)

    @property
    def writer_id(self) -> str:
        """The identity under which the present shard knows it."""
        return self._sender.writer_id

    @property
    def acknowledged(self) -> int:
        """Episodes acknowledged, by whichever shard."""
        return self._sender.acknowledged

    @property
    def pending(self) -> list[int]:
        """Sequences that are not acknowledged, in order."""
        return self._sender.pending

    @property
    def last(self) -> Acknowledgement | None:
        """The latest acknowledgement, or None."""
        return self._sender.acknowledgement

    @property
    def foreign(self) -> bool:
        """Whether another process made this, which forked the present one."""
        return self._sender.foreign

    def check(self) -> None:
        """Raises what an earlier episode was refused for, once for each; or `ClosedError`."""
        self._present(lambda sender: sender.check())

    def put(self, arrays: Arrays) -> int:
        """Queues a copy of an episode; returns its sequence."""
        return self._present(lambda sender: sender.put(arrays))

    def put_regardless(self, arrays: Arrays) -> int:
        """As `put`, whatever an earlier episode was refused for."""
        return self._present(lambda sender: sender.put_regardless(arrays))

    def flush(self, timeout: float | None = None) -> None:
        """Waits until nothing is pending. A move begins the time anew."""
        self._present(lambda sender: sender.flush(timeout))

    def close(self) -> None:
        """Flushes, then ends: no shard takes over what was not acknowledged in time."""
        try:
            self._present(lambda sender: sender.close())
        finally:
            with self._turn:
                self._closed = True
            self._sender.stop()  # one that took over when the time was up

    def abandon(self, steps: int) -> None:
        """Says what becomes of a writer that nobody closed."""
        self._abandoned = True  # before the sender is read: a move looks at it the other way round
        self._sender.abandon(steps)

    def _present(self, use: Callable[[_Movable], T]) -> T:
        """Returns what `use` does with the present sender, also if it is replaced meanwhile."""
        while True:
            sender = self._sender
            try:
                return use(sender)
            except ClosedError:
                with self._turn:  # which a move under way holds
                    if self._sender is sender:
                        raise

    def _sender_to(self, part: Part, identity: str) -> _Movable:
        return _Movable(part, identity, self._max_bytes, self._timeout, self._away)

    def _away(self, sender: _Movable) -> bool:
        """Has another shard take over, if one can; called when a call of `sender` has failed."""
        away = sender.part.shard.client._channel.outage.seconds
        if away < self._move_after_s:
            return False
        threading.Thread(
            target=self._move, args=(sender,), name="replayring mover", daemon=True
        ).start()
        return True

    def _move(self, old: _Movable) -> None:
        with self._turn:
            if self._closed:
                return
            new = self._elsewhere(old.part) if self._sender is old else None
            if new is None:
                old.stays()
                return
            new.take_over(old)
            new.before = old.acknowledgement
            self._sender = new  # before it is started, so that nothing it meets can prevent this
            if self._abandoned:
                new.end_when_sent()
            _LOGGER.warning(
                "writer %s of %s goes on as %s of %s, where it sends %d episodes again; those that "
                "had arrived unseen will be there twice",
                *(old.writer_id, old.part.shard.name, new.writer_id, new.part.shard.name),
                len(old.pending),
            )
            new.start()

    def _elsewhere(self, away: Part) -> _Movable | None:
        """Returns a sender to another shard, which has the buffer as far as is known, if any."""
        identity = new_writer_id()
        part = self._choose(identity)
        if part is away or part.shard.lost or part.lacking:
            return None
        try:
            part.open(part.shard.hasty, LOOK_SECONDS)
            return self._sender_to(part, identity)
        except ReplayRingError:  # the client was closed meanwhile, say
            return None


class _Movable(Sender):
    """A sender that says when its calls fail.

    Attributes:
        part: the shard's part of the buffer.
        before: the latest acknowledgement of the shards before, or None.
    """

    def __init__(
        self,
        part: Part,
        writer_id: str,
        max_bytes: int,
        timeout: float | None,
        away: Callable[[_Movable], bool],
    ) -> None:
        caller, buffer = part.shard.client._caller, part.buffer.name
        super().__init__(
            caller, buffer, writer_id, max_bytes, timeout=timeout, on_missing=part.note
        )
        self.part = part
        self._away = away
        self._leaving = False
        self.before: Acknowledgement | None = None

    @property
    def acknowledgement(self) -> Acknowledgement | None:
        """The latest acknowledgement of this shard, or else before, as its user sees it."""
        return acknowledged_at(self.part.shard.number, self.last) if self.last else self.before

    def stays(self) -> None:
        """Says that no other shard could take over, so that the next failure asks again."""
        self._leaving = False

    def _endures(self, failure: ReplayRingError) -> bool:
        if passing(failure) and not self._leaving:
            self._leaving = True  # before another shard is looked for: there may be none, at once
            if not self._away(self):
                self._leaving = False
        return super()._endures(failure)
