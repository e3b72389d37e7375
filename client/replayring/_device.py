"""How batches get to a device while the learner computes on those before.

Knows memory, copies and what has to wait for what; nothing of buffers or networks. `Staging` is a
thread that takes batches from a source, gathers each into one block of host memory and has it
copied to the device as a whole: one copy per batch, however many columns, and views of the block
there. The blocks of host memory are few and used in turn, each again only when its last copy has
ended. What differs between devices is behind `Link`: CUDA's copies run by themselves, on a stream
of their own, from page-locked memory; the CPU's are done when they are asked for.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from replayring._background import FOREIGN, Guard
from replayring._blocks import Arrays, block_bytes, fill, layout_of, tensors_in
from replayring_proto.errors import (
    ClosedError,
    DeadlineError,
    InvalidRequestError,
    ServerUnavailableError,
)

_JOIN_SECONDS = 1.0

# While one is being filled, the other is being copied.
_STAGING_BUFFERS = 2


class Event(Protocol):
    """When a copy has ended."""

    def synchronize(self) -> None:
        """Waits until it has."""


class Link(ABC):
    """The way from this process's memory to one device. Used by one thread but for `receive`."""

    @abstractmethod
    def stage(self, nbytes: int) -> Tensor:
        """Returns host memory to copy from: uint8, of shape (nbytes,)."""

    @abstractmethod
    def send(self, staged: Tensor) -> tuple[Tensor, Event]:
        """Begins to copy it; returns the memory on the device, and when all of it is there."""

    @abstractmethod
    def receive(self, block: Tensor, event: Event) -> None:
        """Has what the calling thread does next on the device wait for the copy."""


class _Done:
    def synchronize(self) -> None:
        pass


class CpuLink(Link):
    """Copies to memory of this process, at once."""

    def stage(self, nbytes: int) -> Tensor:
        return torch.empty(nbytes, dtype=torch.uint8)

    def send(self, staged: Tensor) -> tuple[Tensor, Event]:
        return staged.clone(), _Done()

    def receive(self, block: Tensor, event: Event) -> None:
        pass


