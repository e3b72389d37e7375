"""How batches get to a device while the learner computes on those before.

Knows memory, copies and what has to wait for what; nothing of buffers or networks. The stream puts
its packs into memory from which a device copies them as a whole: one copy per pack, however many
columns and batches are in it, and views of the block there. `Staging` begins the copy of a batch
when the one before it is taken. What differs between devices is behind `Link`: CUDA's copies run by
themselves, on a stream of their own, from page-locked memory; the CPU needs none.

No thread of its own does that. Threads of Python take turns, and a learner that tells a GPU a few
hundred small things per batch took a third longer beside one (H200: 1.4 ms instead of 1.1); to
begin a copy takes less than such turns. Only where large batches are made when they are asked
for, as those from files are, a thread makes the next one.
"""

from __future__ import annotations

import logging
import os
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from replayring._background import FOREIGN
from replayring._batch import Batch
from replayring._blocks import block_of, in_blocks, tensors_in
from replayring._streams import BatchStream
from replayring_proto.errors import ClosedError, InvalidRequestError
from replayring_proto.pack import Memory, Pack

logger = logging.getLogger("replayring")

_told = threading.Event()

_WORTH_A_THREAD_BYTES = 1 << 20
"""Of a batch that is made when it is asked for: from here on, a thread of its own makes it."""


class Event(Protocol):
    """When a copy has ended."""

    def query(self) -> bool:
        """Returns whether it has."""

    def synchronize(self) -> None:
        """Waits until it has."""


class Link(ABC):
    """The way from this process's memory to one device."""

    @abstractmethod
    def allocate(self, nbytes: int) -> Tensor:
        """Returns host memory to copy from: uint8, of shape (nbytes,). Called by any thread."""

    @abstractmethod
    def send(self, block: Tensor) -> tuple[Tensor, Event]:
        """Begins to copy it; returns the memory on the device, and when all of it is there."""

    @abstractmethod
    def receive(self, block: Tensor, event: Event) -> None:
        """Has what the calling thread does next on the device wait for the copy."""


class _Done:
    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass


class CpuLink(Link):
    """No way at all: batches are where they are wanted."""

    def allocate(self, nbytes: int) -> Tensor:
        return _ordinary(nbytes)

    def send(self, block: Tensor) -> tuple[Tensor, Event]:
        return block, _Done()

    def receive(self, block: Tensor, event: Event) -> None:
        pass


