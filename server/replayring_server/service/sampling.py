"""SampleBatch: batches on request, in order, waiting where there is nothing to sample yet."""

from __future__ import annotations

from functools import partial

import numpy as np

from replayring_proto.errors import InvalidRequestError, MalformedMessageError
from replayring_proto.limits import CHUNK_BYTES, check_limit
from replayring_proto.messages import parse, query_from_message
from replayring_proto.pack import Pack
from replayring_proto.ring import NothingEligible, UniformSampler
from replayring_proto.v1 import replay_pb2
from replayring_server.engine import Buffer, Store
from replayring_server.service.boundary import Context, Requests
from replayring_server.service.changes import Changes
from replayring_server.service.drain import Drain
from replayring_server.service.fetching import check_reply
from replayring_server.service.packs import send_pack
from replayring_server.service.workers import Workers


class SampleBatch:
    """One SampleBatch call. Asks gRPC for the next request only when the last is answered."""

    def __init__(self, store: Store, changes: Changes, workers: Workers, drain: Drain) -> None:
        self._store = store
        self._changes = changes
        self._workers = workers
        self._drain = drain
        self._rng: np.random.Generator | None = None
        self._buffer: Buffer | None = None
        self._sampler: UniformSampler | None = None
        self._nbytes = 0
        self._batches_per_pack = 1
        self._min_frames = 1

    async def run(self, requests: Requests, context: Context) -> None:
        """Answers every request with the batches that it wants."""
        async for message in self._drain.requests(requests):
            request = parse(replay_pb2.SampleBatchRequest, message)
            if request.HasField("spec"):
                self._prepare(request.spec)
            check_limit(
                request.batches,
                self._store.limits.max_batches_in_flight,
                "batches asked for at once",
                "ask for more when some have come",
            )
            wanted = request.batches or 1
            while wanted:
                together = min(wanted, self._batches_per_pack)
                await self._send_batches(together, context)
                wanted -= together

    def _prepare(self, spec: replay_pb2.SampleSpec) -> None:
        """Checks what is to be sampled, before memory is taken for it."""
        buffer = self._store.get(spec.buffer)
        query = query_from_message(spec)
        check_limit(
            query.batch_size, self._store.limits.max_batch_size, "batch_size", "use a smaller batch"
        )
        if spec.HasField("seed") or self._rng is None:
            self._rng = np.random.default_rng(spec.seed if spec.HasField("seed") else None)
        sampler = UniformSampler(buffer.reader, query, self._rng)
        self._nbytes = check_reply(self._store.limits, sampler.plan, query.batch_size)
        if spec.min_frames > buffer.spec.capacity:
            raise InvalidRequestError(
                f"min_frames is {spec.min_frames:,}, but the buffer keeps "
                f"{buffer.spec.capacity:,} frames at most; it would wait for ever"
            )
        self._buffer, self._sampler, self._min_frames = buffer, sampler, spec.min_frames or 1
        fitting = CHUNK_BYTES // max(self._nbytes, 1)
        self._batches_per_pack = max(1, min(spec.batches_per_pack, fitting))

    async def _send_batches(self, batches: int, context: Context) -> None:
        buffer, sampler = self._buffer, self._sampler
        if buffer is None or sampler is None:
            raise MalformedMessageError("the first request of SampleBatch must set `spec`")
        pack = await self._draw(buffer, sampler, batches)
        rest = replay_pb2.SampleBatchResponse(next_index=buffer.reader.live.end, batches=batches)
        await send_pack(context, pack, rest.SerializeToString())

    async def _draw(self, buffer: Buffer, sampler: UniformSampler, batches: int) -> Pack:
        """Draws batches as soon as there is enough to draw from."""
        while True:
            seen = self._changes.count(buffer.buffer_id)
            buffer.check_open()
            if len(buffer.reader.live) >= self._min_frames:
                try:
                    nbytes = None if sampler.costly else self._nbytes * batches
                    return await self._workers.run(partial(sampler.batch, batches), nbytes)
                except NothingEligible:
                    pass  # an episode that is long enough may yet come
            with self._drain.waiting():
                await self._changes.beyond(buffer.buffer_id, seen)
