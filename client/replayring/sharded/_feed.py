"""Where one shard's blocks come from: the wire, in the background; or its files, when asked."""

from __future__ import annotations

import math
import queue
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from replayring._background import Background, Guard
from replayring._batch import MemoryFailedError
from replayring._channel import Stub
from replayring._patience import LASTING_SECONDS, LOCKED_OUT, passing
from replayring._replies import Arrays, read_pack
from replayring._same_host import FileReads
from replayring._sampling import Sampling
from replayring.sharded._drawn import from_files, from_reply
from replayring.sharded._form import Form
from replayring.sharded._mixing import Block
from replayring.sharded._part import Part
from replayring.sharded._shard import named
from replayring.sharded._waiting import SILENT_SECONDS
from replayring_proto.errors import DeadlineError, NotFoundError, ReplayRingError
from replayring_proto.messages import info_from_message, parse
from replayring_proto.ring import UniformSampler
from replayring_proto.v1 import replay_pb2

_METHOD = "SampleBatch"
_ASKED_AT_ONCE = 256
_UNITS_PER_PACK = 1024


class Feed(Protocol):
    """One shard's blocks. Guarded by the stream's lock.

    Attributes:
        part: what they are drawn from.
        blocks: those that are here, oldest first; the stream takes them.
        empty: whether the shard has said that nothing is eligible.
        seen: frames ever added to it, as it said last.
        gone: whether no block will come this way any more, and another way is to be tried.
    """

    part: Part
    blocks: deque[Block]
    empty: bool
    seen: int
    gone: bool

    @property
    def trouble(self) -> ReplayRingError | None:
        """Why the shard cannot serve at present, or None."""

    @property
    def out(self) -> bool:
        """Whether the others are to go on without it."""

    def check(self) -> None:
        """Raises why it never will; or what is to be told once, and then it goes on."""

    def aim(self, frames: int, batch: int, since: float) -> None:
        """Says how many frames are wanted ahead, for which batch, and since which they count."""

    def poll(self) -> None:
        """Has whatever is to be had at once."""

    def end(self) -> None:
        """Ends soon, without waiting for anything."""

    def stop(self) -> None:
        """Ends, and waits for that, for a bounded time."""


