"""AddEpisodes: episodes in, acknowledgements out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, TypeAlias

from replayring_proto.errors import MalformedMessageError, ReplayRingError
from replayring_proto.framing import Frame, decode_frame
from replayring_proto.limits import MAX_EPISODES_PER_MESSAGE, TOGETHER_BYTES, check_limit
from replayring_proto.messages import parse
from replayring_proto.pack import PackLayout
from replayring_proto.spec import BufferSpec, check_name
from replayring_proto.v1 import replay_pb2
from replayring_server.engine import Buffer, Origin, Store, Stored
from replayring_server.service.calls import Call, Calls
from replayring_server.service.changes import Changes
from replayring_server.service.episodes import EpisodeAssembler, ReceivedEpisode
from replayring_server.service.packs import PackReceiver
from replayring_server.service.workers import Lane, Workers

_MAX_SEQUENCE = (1 << 63) - 1

# So many bytes of episodes are stored together, as that takes less time than one by one. While
# frames are being read it is less, as learners wait meanwhile: see `Workers.give_way`.
_STORED_AT_ONCE = TOGETHER_BYTES
_STORED_AT_ONCE_WHILE_READING = 32 << 10

# What the engine makes for each frame while it appends: the preset columns.
_PRESET_BYTES = 32

Episodes: TypeAlias = "list[tuple[int, ReceivedEpisode]]"
"""Episodes that came whole, with their sequences."""


Refusal: TypeAlias = "tuple[type[ReplayRingError], str]"
"""Why an episode was not stored, nor any after it: an error's class and text.

