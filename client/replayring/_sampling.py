"""Sampling: one batch, or a stream of them that keeps some on their way."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from replayring._arguments import whole
from replayring._background import Background
from replayring._batch import Batch, MemoryFailedError, batches_in
from replayring._calls import Caller
from replayring._channel import Stub
from replayring._conversations import Conversation
from replayring._patience import LASTING_SECONDS, Patience
from replayring._replies import Arrays, receive
from replayring._streams import BatchStream
from replayring_proto.errors import (
    ClosedError,
    LimitExceededError,
    ReplayRingError,
)
from replayring_proto.limits import ServerLimits
from replayring_proto.messages import parse, view_to_message
from replayring_proto.pack import Memory, Pack
from replayring_proto.query import SampleQuery, View
from replayring_proto.spec import INDEX, BufferSpec
from replayring_proto.v1 import replay_pb2

_METHOD = "SampleBatch"
_ONE_MORE = replay_pb2.SampleBatchRequest(batches=1).SerializeToString()
_EXPLAIN_SECONDS = 1.0

CLOSED = "this sample stream was closed; make another"

# An odd number near 2^64 / phi: successive multiples spread over all of 64 bits.
_SPREAD = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Sampling:
    """What to sample, checked.

    Attributes:
        buffer: the buffer's name.
        query: batch size, view and dropped frames.
        min_frames: live frames to wait for.
        seed: start of the random stream, for tests; None for fresh entropy.
        count_eligible: whether each reply says how many frames were eligible.
    """

    buffer: str
    query: SampleQuery
    min_frames: int = 1
    seed: int | None = None
    count_eligible: bool = False

    def request(
        self, batches: int = 1, received: int = 0, per_pack: int = 1
    ) -> replay_pb2.SampleBatchRequest:
        """Returns the first request of a call.

        Args:
            batches: batches wanted.
            per_pack: how many may come together. A seeded stream gets them one by one, as they
                would be drawn otherwise if they came in other numbers.
            received: batches that earlier calls gave.
        """
        seed = self.after(received).seed
        return replay_pb2.SampleBatchRequest(
            spec=replay_pb2.SampleSpec(
                buffer=self.buffer,
                batch_size=self.query.batch_size,
                view=view_to_message(self.query.view),
                drop_n_last_frames=self.query.drop_n_last_frames,
                min_frames=self.min_frames,
                seed=seed,
                batches_per_pack=1 if seed is not None else per_pack,
                count_eligible=self.count_eligible,
            ),
            batches=batches,
        )

    def after(self, received: int) -> Sampling:
        """Returns the same with another seed, so that what goes on does not repeat itself.

        Args:
            received: batches that this seed, or others of it, gave already.
        """
        if self.seed is None or not received:
            return self
        return replace(self, seed=(self.seed + received * _SPREAD) % (1 << 64))

    def explain(self, caller: Caller) -> str:
        """Says what the buffer holds and what is waited for."""
        try:
            patience = caller.patience(f"looking at {self.buffer!r}", _EXPLAIN_SECONDS)
            info = caller.buffer_info(self.buffer, patience).buffer
        except ReplayRingError:
            held = "an unknown number of"
        else:
            held = f"{info.next_index - info.oldest_index:,}"
        return self.waiting(held)

    def waiting(self, held: str) -> str:
        """Says what is waited for, where the buffer holds so many frames."""
        drop = self.query.drop_n_last_frames
        longer = f", with an episode longer than drop_n_last_frames={drop}" if drop else ""
        return (
            f"buffer {self.buffer!r} holds {held} frames, and a batch of "
            f"{self.query.batch_size:,} waits for {max(self.min_frames, 1):,} (min_frames)"
            f"{longer}: add episodes, ask for fewer, or raise timeout"
        )


def sampling_of(
    name: str,
    spec: BufferSpec,
    batch_size: int,
    view: View,
    drop: int,
    min_frames: int,
    seed: int | None,
    shards: int = 1,
) -> Sampling:
    """Returns what a caller of `sample` wants of a buffer, checked against its spec.

    Args:
        name: the buffer's name.
        spec: its spec, or that of each shard.
        batch_size: as for `Buffer.sample`, like the rest.
        view: how frames should look.
        drop: `drop_n_last_frames`.
        min_frames: as there, over all shards.
        seed: as there.
        shards: how many hold a buffer of that spec.
    """
    query = SampleQuery(
        _batch_size(batch_size),
        view,
        whole(drop, "drop_n_last_frames", 0),
    )
    query.check(spec)
    return Sampling(
        name,
        query,
        whole(min_frames, "min_frames", 0, spec.capacity * shards),
        None if seed is None else whole(seed, "seed", 0, (1 << 64) - 1),
    )


def _batch_size(value: Any) -> int:
    """Returns a batch size that a request can carry; how large it may be, the server knows."""
    size = whole(value, "batch_size", 1)
    if size >= 1 << 32:
        raise LimitExceededError(
            f"frames asked for at once: received {size:,}, the limit is "
            f"{ServerLimits.max_batch_size:,}, where the server's owner did not change it; ask for "
            "fewer"
        )
    return size


def sample(caller: Caller, sampling: Sampling, timeout: float | None) -> Arrays:
    """Returns one batch."""
    patience = caller.patience(f"sampling from {sampling.buffer!r}", timeout)
    return draw(caller, sampling, patience, partial(sampling.explain, caller))[0]


def draw(
    caller: Caller,
    sampling: Sampling,
    patience: Patience,
    explain: Callable[[], str] | None = None,
) -> tuple[Arrays, bytes]:
    """Has the server draw one batch; where `count_eligible`, none if there is none at the moment.

    Args:
        caller: makes the call.
        sampling: what to sample.
        patience: the time.
        explain: as for `Caller.run`.

    Returns:
        The batch, and the other fields of the reply, encoded.
    """
    if sampling.seed is not None:  # whose random stream begins with the call
        return caller.fetch(patience, _METHOD, sampling.request(), explain)
    whole = sampling.request().SerializeToString()
    asked: Conversation

    def request(conversation: Conversation) -> bytes:
        nonlocal asked
        asked = conversation
        if conversation.told == whole:
            return _ONE_MORE
        conversation.told = whole
        return whole

    arrays, rest = caller.ask(patience, _METHOD, request, explain)
    if sampling.count_eligible and not len(arrays[INDEX]):
        asked.end()  # or the batch would come when there is one, and be taken for another
    return arrays, rest


class WireStream(Background, BatchStream):
    """Batches from the server, fetched ahead.

    One call carries all of them, of which `in_flight` are always wanted, on their way or waiting
    here. Where the server goes away the stream goes on when it is back, with other batches than
    those that were lost; a seeded one then continues with another seed.
    """

    _in_background = True

    def __init__(
        self,
        caller: Caller,
        sampling: Sampling,
        in_flight: int,
        timeout: float | None,
        memory: Memory,
    ) -> None:
        """Starts fetching.

        Args:
            caller: makes the calls.
            sampling: what to sample, checked.
            in_flight: batches wanted ahead, checked.
            timeout: seconds that `next` waits for a batch, checked; None for the client's own.
            memory: makes what batches are received in.
        """
        super().__init__(caller, "sample stream")
        self._sampling = sampling
        self._in_flight = in_flight
        self._timeout = timeout
        self._memory = memory
        # Batches are asked for and come in groups, so that small ones share the cost of a message,
        # and one group is on its way while another is used up.
        self._group = max(1, in_flight // 2)
        self._more = replay_pb2.SampleBatchRequest(batches=self._group).SerializeToString()
        self._taken = 0  # since more were asked for
        self._ready: deque[Batch] = deque()
        self._requests: queue.SimpleQueue[bytes | None] | None = None
        self._failure: ReplayRingError | None = None
        self.start()

    def _draw(self) -> Batch:
        self.check_native()
        patience = self._patience(self._caller, self._sampling, self._timeout)
        with self._lock:
            seconds = min(patience.remaining(), threading.TIMEOUT_MAX)
            self._changed.wait_for(lambda: self._ready or self._failure or self._ended, seconds)
            if (batch := self._take()) is not None:
                return batch
            trouble = self._trouble
        raise self._caller.overdue(patience, trouble, lambda: self._sampling.explain(self._caller))

    def _poll(self) -> Batch | None:
        self.check_native()
        with self._lock:
            return self._take()

    def close(self) -> None:
        if self.foreign:
            return
        with self._lock:
            self._failure = None
            self._ready = deque()
        self.stop()

    @staticmethod
    def _patience(caller: Caller, sampling: Sampling, timeout: float | None) -> Patience:
        return caller.patience(f"sampling from {sampling.buffer!r}", timeout)

    def _take(self) -> Batch | None:
        """Returns the next batch, if it is there, or raises why none will be. `_lock` is held."""
        failure, ready = self._failure, self._ready  # which closing replaces, at any step
        if failure is None and self._ended:
            raise ClosedError(CLOSED)
        if not ready:
            if failure is not None:
                if not self._ended:
                    self._failure = None
                    self._changed.notify_all()
                raise type(failure)(str(failure))
            return None
        self._taken += 1
        requests = self._requests  # which a call that ends takes away, without the lock
        if requests is None:
            self._changed.notify_all()
        elif self._taken >= self._group:
            self._taken -= self._group
            requests.put(self._more)
        return ready.popleft()

    def _has_work(self) -> bool:
        return self._failure is None and len(self._ready) < self._in_flight

    def _converse(self, stub: Stub) -> None:
        requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        with self._lock:
            wanted = self._in_flight - len(self._ready)
            first = self._sampling.request(wanted, self._progress, self._group)
            self._taken = 0
            requests.put(first.SerializeToString())
            self._requests = requests
        try:
            with stub.converse(_METHOD, iter(requests.get, None), LASTING_SECONDS) as call:
                for message in call:
                    most = self._caller.max_reply_bytes
                    self._deliver(*receive(message, call, most, self._memory))
        finally:
            self._requests = None
            requests.put(None)

    def _deliver(self, pack: Pack, rest: bytes) -> None:
        reply = parse(replay_pb2.SampleBatchResponse, rest)
        batches = batches_in(pack, reply.batches or 1, reply.next_index)
        with self._lock:
            self._ready.extend(batches)
            self._got_somewhere(len(batches))

    def _give_up(self, failure: ReplayRingError) -> None:
        if not self._ended:
            self._failure = failure
            self._ended = not isinstance(failure, MemoryFailedError)  # which is told, and goes on
