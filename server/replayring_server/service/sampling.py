"""SampleBatch: batches on request, in order, waiting where there is nothing to sample yet."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

import numpy as np

from replayring_proto.errors import InvalidRequestError, MalformedMessageError
from replayring_proto.limits import TOGETHER_BYTES, check_limit
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


@dataclass(frozen=True)
class _Wish:
    """What a call samples, checked, before memory is taken for it.

    Attributes:
        buffer: from where.
        sampler: draws batches.
        batch_size: frames of one.
        work: of drawing one, in bytes that could be moved meanwhile.
        batches_per_pack: how many batches may share a pack.
        min_frames: live frames to wait for.
        counts: whether the caller is to know how many frames are eligible, and when none is.
    """

    buffer: Buffer
    sampler: UniformSampler
    batch_size: int
    work: int
    batches_per_pack: int
    min_frames: int
    counts: bool

    @classmethod
    def of(cls, spec: replay_pb2.SampleSpec, store: Store) -> _Wish:
        """Returns what a request asks for.

        Raises:
            ReplayRingError: it may not be asked for.
        """
        buffer = store.get(spec.buffer)
        query = query_from_message(spec)
        rng = np.random.default_rng(spec.seed if spec.HasField("seed") else None)
        sampler = UniformSampler(buffer.reader, query, rng, count=spec.count_eligible)
        nbytes = sampler.plan.check_size(query.batch_size, store.limits)
        if spec.min_frames > buffer.spec.capacity:
            raise InvalidRequestError(
                f"min_frames is {spec.min_frames:,}, but the buffer keeps "
                f"{buffer.spec.capacity:,} frames at most; it would wait for ever"
            )
        most = min(TOGETHER_BYTES, store.limits.max_reply_bytes)
        return cls(
            buffer,
            sampler,
            query.batch_size,
            work_for(sampler.plan, query.batch_size),
            max(1, min(spec.batches_per_pack, most // max(nbytes, 1))),
            spec.min_frames or 1,
            spec.count_eligible,
        )


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
        self._times = calls.tally.work["SampleBatch"]

    async def run(self) -> None:
        """Answers every request with the batches that it wants."""
        wish: _Wish | None = None
        while (message := await self._call.read()) is not None:
            request = parse(replay_pb2.SampleBatchRequest, message)
            if request.HasField("spec"):
                wish = _Wish.of(request.spec, self._store)
                self._call.buffer = wish.buffer
            if wish is None:
                raise MalformedMessageError("the first request of SampleBatch must set `spec`")
            check_limit(
                request.batches,
                self._store.limits.max_batches_in_flight,
                "batches asked for at once",
                "ask for more when some have come",
                "max_batches_in_flight",
            )
            wanted = request.batches or 1
            while wanted:
                together = min(wanted, wish.batches_per_pack)
                await self._send_batches(wish, together)
                wanted -= together

    async def _send_batches(self, wish: _Wish, batches: int) -> None:
        pack, next_index = await self._draw(wish, batches)
        if pack is None:
            pack, next_index = await self._draw_patiently(wish, batches)
        await self._send(
            pack,
            replay_pb2.SampleBatchResponse(
                next_index=next_index, batches=batches, eligible_frames=wish.sampler.eligible
            ),
        )

    async def _send(self, pack: Pack, fields: replay_pb2.SampleBatchResponse) -> None:
        await send_pack(self._call, pack, fields.SerializeToString())
        self._call.release()

    async def _draw_patiently(self, wish: _Wish, batches: int) -> tuple[Pack, int]:
        """Draws a batch as soon as there is enough to draw from.

        Who counts eligible frames is told meanwhile of frames that did not change that: what other
        servers gave would look stale otherwise, though it is as it would be now.
        """
        told = -1
        with self._changes.watch(wish.buffer.buffer_id) as watch:
            while True:
                pack, next_index = await self._draw(wish, batches)
                if pack is not None:
                    return pack, next_index
                if wish.counts and next_index > told:
                    nothing = replay_pb2.SampleBatchResponse(next_index=next_index)
                    await self._send(Pack(wish.sampler.plan.layout(0)), nothing)
                    told = next_index
                with self._call.resting():
                    await watch.change()

    async def _draw(self, wish: _Wish, batches: int) -> tuple[Pack | None, int]:
        """Draws batches, for which the call then holds memory, from at least so many frames.

        Returns:
            The batches, None if there is nothing to draw, and how many frames had ever been added
            before that: frames that come meanwhile must not make it look fresher.
        """
        buffer, sampler = wish.buffer, wish.sampler
        buffer.check_open()
        live = buffer.reader.live
        if len(live) < wish.min_frames:
            return None, live.end
        begun = time.perf_counter()
        work = wish.work * batches
        await self._call.take(self._calls.sending, held_for(work, self._store.limits))
        next_index = buffer.reader.live.end
        lane, size = (Lane.SEARCH, None) if sampler.costly else (Lane.READ, work)
        try:
            draw = partial(sampler.batch, batches)
            pack = await self._workers.run(lane, draw, size, self._call.leave_to)
        except NothingEligible:
            self._call.release()  # an episode that is long enough may yet come
            return None, next_index
        self._times.add(time.perf_counter() - begun)
        buffer.tally.sampled(batches, batches * wish.batch_size)
        return pack, next_index