The error itself would hold the frames that it has passed, and so a deleted buffer's files, until
the garbage collector came by."""


class AddEpisodes:
    """One AddEpisodes call: holds the episodes of one message, or a part of one, at a time.

    While episodes wait for memory, or are being stored, nothing more is read, so a fast sender
    is slowed down by gRPC's flow control rather than by memory running out.
    """

    def __init__(
        self, store: Store, changes: Changes, workers: Workers, calls: Calls, call: Call
    ) -> None:
        self._store = store
        self._changes = changes
        self._workers = workers
        self._call = call
        self._times = calls.tally.work["AddEpisodes"]
        self._receiver = PackReceiver(
            call, calls.staging, store.limits, "max_episode_bytes", "an episode", EpisodeAssembler
        )
        self._writer_id = ""
        self._sequence = 0  # of the episode under way, if one is

    async def run(self) -> None:
        """Receives until the caller is done; acknowledges episodes once they are stored.

        Raises:
            ReplayRingError: naming the sequence, if it is about an episode.
        """
        call, receiver = self._call, self._receiver
        try:
            while (message := await call.read(midway=receiver.is_filling)) is not None:
                episodes = await self._take(decode_frame(message))
                if episodes:
                    await self._add(episodes)
                elif receiver.is_filling:
                    await self._workers.pause()
            receiver.finish()
        except ReplayRingError as error:
            if not self._sequence:
                raise
            kind, text = _refusal(self._sequence, error)
            raise kind(text) from None
        finally:
            if self._call.buffer is not None:
                self._call.buffer.tally.writers.left(self._writer_id)

    async def _take(self, frame: Frame) -> Episodes:
        """Takes a message; returns the episodes that it completes."""
        fields = parse(replay_pb2.AddEpisodesRequest, frame.rest)
        if fields.HasField("start"):
            self._begin(fields.start)
        if self._call.buffer is None and (frame.header is not None or frame.nested):
            raise MalformedMessageError("an episode came before `start`; name the buffer first")
        if frame.nested:
            return await self._take_whole(frame, fields)
        if frame.header is not None:
            self._sequence = checked_sequence(fields.sequence)
        elif fields.sequence:
            raise MalformedMessageError("`sequence` came without an episode's pack")
        episode = await self._receiver.add(frame, self._cost)
        if episode is None:
            return []
        sequence, self._sequence = self._sequence, 0
        return [(sequence, episode)]

    def _begin(self, start: replay_pb2.AddEpisodesStart) -> None:
        if self._call.buffer is not None:
            raise MalformedMessageError("`start` came twice; begin another call instead")
        buffer = self._store.get(start.buffer)
        self._writer_id = check_name(start.writer_id, "writer_id")
        self._call.buffer = buffer
        buffer.tally.writers.joined(self._writer_id)

    async def _take_whole(self, frame: Frame, fields: replay_pb2.AddEpisodesRequest) -> Episodes:
        """Takes the episodes that share a message."""
        if frame.header is not None or frame.data or fields.sequence:
            raise MalformedMessageError("a message holds `episodes` and an episode; send either")
        check_limit(
            len(frame.nested), MAX_EPISODES_PER_MESSAGE, "episodes of a message", "send fewer"
        )
        parts = [decode_frame(part) for part in frame.nested]
        sequences = [
            checked_sequence(parse(replay_pb2.WholeEpisode, part.rest).sequence) for part in parts
        ]
        layouts = await self._receiver.whole(parts, self._cost)
        return [
            (sequence, ReceivedEpisode.within(layout, part.data))
            for sequence, layout, part in zip(sequences, layouts, parts, strict=True)
        ]

    def _cost(self, layout: PackLayout) -> int:
        assert self._call.buffer is not None  # no pack begins before `start`
        return bytes_to_store(self._call.buffer.spec, layout)

    async def _add(self, episodes: Episodes) -> None:
        """Stores episodes and acknowledges them.

        Raises:
            ReplayRingError: naming the first that was refused; those before it are acknowledged.
        """
        buffer = self._call.buffer
        assert buffer is not None
        hold = self._call.pass_on()

        def stored_or_not() -> None:
            hold.release()
            self._changes.notify(buffer.buffer_id)

        loop = asyncio.get_running_loop()
        storing = partial(_append, buffer, self._writer_id, episodes, self._workers, loop)
        lane = Lane.COMMIT if buffer.spec.durability == "commit" else Lane.APPEND
        begun = time.perf_counter()
        stored, refusal = await self._workers.change(lane, storing, then=stored_or_not)
        if refusal is None:
            self._times.add(time.perf_counter() - begun)
        if stored:
            for (sequence, _), one in zip(episodes, stored, strict=False):
                buffer.tally.acknowledged(self._writer_id, sequence, duplicate=one.duplicate)
            await self._call.write(_acknowledge(episodes, stored))
        if refusal is not None:
            kind, text = refusal
            raise kind(text)


def checked_sequence(sequence: int) -> int:
    """Returns an episode's sequence.

    Raises:
        MalformedMessageError: it is none.
    """
    if not 1 <= sequence <= _MAX_SEQUENCE:
        raise MalformedMessageError(
            f"an episode has sequence {sequence}; number them from 1 to 2^63 - 1"
        )
    return sequence


def bytes_to_store(spec: BufferSpec, layout: PackLayout) -> int:
    """Returns the memory that an episode takes until it is stored.

    That is its pack, two copies of each column that comes in another dtype, one still in that, and
    the preset columns.
    """
    nbytes, frames = layout.nbytes, 0
    for tensor in layout.tensors:
        frames = max(frames, tensor.shape[0] if tensor.shape else 0)
        column = spec.by_name.get(tensor.name)
        if column is not None and column.dtype != tensor.dtype:
            values = tensor.nbytes // tensor.dtype.itemsize
            nbytes += tensor.nbytes + values * column.dtype.itemsize
    return nbytes + min(frames, spec.capacity) * _PRESET_BYTES  # longer ones are refused


def _append(
    buffer: Buffer,
    writer_id: str,
    episodes: Episodes,
    workers: Workers,
    loop: asyncio.AbstractEventLoop,
) -> tuple[list[Stored], Refusal | None]:
    """Stores episodes up to the first that is refused; returns when they are durable.

    Args:
        buffer: where to.
        writer_id: who sent them.
        episodes: in order.
        workers: whose thread this is; gives way to learners now and then.
        loop: the event loop, which serves them.
    """
    stored: list[Stored] = []
    refusal = None
    for together in _grouped(episodes, workers):
        if stored:
            workers.give_way(loop)
        new, refusal = _store(buffer, writer_id, together)
        stored += new
        if refusal is not None:
            break
    if stored:
        buffer.settle(max(stored, key=lambda one: one.index))
    return stored, refusal


def _grouped(episodes: Episodes, workers: Workers) -> Iterator[Episodes]:
    """Yields episodes in groups that are stored together; none is empty."""
    group: Episodes = []
    nbytes = 0
    for episode in episodes:
        group.append(episode)
        nbytes += episode[1].layout.nbytes
        if nbytes >= (_STORED_AT_ONCE_WHILE_READING if workers.reading else _STORED_AT_ONCE):
            yield group
            group, nbytes = [], 0
    if group:
        yield group


def _store(
    buffer: Buffer, writer_id: str, episodes: Episodes
) -> tuple[list[Stored], Refusal | None]:
    """Stores episodes together, up to the first that is refused."""
    malformed = None
    whole: list[tuple[Mapping[str, Any], Origin]] = []
    for sequence, episode in episodes:
        try:
            episode.layout.check_bools(episode.arrays)
        except MalformedMessageError as error:
            malformed = _refusal(sequence, error)
            break
        whole.append((episode.arrays, Origin(writer_id, sequence)))
    stored, refused = buffer.store_all(whole)
    if refused is None:
        return stored, malformed
    return stored, _refusal(episodes[len(stored)][0], refused)


def _refusal(sequence: int, error: ReplayRingError) -> Refusal:
    return type(error), f"sequence {sequence}: {error}"


def _acknowledge(episodes: Episodes, stored: list[Stored]) -> bytes:
    reply = replay_pb2.AddEpisodesResponse()
    for (sequence, _), one in zip(episodes, stored, strict=False):
        reply.acknowledgements.add(
            sequence=sequence,
            episode_index=one.episode_index,
            index=one.index,
            num_frames=one.num_frames,
            duplicate=one.duplicate,
        )
    return reply.SerializeToString()
