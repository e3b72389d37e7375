"""Sampled batches as a torch iterable dataset.

Prefetching is the sample stream's business: it keeps requests in flight, and a thread of its own
takes replies off the network, into memory of the right kind, while the learner computes; bringing
them to a device is that of `_staging`. What is left here is to make tensors of them, to leave out
those that are too stale, to share the work between DataLoader workers, and to end streams: an
iterator that nobody holds any longer closes its stream, so a `break` out of a loop leaves nothing
behind.
"""

from __future__ import annotations

import logging
import math
import sys
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from replayring._arguments import as_buffer, seconds, whole
from replayring._blocks import in_blocks
from replayring._device import as_device
from replayring._freshness import Freshness
from replayring._handover import WholeBatch, hand_over
from replayring._living import Living
from replayring._page_locked import Reserve
from replayring._sources import InMemory, Source, from_arrays, from_reserve
from replayring._staging import staging_on
from replayring._streams import BatchStream, CopiedStream
from replayring.collation import Item, collates
from replayring.dataset import copied_offsets
from replayring_proto.errors import (
    ClosedError,
    DeadlineError,
    InvalidRequestError,
    ServerUnavailableError,
)
from replayring_proto.pack import Memory, aligned_empty
from replayring_proto.query import SampleQuery, View

if TYPE_CHECKING:
    from replayring.surface import ReplayBuffer

__all__ = ["BatchDataset", "BatchIterator"]

logger = logging.getLogger("replayring")

_TELL_SECONDS = 10.0
_CLOSED = "this BatchDataset was closed; make a new one"

T = TypeVar("T")