class CudaLink(Link):
    """Copies to a CUDA device, on a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self._cuda: Any = torch.cuda  # which is not typed throughout
        self._stream = self._cuda.Stream(device)
        # With a number: which device is the current one differs between threads.
        self._device: torch.device = self._stream.device

    def stage(self, nbytes: int) -> Tensor:
        with self._cuda.device(self._device):  # or it makes itself at home on device 0 as well
            return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    def send(self, staged: Tensor) -> tuple[Tensor, Event]:
        with self._cuda.stream(self._stream):
            block = staged.to(self._device, non_blocking=True)
            # Blocking: to wait for it takes no processor from the learner.
            event: Event = self._cuda.Event(blocking=True)
            self._stream.record_event(event)
        return block, event

    def receive(self, block: Tensor, event: Any) -> None:
        stream = self._cuda.current_stream(self._device)
        stream.wait_event(event)
        # The block was allocated for our stream; its memory must not go back there before what the
        # learner has enqueued is done with it.
        block.record_stream(stream)


def link_to(device: torch.device) -> Link:
    """Returns the link to a device that `as_device` returned."""
    return CpuLink() if device.type == "cpu" else CudaLink(device)


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


@dataclass(frozen=True)
class _Staged:
    """A batch on its way to the device, and how fresh it is."""

    tensors: dict[str, Tensor]
    block: Tensor
    event: Event
    next_index: int | None


class Staging:
    """Batches on a device, brought there ahead by one thread.

    `depth` batches are ready or under way, no more. Errors come when their batch would have, and
    the thread carries on, as the source does; but that nothing came in time is told only to who
    waited for all that time.

    Thread-safe. Belongs to the process that made it. Whoever made it closes it.
    """

    def __init__(
        self,
        source: Callable[[], tuple[Arrays, int | None]],
        close_source: Callable[[], None],
        link: Link,
        *,
        depth: int,
        timeout: float,
    ) -> None:
        """Starts the thread.

        Args:
            source: returns the next batch and its `next_index`; called by the thread only.
            close_source: has `source` raise `ClosedError`, if it waits.
            link: the way to the device.
            depth: batches to have ready.
            timeout: seconds to wait for a batch, as `source` does.
        """
        self._source = source
        self._close_source = close_source
        self._link = link
        self._depth = depth
        self._timeout = min(timeout, threading.TIMEOUT_MAX)
        self._process = os.getpid()
        # To close it may be the garbage collector's deed, in the thread that has the lock.
        guard = Guard()
        self._lock, self._changed = guard.lock, guard.changed
        self._ready: deque[_Staged | Exception] = deque()
        self._trouble: Exception | None = None
        self._closed = False
        # Host memory in turn, each with the last copy out of it.
        self._buffers: deque[tuple[Tensor, Event]] = deque()
        self._thread = threading.Thread(target=self._run, name="replayring staging", daemon=True)
        self._thread.start()

    def take(self) -> tuple[dict[str, Tensor], int | None]:
        """Returns the next batch, for the calling thread's current stream, and its `next_index`.

        Raises:
            ClosedError: this was closed, or belongs to another process.
            DeadlineError, ServerUnavailableError: nothing came in time. Try again.
            Exception: what else the source, or the device, raised.
        """
        if os.getpid() != self._process:
            raise ClosedError(FOREIGN.format("iteration"))
        with self._lock:
            self._changed.wait_for(lambda: self._ready or self._closed, self._timeout)
            # The source has waited at least as long and knows, or will soon know, what for.
            self._changed.wait_for(lambda: self._ready or self._closed or self._trouble)
            if self._closed:
                raise ClosedError("this iteration was closed")
            outcome = self._ready.popleft() if self._ready else self._trouble
            self._changed.notify_all()
        if not isinstance(outcome, _Staged):
            assert outcome is not None
            raise outcome
        self._link.receive(outcome.block, outcome.event)
        return outcome.tensors, outcome.next_index

    def close(self) -> None:
        """Ends the thread; who waits gets `ClosedError`. Callable from any thread, and again."""
        if os.getpid() != self._process:
            return
        with self._lock:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()
        self._close_source()
        if self._thread is not threading.current_thread():
            self._thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        try:
            while self._await_room():
                self._bring_one()
        finally:  # after a defect too, so that nobody waits for a thread that is gone
            with self._lock:
                self._closed = True
                self._changed.notify_all()

    def _bring_one(self) -> None:
        trouble: Exception | None = None
        outcome: _Staged | Exception | None = None
        try:
            outcome = self._stage(*self._source())
        except (DeadlineError, ServerUnavailableError) as error:
            trouble = error
        except Exception as error:
            outcome = error
        with self._lock:
            self._trouble = trouble
            if outcome is not None and not self._closed:
                self._ready.append(outcome)
            self._changed.notify_all()

    def _await_room(self) -> bool:
        with self._lock:
            self._changed.wait_for(lambda: self._closed or len(self._ready) < self._depth)
            return not self._closed

    def _stage(self, arrays: Arrays, next_index: int | None) -> _Staged:
        layout = layout_of(arrays)
        nbytes = block_bytes(layout)
        staged = self._free_buffer(nbytes)
        fill(layout, arrays, staged.numpy())
        block, event = self._link.send(staged[:nbytes])
        self._buffers.append((staged, event))
        return _Staged(tensors_in(layout, block), block, event, next_index)

    def _free_buffer(self, nbytes: int) -> Tensor:
        """Returns host memory that nothing is being copied from any more."""
        if len(self._buffers) < _STAGING_BUFFERS:
            return self._link.stage(nbytes)
        staged, event = self._buffers.popleft()
        event.synchronize()
        return staged if len(staged) >= nbytes else self._link.stage(nbytes)
