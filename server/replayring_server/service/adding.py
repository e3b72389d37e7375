"""AddEpisodes: episodes in, acknowledgements out."""

from __future__ import annotations

from functools import partial

from replayring_proto.errors import MalformedMessageError, ReplayRingError
from replayring_proto.framing import Frame, decode_frame
from replayring_proto.messages import parse
from replayring_proto.pack import Pack, PackLayout, check_bools
from replayring_proto.spec import BufferSpec, check_name
from replayring_proto.v1 import replay_pb2
from replayring_server.engine import Buffer, Origin, Store, Stored
from replayring_server.service.calls import Call, Calls
from replayring_server.service.changes import Changes
from replayring_server.service.packs import PackReceiver
from replayring_server.service.workers import Lane, Workers

_MAX_SEQUENCE = (1 << 63) - 1

# What the engine makes for each frame while it appends: the preset columns.
_PRESET_BYTES = 32


class AddEpisodes:
    """One AddEpisodes call: holds at most one episode in memory at a time.

    While an episode waits for memory, or is being stored, nothing more is read, so a fast sender
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
            call, calls.staging, store.limits.max_episode_bytes, "an episode"
        )
        self._buffer: Buffer | None = None
        self._writer_id = ""
        self._sequence = 0  # of the episode under way, if one is

    async def run(self) -> None:
        """Receives until the caller is done; acknowledges each episode once it is stored.

        Raises:
            ReplayRingError: naming the sequence, if it is about an episode.
        """
        call, receiver = self._call, self._receiver
        try:
            while (message := await call.read(midway=receiver.is_filling)) is not None:
                pack = await self._take(decode_frame(message))
                if pack is not None:
                    await call.write(await self._add(pack))
            receiver.finish()
        except ReplayRingError as error:
            if not self._sequence:
                raise
            raise type(error)(f"sequence {self._sequence}: {error}") from None
        finally:
            if self._buffer is not None:
                self._buffer.tally.writers.left(self._writer_id)

    async def _take(self, frame: Frame) -> Pack | None:
        """Takes a message; returns the episode that it completes, if it does."""
        if frame.rest:
            self._take_fields(frame)
        if frame.header is not None and self._buffer is None:
            raise MalformedMessageError("an episode came before `start`; name the buffer first")
        if frame.header is not None and not frame.rest:
            raise MalformedMessageError("an episode came without a sequence; number them from 1")
        return await self._receiver.add(frame, self._cost)

    def _take_fields(self, frame: Frame) -> None:
        request = parse(replay_pb2.AddEpisodesRequest, frame.rest)
        if request.HasField("start"):
            if self._buffer is not None:
                raise MalformedMessageError("`start` came twice; begin another call instead")
            self._buffer = self._store.get(request.start.buffer)
            self._writer_id = check_name(request.start.writer_id, "writer_id")
            self._buffer.tally.writers.joined(self._writer_id)
        if frame.header is None:
            if request.sequence:
                raise MalformedMessageError("`sequence` came without an episode's pack")
            return
        if not 1 <= request.sequence <= _MAX_SEQUENCE:
            raise MalformedMessageError(
                f"an episode has sequence {request.sequence}; number them from 1 to 2^63 - 1"
            )
        self._sequence = request.sequence

    def _cost(self, layout: PackLayout) -> int:
        assert self._buffer is not None  # no pack begins before `start`
        return bytes_to_store(self._buffer.spec, layout)

    async def _add(self, pack: Pack) -> bytes:
        buffer = self._buffer
        assert buffer is not None
        origin = Origin(self._writer_id, self._sequence)
        hold = self._call.pass_on()

        def stored_or_not() -> None:
            hold.release()
            self._changes.notify(buffer.buffer_id)

        lane = Lane.COMMIT if buffer.spec.durability == "commit" else Lane.APPEND
        with self._times.running():
            stored = await self._workers.change(
                lane, partial(_append, buffer, pack, origin), then=stored_or_not
            )
        self._sequence = 0
        buffer.tally.acknowledged(origin.writer_id, origin.sequence, duplicate=stored.duplicate)
        return replay_pb2.AddEpisodesResponse(
            sequence=origin.sequence,
            episode_index=stored.episode_index,
            index=stored.index,
            num_frames=stored.num_frames,
            duplicate=stored.duplicate,
        ).SerializeToString()


def bytes_to_store(spec: BufferSpec, layout: PackLayout) -> int:
    """Returns the memory that an episode takes until it is stored.

    That is its pack, a copy of each column that comes in another dtype, and the preset columns.
    """
    nbytes, frames = layout.nbytes, 0
    for tensor in layout.tensors:
        frames = max(frames, tensor.shape[0] if tensor.shape else 0)
        column = spec.by_name.get(tensor.name)
        if column is not None and column.dtype != tensor.dtype:
            nbytes += tensor.nbytes // tensor.dtype.itemsize * column.dtype.itemsize
    return nbytes + min(frames, spec.capacity) * _PRESET_BYTES  # longer ones are refused


def _append(buffer: Buffer, pack: Pack, origin: Origin) -> Stored:
    check_bools(pack.arrays)
    return buffer.append(pack.arrays, origin)