class BatchDataset(IterableDataset[Item]):
    """Uniformly sampled batches, ready for training: dicts of tensors with the batch as first axis.

    Iterate it directly, or let workers do so:

        with BatchDataset(buffer, 256, drop_n_last_frames=1) as batches:
            for batch in batches: ...

        loader = DataLoader(batches, batch_size=None, num_workers=2)

    Each iteration opens a stream in the process that runs it; several may run at once, and
    every worker samples by itself. A batch waits while the buffer has too few frames, and while
    the server is away.

    With a `device`, batches are copied there ahead, on a stream of their own, while the learner
    computes; each is ready for the stream that is current where it is taken. No worker is needed
    for that, and none is allowed to a CUDA device: iterate the dataset itself.

    Batches are drawn before they are asked for. How many, says `in_flight`; how many frames may
    have been added since, `max_staleness_frames`; and how fresh the last batch is, the iterator's
    `next_index`.

    Picklable; open iterations stay behind. Thread-safe. `close`, or `with`, ends all iterations.

    Attributes:
        buffer: the buffer sampled from.
        batch_size: frames per batch.
        num_batches: batches per iteration, or None for no end.
    """

    def __init__(
        self,
        buffer: ReplayBuffer,
        batch_size: int,
        *,
        delta_timestamps: Mapping[str, Sequence[float]] | None = None,
        delta_indices: Mapping[str, Sequence[int]] | None = None,
        drop_n_last_frames: int = 0,
        keys: Sequence[str] | None = None,
        tolerance_s: float | None = None,
        min_frames: int = 1,
        in_flight: int = 8,
        max_staleness_frames: int | None = None,
        device: str | int | torch.device | None = None,
        pin_memory: bool = False,
        num_batches: int | None = None,
        seed: int | None = None,
        timeout: float | None = None,
    ) -> None:
        """Describes what to sample; nothing is sampled yet.

        Args:
            buffer: an existing buffer.
            batch_size: frames per batch, drawn uniformly with replacement.
            delta_timestamps: windows in seconds: for each key the offsets.
            delta_indices: windows in frames: for each key the offsets.
            drop_n_last_frames: frames at the end of each episode that are not drawn.
            keys: columns wanted besides the presets and the windowed ones; None for all.
            tolerance_s: for windows in seconds; None for the buffer's own.
            min_frames: wait until the buffer holds this many frames.
            in_flight: batches that each iteration has on their way or ready, on the device
                included, where it is at least 2. More hide more delay; fewer are fresher.
            max_staleness_frames: drop batches if more frames than this were added to the buffer
                since they were drawn, and hand out later ones. It is judged when a batch is handed
                out, by what the server said at most 0.1 s before. None for no bound.
            device: where batches are brought to: "cuda", "cuda:1", a `torch.device`, or "cpu".
                For CUDA they are received in page-locked memory, and the copy of the next one
                begins when you take one, so that it is there when you need it. None leaves them
                where they arrived. All of CUDA that this needs is called in the thread that takes
                batches, so you may capture graphs meanwhile.
            pin_memory: receive batches in page-locked memory, so that you can bring them to a GPU
                faster and asynchronously. Without CUDA there is a warning and nothing else, as in
                torch's DataLoader. Ignored in workers, which must not touch CUDA: there, use
                `DataLoader(..., pin_memory=True)`. Not needed with `device`, which does so itself.
            num_batches: batches per iteration, which workers share among them; None for no end.
            seed: begins each iteration with the same random stream, each worker with its own; for
                tests. None for fresh randomness.
            timeout: seconds to wait for a batch. None waits for as long as it takes, also for a
                server that is away, and the log says what for.

        Raises:
            ValueError: an unknown key, a number that is out of its range, or a device that torch
                does not find.
        """
        # Copies, so that what the caller does to his own later changes nothing here.
        self._view: dict[str, Any] = {
            "delta_timestamps": copied_offsets(delta_timestamps, "delta_timestamps"),
            "delta_indices": copied_offsets(delta_indices, "delta_indices"),
            "keys": list(keys) if keys is not None and not isinstance(keys, str) else keys,
            "tolerance_s": tolerance_s,
        }
        self._drop_n_last_frames = whole(drop_n_last_frames, "drop_n_last_frames", 0)
        self.batch_size = whole(batch_size, "batch_size", 1)
        view, spec = View.of(**self._view), as_buffer(buffer).spec
        SampleQuery(self.batch_size, view, self._drop_n_last_frames).check(spec)
        self._min_frames = whole(min_frames, "min_frames", 1, spec.capacity)
        self._in_flight = whole(in_flight, "in_flight", 1)
        self._max_staleness_frames = (
            None
            if max_staleness_frames is None
            else whole(max_staleness_frames, "max_staleness_frames", 0)
        )
        self._device = None if device is None else as_device(device)
        self.num_batches = None if num_batches is None else whole(num_batches, "num_batches", 1)
        self._seed = None if seed is None else whole(seed, "seed", 0, (1 << 64) - 1)
        if pin_memory and not torch.cuda.is_available():
            warnings.warn("pin_memory=True has no effect: torch finds no CUDA device", stacklevel=2)
        self._pin_memory = pin_memory
        self._timeout = None if timeout is None else seconds(timeout)
        self.buffer = buffer
        self._closed = False
        self._iterators = Living[BatchIterator]()

    def __iter__(self) -> BatchIterator:
        """Opens a stream of batches.

        Raises:
            ClosedError: this dataset, or its client, was closed.
            InvalidRequestError: this is a DataLoader's worker, and there is a CUDA device.
        """
        if self._closed:
            raise ClosedError(_CLOSED)
        if self._device is not None and self._device.type != "cpu" and get_worker_info():
            raise InvalidRequestError(
                f"device is {str(self._device)!r}, which DataLoader workers must not touch; "
                "iterate the BatchDataset itself, which fetches and copies ahead without workers"
            )
        iterator = BatchIterator(
            self._source(),
            self._worker_batches(),
            self._freshness(),
            endless=self._timeout is None,
            collated=collates(sys._getframe(1)),
        )
        self._iterators.add(iterator)
        if self._closed:  # by another thread, which did not see this one
            iterator.close()
            raise ClosedError(_CLOSED)
        return iterator

    def __len__(self) -> int:
        """Batches per iteration.

        Raises:
            TypeError: there is no end.
        """
        if self.num_batches is None:
            raise TypeError("this BatchDataset has no end; give num_batches for a length")
        return self.num_batches

    def __enter__(self) -> BatchDataset:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all iterations of this process, also those that wait. Again, does nothing."""
        self._closed = True
        for iterator in self._iterators.all():
            iterator.close()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_iterators"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _iterators=Living[BatchIterator]())

    def _source(self) -> Source:
        if self._device is not None:
            return staging_on(self._device, self._stream)
        if self._pin_memory and get_worker_info() is None and torch.cuda.is_available():
            reserve = Reserve()
            return InMemory(self._stream(in_blocks(reserve.take)), partial(from_reserve, reserve))
        return InMemory(self._stream(), from_arrays)

    def _stream(self, memory: Memory = aligned_empty) -> BatchStream:
        # Of what is in flight, one is on the device or on its way there.
        staged = 0 if self._device is None else 1
        options = dict(self._view)
        if memory is not aligned_empty:  # a buffer around one of ours may not know of it
            options["memory"] = memory
        stream = self.buffer.sample_stream(
            self.batch_size,
            in_flight=max(1, self._in_flight - staged),
            drop_n_last_frames=self._drop_n_last_frames,
            min_frames=self._min_frames,
            seed=self._worker_seed(),
            timeout=self._patience(),
            **options,
        )
        return stream if isinstance(stream, BatchStream) else CopiedStream(stream, memory)

    def _freshness(self) -> Freshness | None:
        if self._max_staleness_frames is None:
            return None

        def added() -> int:
            return self.buffer.info(timeout=self._patience()).next_index

        timeout = self.buffer.client.timeout if self._timeout is None else self._timeout
        return Freshness(added, self._max_staleness_frames, timeout)

    def _patience(self) -> float:
        """Returns after how many seconds the stream says that it is still waiting, and what for."""
        return _TELL_SECONDS if self._timeout is None else self._timeout

    def _worker_seed(self) -> int | None:
        worker = get_worker_info()
        if self._seed is None or worker is None:
            return self._seed
        return int(np.random.SeedSequence([self._seed, worker.id]).generate_state(1, np.uint64)[0])

    def _worker_batches(self) -> int | None:
        """This worker's part of `num_batches`, so that all of them together give that many."""
        worker = get_worker_info()
        if self.num_batches is None or worker is None:
            return self.num_batches
        return len(range(worker.id, self.num_batches, worker.num_workers))


