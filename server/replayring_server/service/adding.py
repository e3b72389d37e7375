"""AddEpisodes: episodes in, acknowledgements out."""

from __future__ import annotations

from functools import partial

from replayring_proto.errors import MalformedMessageError, ReplayRingError
from replayring_proto.framing import Frame, decode_frame
from replayring_proto.messages import parse
from replayring_proto.pack import Pack
from replayring_proto.spec import check_name
from replayring_proto.v1 import replay_pb2
from replayring_server.engine import Buffer, Origin, Store
from replayring_server.service.boundary import Context, Requests
from replayring_server.service.changes import Changes
from replayring_server.service.drain import Drain
from replayring_server.service.packs import PackReceiver
from replayring_server.service.workers import Workers

_MAX_SEQUENCE = (1 << 63) - 1


class AddEpisodes:
    """One AddEpisodes call: holds at most one episode in memory at a time.

    While an episode is being stored nothing more is read, so a fast sender is slowed down by
    gRPC's flow control rather than by memory running out.
    """

    def __init__(self, store: Store, changes: Changes, workers: Workers, drain: Drain) -> None:
        self._store = store
        self._changes = changes
        self._workers = workers
        self._drain = drain
        self._receiver = PackReceiver(store.limits.max_episode_bytes, "an episode")
        self._buffer: Buffer | None = None
        self._writer_id = ""
        self._sequence = 0  # of the episode under way, if one is

    async def run(self, requests: Requests, context: Context) -> None:
        """Receives until the caller is done; acknowledges each episode once it is stored.

        Raises:
            ReplayRingError: naming the sequence, if it is about an episode.
        """
        try:
            async for message in self._drain.requests(requests, self._receiver.is_filling):
                pack = self._take(decode_frame(message))
                if pack is not None:
                    await context.write(await self._add(pack))
            self._receiver.finish()
        except ReplayRingError as error:
            if not self._sequence:
                raise
            raise type(error)(f"sequence {self._sequence}: {error}") from None

    def _take(self, frame: Frame) -> Pack | None:
        """Takes a message; returns the episode that it completes, if it does."""
        if frame.rest:
            self._take_fields(frame)
        if frame.header is not None and self._buffer is None:
            raise MalformedMessageError("an episode came before `start`; name the buffer first")
        if frame.header is not None and not frame.rest:
            raise MalformedMessageError("an episode came without a sequence; number them from 1")
        return self._receiver.add(frame)

    def _take_fields(self, frame: Frame) -> None:
        request = parse(replay_pb2.AddEpisodesRequest, frame.rest)
        if request.HasField("start"):
            if self._buffer is not None:
                raise MalformedMessageError("`start` came twice; begin another call instead")
            self._buffer = self._store.get(request.start.buffer)
            self._writer_id = check_name(request.start.writer_id, "writer_id")
        if frame.header is None:
            if request.sequence:
                raise MalformedMessageError("`sequence` came without an episode's pack")
            return
        if not 1 <= request.sequence <= _MAX_SEQUENCE:
            raise MalformedMessageError(
                f"an episode has sequence {request.sequence}; number them from 1 to 2^63 - 1"
            )
        self._sequence = request.sequence

    async def _add(self, pack: Pack) -> bytes:
        buffer = self._buffer
        assert buffer is not None  # no pack begins before `start`
        origin = Origin(self._writer_id, self._sequence)
        stored = await self._workers.change(
            partial(buffer.append, pack.arrays, origin),
            then=partial(self._changes.notify, buffer.buffer_id),
        )
        self._sequence = 0
        return replay_pb2.AddEpisodesResponse(
            sequence=origin.sequence,
            episode_index=stored.episode_index,
            index=stored.index,
            num_frames=stored.num_frames,
            duplicate=stored.duplicate,
        ).SerializeToString()