class WireFeed(Background):
    """Blocks from a server, asked for ahead: as a `WireStream`, but as many as are wanted now.

    It is asked for units of some frames; the server draws as many as fit a message together, and
    says how many frames were eligible for all of them.
    """

    gone = False

    def __init__(self, part: Part, sampling: Sampling, guard: Guard) -> None:
        """Prepares; begins to ask when told how much is wanted.

        Args:
            part: what to sample from.
            sampling: a unit, counted.
            guard: that of the stream, shared by all its feeds.
        """
        super().__init__(part.shard.client._caller, "sample stream", guard)
        self.part = part
        self.blocks: deque[Block] = deque()
        self.empty = False
        self.seen = 0
        self._failure: ReplayRingError | None = None
        self._sampling = sampling
        self._form = Form.of_view(sampling.buffer, part.buffer.spec, sampling.query.view)
        self._wanted = 0
        self._batch = 0
        self._counted_since = 0.0
        self._asked = 0  # frames that are to come of the present call
        self._since: float | None = None  # when the shard was last heard of, while frames are due
        self._requests: queue.SimpleQueue[bytes | None] | None = None

    @property
    def trouble(self) -> ReplayRingError | None:
        return self._trouble

    @property
    def out(self) -> bool:
        trouble = self._trouble
        return self.part.shard.lost or (trouble is not None and not passing(trouble))

    def check(self) -> None:
        if (failure := self._failure) is not None:
            if not self._ended:
                self._failure = None
                self._changed.notify_all()
            raise type(failure)(str(failure))

    def aim(self, frames: int, batch: int, since: float) -> None:
        self._wanted, self._batch, self._counted_since = frames, batch, since
        if not self._has_work():
            return
        if self._requests is None:
            self._changed.notify_all()
            return
        units = self._take_units()
        self._requests.put(replay_pb2.SampleBatchRequest(batches=units).SerializeToString())

    def poll(self) -> None:
        """Tells the others to go on if the shard was silent for too long."""
        since = self._since
        if since is None or self.empty or self.blocks or self.part.shard.lost:
            return
        if time.monotonic() - since > SILENT_SECONDS:
            silence = DeadlineError(f"it gave nothing for {SILENT_SECONDS:g} s")
            self.part.shard.client._channel.outage.silent(silence)

    @property
    def _have(self) -> int:
        """Frames that are here, and not old, or on their way."""
        here = (block.left for block in self.blocks if block.born >= self._counted_since)
        return self._asked + sum(here)

    def _has_work(self) -> bool:
        return self._failure is None and 2 * self._have <= self._wanted

    def _take_units(self) -> int:
        """Returns how many units to ask for now, which then count as asked for."""
        unit = self._sampling.query.batch_size
        units = min(max(math.ceil((self._wanted - self._have) / unit), 1), _ASKED_AT_ONCE)
        self._asked += units * unit
        self._since = self._since or time.monotonic()
        return units

    def _endures(self, failure: ReplayRingError) -> bool:
        # The others go on. Should all shards say so, the stream tells its caller.
        return passing(failure) or isinstance(failure, (NotFoundError, *LOCKED_OUT))

    def _one_call(self) -> ReplayRingError | None:
        failure = self._open() or super()._one_call()
        if failure is None:  # `_deliver` has noted what there was to note
            return None
        self.part.note(failure)
        # An outage names its server by itself.
        return failure if passing(failure) else named(self.part.shard, failure)

    def _open(self) -> ReplayRingError | None:
        """Makes sure that the buffer is there; the others do not wait for that for long."""
        if self.part.is_open:
            return None
        with self._lock:
            self._since = time.monotonic()
        try:
            self.part.open(self.part.shard.hasty, None)
        except ReplayRingError as error:
            return error
        finally:
            with self._lock:
                self._since = None
        return None

    def _converse(self, stub: Stub) -> None:
        requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        with self._lock:
            first = self._sampling.request(self._take_units(), self._progress, _UNITS_PER_PACK)
            requests.put(first.SerializeToString())
            self._requests = requests
        try:
            self._look(stub)
            life = self.part.life  # another buffer ends the call
            with stub.converse(_METHOD, iter(requests.get, None), LASTING_SECONDS) as call:
                for message in call:
                    self._deliver(life, *read_pack(message, call, self._caller.max_reply_bytes))
        except MemoryError as error:
            raise MemoryFailedError(
                f"there is no memory for what it sends ({error}); lower batch_size or in_flight"
            ) from None
        finally:
            with self._lock:
                self._requests, self._asked, self._since = None, 0, None
            requests.put(None)

    def _look(self, stub: Stub) -> None:
        """Looks at what the shard has, if it may be another buffer."""
        if not self.part.doubtful:
            return
        request = replay_pb2.GetBufferRequest(name=self._sampling.buffer).SerializeToString()
        with stub.ask("GetBuffer", request, LASTING_SECONDS) as call:
            response = parse(replay_pb2.GetBufferResponse, call.result())
        self.part.know(info_from_message(response.buffer))

    def _deliver(self, life: object, arrays: Arrays, rest: bytes) -> None:
        block = from_reply(self.part.shard, self._form, arrays, rest, self._batch, life)
        frames = block.frames
        self.part.note(None)
        with self._lock:
            self.empty, self.seen = not frames, block.next_index
            if frames:
                self._asked -= frames
                self.blocks.append(block)
            else:
                self.blocks.clear()  # what they were drawn from is gone
            self._since = time.monotonic() if self._asked and frames else None
            self._got_somewhere()

    def _give_up(self, failure: ReplayRingError) -> None:
        if not self._ended:
            self._failure = failure
            self._ended = not isinstance(failure, MemoryFailedError)  # which is told, and goes on


class FileFeed:
    """Blocks drawn from a server's files when they are wanted, one at a time.

    The files of a buffer that is deleted are gone for good: one that is made anew under its name
    has others. What has become of it only the server can say.
    """

    trouble: ReplayRingError | None = None
    out = False

    def __init__(
        self, part: Part, sampling: Sampling, reads: Callable[[], FileReads | None]
    ) -> None:
        """Prepares.

        Args:
            part: what to sample from.
            sampling: a unit, counted.
            reads: returns the files' reads, or None when the buffer is gone.
        """
        self.part = part
        self.blocks: deque[Block] = deque()
        self.empty = False
        self.seen = 0
        self.gone = False
        self._sampling = sampling
        self._reads = reads
        self._sampler: UniformSampler | None = None
        self._units = 1
        self._batch = 0
        self._looked = False  # for the files, since it was aimed last

    def check(self) -> None:
        pass

    def aim(self, frames: int, batch: int, since: float) -> None:
        # A seeded stream is to repeat itself, whatever else is wanted of it.
        unit = self._sampling.query.batch_size
        self._units = 1 if self._sampling.seed is not None else max(1, round(frames / unit))
        self._batch = batch
        self._looked = False

    def poll(self) -> None:
        if self.blocks and self._looked:
            return
        self._looked, life = True, self.part.life
        reads = self._reads()
        if reads is None:
            self.gone = True
            return
        if self.blocks:
            return
        if self._sampler is None:
            self._sampler = reads.sampler(self._sampling)
        try:
            block = from_files(
                *(self.part.shard, reads, self._sampling, self._sampler, self._units),
                *(self._batch, life),
            )
        except ReplayRingError as error:
            raise named(self.part.shard, error) from None
        self.seen, self.empty = block.next_index, not block.frames
        if block.frames:
            self.blocks.append(block)

    def end(self) -> None:
        self.blocks.clear()

    def stop(self) -> None:
        self.end()