class BatchIterator(Iterator[Item]):
    """One iteration over sampled batches. Not to be made directly: iterate a `BatchDataset`.

    Closed by its last batch, by `close`, by closing its dataset, or by being let go. `close` may
    come from any thread; several threads may take batches where there is no `num_batches`.

    Attributes:
        next_index: how fresh the last batch is: frames ever added to the buffer when it was drawn,
            as in `BufferInfo.next_index`; None before the first.
        dropped: batches left out so far since they were too stale.
    """

    def __init__(
        self,
        source: Source,
        num_batches: int | None,
        freshness: Freshness | None,
        *,
        endless: bool = False,
        collated: bool = False,
    ) -> None:
        """Takes over a source of batches.

        Args:
            source: where they come from; closed here.
            num_batches: batches to hand out; None for no end.
            freshness: how stale they may be, or None.
            endless: whether to go on waiting when the source has done so for long enough.
            collated: whether torch's DataLoader makes batches of these, in this process.
        """
        self.next_index: int | None = None
        self.dropped = 0
        self._source = source
        self._remaining = num_batches
        self._freshness = freshness
        self._endless = endless
        self._hand_over: Callable[[Item], Item] = WholeBatch if collated else hand_over
        # The source's threads keep it alive; this object's end has to end them. Unlike __del__, a
        # finalizer also runs for what is still alive when the interpreter exits.
        self._close = weakref.finalize(self, _close, source, freshness)

    def __next__(self) -> Item:
        """Returns the next batch, waiting for it if need be.

        Raises:
            StopIteration: there are no more, or this iterator was closed.
            DeadlineError: none came in time, or none that was fresh enough. The stream goes on: try
                again.
            ServerUnavailableError: none came in time, since the server is away. The stream goes on.
            ReplayRingError: what went wrong at the stream.
        """
        if self._remaining == 0:
            self.close()
        if not self._close.alive:
            raise StopIteration
        try:
            tensors, self.next_index = self._take()
        except ClosedError:
            if not self._close.alive:  # closed while this waited; otherwise the client was closed
                raise StopIteration from None
            raise
        if self._remaining is not None:
            self._remaining -= 1
        return self._hand_over(tensors)

    def close(self) -> None:
        """Ends the stream and with it the iteration. Again, does nothing."""
        self._close()

    def _take(self) -> tuple[Item, int | None]:
        if self._freshness is None:
            return self._patiently(self._source.take)
        until = math.inf
        while True:
            self._patiently(self._freshness.look)
            tensors, next_index = self._patiently(self._source.take)
            if self._freshness.allows(next_index):
                return tensors, next_index
            self.dropped += 1
            now = time.monotonic()
            until = min(until, now + self._freshness.timeout)
            if now > until:
                raise DeadlineError(
                    f"no batch was fresh enough within {self._freshness.timeout:g} s, and "
                    f"{self.dropped:,} were dropped; allow more with max_staleness_frames, or "
                    "lower in_flight"
                )

    def _patiently(self, attempt: Callable[[], T]) -> T:
        """Attempts it for as long as it takes, and says once what is waited for."""
        told = False
        while True:
            try:
                return attempt()
            except (DeadlineError, ServerUnavailableError) as error:
                if not self._endless:
                    raise
                if not told:
                    logger.warning("still waiting for a batch: %s", error)
                told = True


def _close(source: Source, freshness: Freshness | None) -> None:
    if freshness is not None:
        freshness.close()
    source.close()
