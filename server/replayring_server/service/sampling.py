"""SampleBatch: batches on request, in order, waiting where there is nothing to sample yet."""

from __future__ import annotations

import time
from functools import partial

import numpy as np

from replayring_proto.errors import InvalidRequestError, MalformedMessageError
from replayring_proto.limits import CHUNK_BYTES, check_limit
from replayring_proto.messages import parse, query_from_message
from replayring_proto.pack import Pack
from replayring_proto.ring import NothingEligible, UniformSampler
from replayring_proto.v1 import replay_pb2
from replayring_server.engine import Buffer, Store
from replayring_server.service.calls import Call, Calls
from replayring_server.service.changes import Changes
from replayring_server.service.fetching import held_for, work_for
from replayring_server.service.packs import send_pack
from replayring_server.service.workers import Lane, Workers


class SampleBatch:
    """One SampleBatch call. Asks gRPC for the next request only when the last is answered."""

    def __init__(
        self, store: Store, changes: Changes, workers: Workers, calls: Calls, call: Call
    ) -> None:
        self._store = store
        self._changes = changes
        self._workers = workers
        self._calls = calls
        self._call = call
        self._sampler: UniformSampler | None = None
        self._nbytes = 0
        self._work = 0
        self._batch_size = 0
        self._batches_per_pack = 1
        self._min_frames = 1
        self._counts = False
        self._times = calls.tally.work["SampleBatch"]

    async def run(self) -> None:
        """Answers every request with the batches that it wants."""
        while (message := await self._call.read()) is not None:
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
                await self._send_batches(together)
                wanted -= together

    def _prepare(self, spec: replay_pb2.SampleSpec) -> None:
        """Checks what is to be sampled, before memory is taken for it."""
        buffer = self._store.get(spec.buffer)
        query = query_from_message(spec)
        rng = np.random.default_rng(spec.seed if spec.HasField("seed") else None)
        sampler = UniformSampler(buffer.reader, query, rng, count=spec.count_eligible)
        self._batch_size = query.batch_size
        self._nbytes = sampler.plan.check_size(query.batch_size, self._store.limits)
        self._work = work_for(sampler.plan, query.batch_size)
        if spec.min_frames > buffer.spec.capacity:
            raise InvalidRequestError(
                f"min_frames is {spec.min_frames:,}, but the buffer keeps "
                f"{buffer.spec.capacity:,} frames at most; it would wait for ever"
            )
        self._sampler, self._min_frames = sampler, spec.min_frames or 1
        self._call.buffer = buffer
        self._counts = spec.count_eligible
        most = min(CHUNK_BYTES, self._store.limits.max_reply_bytes)
        self._batches_per_pack = max(1, min(spec.batches_per_pack, most // max(self._nbytes, 1)))

    async def _send_batches(self, batches: int) -> None:
        buffer, sampler = self._call.buffer, self._sampler
        if buffer is None or sampler is None:
            raise MalformedMessageError("the first request of SampleBatch must set `spec`")
        drawn = await self._draw(buffer, sampler, batches)
        if drawn is None:
            if self._counts:
                nothing = replay_pb2.SampleBatchResponse(next_index=buffer.reader.live.end)
                await self._send(Pack(sampler.plan.layout(0)), nothing)
            drawn = await self._draw_patiently(buffer, sampler, batches)
        pack, next_index = drawn
        await self._send(
            pack,
            replay_pb2.SampleBatchResponse(
                next_index=next_index, batches=batches, eligible_frames=sampler.eligible
            ),
        )

    async def _send(self, pack: Pack, fields: replay_pb2.SampleBatchResponse) -> None:
        await send_pack(self._call, pack, fields.SerializeToString())
        self._call.release()

    async def _draw_patiently(
        self, buffer: Buffer, sampler: UniformSampler, batches: int
    ) -> tuple[Pack, int]:
        """Draws a batch as soon as there is enough to draw from."""
        with self._changes.watch(buffer.buffer_id) as watch:
            while (drawn := await self._draw(buffer, sampler, batches)) is None:
                with self._call.resting():
                    await watch.change()
        return drawn

    async def _draw(
        self, buffer: Buffer, sampler: UniformSampler, batches: int
    ) -> tuple[Pack, int] | None:
        """Draws batches, for which the call then holds memory, from at least so many frames.

        Returns:
            The batches, and how many frames had ever been added before they were drawn: frames that
            come meanwhile must not make them look fresher. None if there is nothing to draw.
        """
        buffer.check_open()
        if len(buffer.reader.live) < self._min_frames:
            return None
        begun = time.perf_counter()
        held = held_for(self._work * batches, self._store.limits)
        await self._call.take(self._calls.sending, held)
        next_index = buffer.reader.live.end
        lane, work = (Lane.SEARCH, None) if sampler.costly else (Lane.READ, self._work * batches)
        try:
            pack = await self._workers.run(lane, partial(sampler.batch, batches), work)
        except NothingEligible:
            self._call.release()  # an episode that is long enough may yet come
            return None
        self._times.add(time.perf_counter() - begun)
        buffer.tally.sampled(batches, batches * self._batch_size)
        return pack, next_index