class CudaLink(Link):
    """Copies to a CUDA device, on a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self._cuda: Any = torch.cuda  # which is not typed throughout
        self._stream = self._cuda.Stream(device)
        # With a number: which device is the current one differs between threads.
        self._device: torch.device = self._stream.device

    def allocate(self, nbytes: int) -> Tensor:
        with self._cuda.device(self._device):  # or it makes itself at home on device 0 as well
            return page_locked(nbytes)

    def send(self, block: Tensor) -> tuple[Tensor, Event]:
        with self._cuda.stream(self._stream):
            copy = block.to(self._device, non_blocking=True)
            # Blocking: to wait for it takes no processor from the learner.
            event: Event = self._cuda.Event(blocking=True)
            self._stream.record_event(event)
        return copy, event

    def receive(self, block: Tensor, event: Any) -> None:
        stream = self._cuda.current_stream(self._device)
        stream.wait_event(event)
        # The block was allocated for our stream; its memory must not go back there before what the
        # learner has enqueued is done with it.
        block.record_stream(stream)


def page_locked(nbytes: int) -> Tensor:
    """Returns memory that a GPU copies from by itself: uint8, of shape (nbytes,).

    Where the system locks no more of it, the log says so once, and ordinary memory has to do.
    """
    try:
        return torch.empty(nbytes, dtype=torch.uint8, device="cpu", pin_memory=True)
    except RuntimeError as error:
        if not _told.is_set():
            _told.set()
            logger.warning(
                "%s bytes could not be page-locked, so copies from there are slower and the "
                "learner waits for them; where memory is short, lower in_flight or batch_size: %s",
                f"{nbytes:,}",
                error,
            )
        return _ordinary(nbytes)


def _ordinary(nbytes: int) -> Tensor:
    # By name: threads have default devices, which may be any.
    return torch.empty(nbytes, dtype=torch.uint8, device="cpu")


def as_device(device: str | int | torch.device) -> torch.device:
    """Returns a device that batches can be brought to.

    Raises:
        InvalidRequestError: torch knows or finds no such device, or it is neither CPU nor CUDA.
    """
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError):
        raise InvalidRequestError(
            f"device is {device!r}, which torch does not know; give 'cpu', 'cuda' or 'cuda:1'"
        ) from None
    if wanted.type not in ("cpu", "cuda"):
        raise InvalidRequestError(
            f"device is {device!r}, and batches are brought to CPU or CUDA devices; leave it out, "
            f"and move them yourself, with tensor.to({device!r})"
        )
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted.type == "cuda" and (wanted.index or 0) >= found:
        raise InvalidRequestError(
            f"device is {device!r}, but torch {torch.__version__} (built for CUDA: "
            f"{torch.version.cuda or 'no'}) finds {found} CUDA devices; see `nvidia-smi` and "
            "https://pytorch.org/get-started, or give device='cpu'"
        )
    return wanted


class _Staged(NamedTuple):
    """A batch on its way to the device, or there."""

    batch: Batch
    block: Tensor
    event: Event


_Outcome: TypeAlias = "_Staged | Exception | None"


class Staging:
    """Batches of a stream on a device, the next one brought there ahead.

    Thread-safe. Belongs to the process that made it. Whoever made it closes it.
    """

    def __init__(self, stream: BatchStream, link: Link) -> None:
        """Takes over a stream.

        Args:
            stream: where batches come from; what it puts them in is `in_blocks(link.allocate)`.
            link: the way to the device.
        """
        self._stream = stream
        self._link = link
        self._process = os.getpid()
        # To close it may be the garbage collector's deed, or a signal handler's, in the thread that
        # has the lock.
        self._lock = threading.RLock()
        self._ahead: _Outcome | Future[_Outcome] = None
        self._preparing = False
        self._closed = False
        # The last pack that was sent, as long as there are batches in it that are not staged.
        self._last: tuple[Pack, Tensor, Event] | None = None
        # Packs are kept until they are copied: torch would use their memory again.
        self._under_way: deque[tuple[Pack, Event]] = deque()
        self._aside: ThreadPoolExecutor | None = None

    def take(self) -> tuple[dict[str, Tensor], int | None]:
        """Returns the next batch, for the calling thread's current stream, and its `next_index`.

        Raises:
            ClosedError: this was closed, or belongs to another process.
            DeadlineError, ServerUnavailableError: nothing came in time. Try again.
            Exception: what else the stream, or the device, raised.
        """
        if os.getpid() != self._process:
            raise ClosedError(FOREIGN.format("iteration"))
        outcome = self._take_ahead()
        if outcome is None:
            outcome = self._stage(self._stream._draw())
        self._prepare(outcome)
        if isinstance(outcome, Exception):
            try:
                raise outcome
            finally:
                del outcome  # or this frame and the error, which has it, would keep each other
        self._link.receive(outcome.block, outcome.event)
        return tensors_in(outcome.block, outcome.batch), outcome.batch.next_index

    def close(self) -> None:
        """Ends it; who waits gets `ClosedError`. Callable from any thread, and again."""
        if os.getpid() != self._process:
            return
        self._closed = True
        self._stream.close()
        with self._lock:
            self._ahead = self._last = None
            under_way, self._under_way = self._under_way, deque()
            aside, self._aside = self._aside, None
        if aside is not None:
            aside.shutdown(wait=False)  # what it is still to do, the closed stream ends
        for _, event in under_way:
            with suppress(RuntimeError):  # of a device that has failed, as the learner knows
                event.synchronize()

    def _take_ahead(self) -> _Outcome:
        with self._lock:
            self._check_open()
            ahead, self._ahead = self._ahead, None
        return ahead.result() if isinstance(ahead, Future) else ahead

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("this iteration was closed")

    def _prepare(self, last: _Staged | Exception) -> None:
        """Stages the batch after the last one, unless that is being done."""
        with self._lock:
            self._check_open()
            if self._ahead is not None or self._preparing:
                return
            if self._is_work(last):
                if self._aside is None:
                    self._aside = ThreadPoolExecutor(1, "replayring staging")
                self._ahead = self._aside.submit(self._next)
                return
            self._preparing = True
        outcome: _Outcome = None
        try:
            outcome = self._next()
        finally:  # Ctrl-C may end it
            with self._lock:
                self._preparing = False
                if not self._closed:
                    self._ahead = outcome

    def _is_work(self, last: _Staged | Exception) -> bool:
        """Whether a batch like the last one takes longer to make than another thread costs."""
        made_here = not self._stream._in_background
        return (
            made_here
            and isinstance(last, _Staged)
            and last.batch.pack.layout.nbytes >= _WORTH_A_THREAD_BYTES
        )

    def _next(self) -> _Outcome:
        """Stages the next batch, if it is there; what goes wrong is told in its place."""
        try:
            batch = self._stream._poll()
            return None if batch is None else self._stage(batch)
        except Exception as error:
            return _without_frames(error)

    def _stage(self, batch: Batch) -> _Staged:
        with self._lock:
            last = self._last
            if last is None or last[0] is not batch.pack:
                last = (batch.pack, *self._send(batch))
            self._last = None if batch.part == batch.parts - 1 else last
            return _Staged(batch, last[1], last[2])

    def _send(self, batch: Batch) -> tuple[Tensor, Event]:
        under_way = self._under_way  # which closing replaces
        while under_way and under_way[0][1].query():
            under_way.popleft()
        block, event = self._link.send(block_of(batch))
        under_way.append((batch.pack, event))
        return block, event


def _without_frames(error: Exception) -> Exception:
    """Returns an error that can be kept: its frames would keep those of the learner, and these all.

    What they hold could never be let go of, and so the iteration never closed by that.
    """
    found: BaseException | None = error
    while found is not None:
        found.__traceback__ = None
        found = found.__cause__ or found.__context__
    return error


def staging_on(device: torch.device, stream: Callable[[Memory], BatchStream]) -> Staging:
    """Returns batches of a stream on a device.

    Args:
        device: one that `as_device` returned.
        stream: makes the stream, given the memory that it is to put batches in.
    """
    link = CpuLink() if device.type == "cpu" else CudaLink(device)
    return Staging(stream(in_blocks(link.allocate)), link)
