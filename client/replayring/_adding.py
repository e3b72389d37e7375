"""Adding episodes exactly once: numbered by their writer, sent again until acknowledged.

The server remembers what each writer's last sequences were, so an episode that is sent again under
the same number is stored once. `Adder` works in the caller's thread; `Sender`, in `_sender`, in one
of its own.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from replayring._calls import Caller
from replayring._channel import Stub
from replayring._outgoing import Outgoing
from replayring._patience import Patience, passing
from replayring._replies import Arrays
from replayring._signals import WORKERS
from replayring_proto.errors import (
    DeadlineError,
    MalformedMessageError,
    ReplayRingError,
    ServerUnavailableError,
)
from replayring_proto.framing import WHOLE_BYTES, encode_nested
from replayring_proto.limits import MAX_EPISODES_PER_MESSAGE, TOGETHER_BYTES
from replayring_proto.messages import parse
from replayring_proto.pack import layout_of
from replayring_proto.v1 import replay_pb2

METHOD = "AddEpisodes"

GROUP_BYTES = TOGETHER_BYTES
"""Small episodes that are ready at the same time share messages of about this size."""

_SMALL_BYTES = GROUP_BYTES // 8  # below this, a message costs more than what it carries


@dataclass(frozen=True)
class Acknowledgement:
    """The server's word that an episode is stored and survives the server's death.

    Attributes:
        sequence: the episode's number among its writer's.
        episode_index: its number in the buffer.
        index: the `index` of its first frame.
        num_frames: its frames.
        duplicate: whether it had been stored before, and this was a retry.
    """

    sequence: int
    episode_index: int
    index: int
    num_frames: int
    duplicate: bool


def new_writer_id() -> str:
    """Returns an identity that no other writer has or will have."""
    return uuid.uuid4().hex


def messages(buffer: str, writer_id: str, groups: Iterable[Iterable[Outgoing]]) -> Iterator[bytes]:
    """Yields the messages of one call.

    Args:
        buffer: where the episodes go.
        writer_id: whose they are.
        groups: episodes in order; those of one group may share messages.
    """
    start = replay_pb2.AddEpisodesStart(buffer=buffer, writer_id=writer_id)
    fields = replay_pb2.AddEpisodesRequest(start=start)
    for episodes in groups:
        for together in _shared(episodes):
            if len(together) > 1:
                yield encode_nested(map(_whole, together), fields.SerializeToString())
            else:
                fields.sequence = together[0].sequence
                first, *more = together[0].messages
                yield fields.SerializeToString() + first
                yield from more
            fields.Clear()


def _shared(episodes: Iterable[Outgoing]) -> Iterator[list[Outgoing]]:
    """Yields runs of episodes that fit one message, and others alone."""
    together: list[Outgoing] = []
    room = GROUP_BYTES
    for episode in episodes:
        small = episode.nbytes <= _SMALL_BYTES
        if together and not (small and episode.nbytes <= room):
            yield together
            together, room = [], GROUP_BYTES
        together.append(episode)
        room -= episode.nbytes
        if not small or len(together) == MAX_EPISODES_PER_MESSAGE:
            room = 0
    if together:
        yield together


def _whole(episode: Outgoing) -> tuple[bytes, ...]:
    fields = replay_pb2.WholeEpisode(sequence=episode.sequence)
    return fields.SerializeToString(), *episode.messages


def acknowledgements(encoded: bytes, due: Sequence[int]) -> list[Acknowledgement]:
    """Returns what the server acknowledges, which must be the first of the sequences in `due`.

    Raises:
        MalformedMessageError: it is something else, or the bytes are no such message.
    """
    reply = parse(replay_pb2.AddEpisodesResponse, encoded)
    acknowledged = [
        Acknowledgement(one.sequence, one.episode_index, one.index, one.num_frames, one.duplicate)
        for one in reply.acknowledgements
    ]
    received = [one.sequence for one in acknowledged]
    if not received or received != list(due[: len(received)]):
        raise MalformedMessageError(
            f"the server acknowledged sequences {received}, where {list(due[:1])} was due"
        )
    return acknowledged


class Adder:
    """Adds episodes and waits for their acknowledgements.

    Thread-safe: one call at a time may use a writer's identity, so threads take turns. Belongs to
    the process that made it, since a forked copy would number its own episodes alike.
    """

    def __init__(self, caller: Caller, buffer: str) -> None:
        self._caller = caller
        self._buffer = buffer
        self._writer_id = new_writer_id()
        self._turn = threading.Lock()
        self._sequence = 0

    def add(self, episodes: Sequence[Arrays], timeout: float | None) -> list[Acknowledgement]:
        """Adds checked episodes in order, pipelined in one call.

        Raises:
            ReplayRingError: one was refused, or the time ran out; its attribute `acknowledged`
                lists the acknowledgements of those that were stored before.
        """
        patience = self._caller.patience(f"adding to {self._buffer!r}", timeout)
        self._caller.channel.check_open()
        return WORKERS.run(lambda: self._add_in_turn(episodes, patience), patience.abandon)

    def _add_in_turn(self, episodes: Sequence[Arrays], patience: Patience) -> list[Acknowledgement]:
        acknowledged: list[Acknowledgement] = []
        try:
            if not self._turn.acquire(timeout=min(patience.remaining(), threading.TIMEOUT_MAX)):
                raise DeadlineError(
                    f"{patience.what}: other threads were adding to it for {patience.timeout:g} s; "
                    "raise timeout, or give each thread a buffer object of its own"
                )
            try:
                self._add(episodes, patience, acknowledged)
            finally:
                self._turn.release()
        except ReplayRingError as error:
            raise _in_context(error, acknowledged, len(episodes)) from None
        return acknowledged

    def _add(
        self, episodes: Sequence[Arrays], patience: Patience, acknowledged: list[Acknowledgement]
    ) -> None:
        first = self._sequence + 1
        self._sequence += len(episodes)

        def attempt(stub: Stub) -> None:
            missing = range(len(acknowledged), len(episodes))
            # Each is encoded when its turn comes: together they would be in memory twice.
            outgoing = (Outgoing.of(first + place, episodes[place]) for place in missing)
            requests = messages(self._buffer, self._writer_id, [outgoing])
            seconds = patience.call_timeout()
            if len(missing) == 1 and layout_of(episodes[-1]).nbytes <= WHOLE_BYTES:
                begun = stub.fetch(METHOD, next(requests), seconds)
            else:
                begun = stub.converse(METHOD, requests, seconds)
            with begun as call:
                for encoded in call:
                    due = range(first + len(acknowledged), first + len(episodes))
                    next_ones = due[:MAX_EPISODES_PER_MESSAGE]
                    acknowledged.extend(acknowledgements(encoded, next_ones))
                    patience.progress()
            if len(acknowledged) < len(episodes):
                raise ServerUnavailableError("the server ended the call before its last episode")

        if episodes:
            self._caller.run(patience, attempt)


def _in_context(
    error: ReplayRingError, acknowledged: list[Acknowledgement], total: int
) -> ReplayRingError:
    """Returns the error, saying which episodes are stored."""
    text, done = str(error), len(acknowledged)
    if passing(error):
        text += "; what was not acknowledged may have been stored (a writer would still know)"
    if total > 1:
        text = (
            f"episode {done} of {total}, counted from 0, was not acknowledged, nor any after it; "
            f"all before it are stored: {text}"
        )
    failed = type(error)(text)
    failed.acknowledged = acknowledged
    return failed
