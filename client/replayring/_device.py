"""The way from memory to a device: what has to be allocated where, and what waits for what.

What differs between devices is behind `Link`. CUDA's copies run by themselves, on a stream of their
own, from page-locked memory; the CPU needs none.

Memory on a GPU belongs to the stream it was allocated for, and goes back to it when the last tensor
there is let go: what that stream does next may use it at once. So a batch's memory is the learner's
stream's, and its copy waits for what that stream was told before, as the memory may be in use until
then. The other way about, with memory of the copies' own stream (what `Tensor.record_stream` is
for), torch would ask the device at each of the learner's allocations whether batches let go before
may be overwritten, for as long as the learner is ahead of its device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from replayring._page_locked import Reserve, ordinary
from replayring_proto.errors import InvalidRequestError


class Event(Protocol):
    """When a copy has ended."""

    def query(self) -> bool:
        """Returns whether it has."""

    def synchronize(self) -> None:
        """Waits until it has."""


class Sent(NamedTuple):
    """What was sent to a device.

    To be kept until the event: memory there may be used again as soon as it is let go, also by a
    learner who never received it.

    Attributes:
        block: memory there.
        event: when all of it is there.
        stream: whose memory it is, if devices of its kind have streams.
    """

    block: Tensor
    event: Event
    stream: Any = None


class Link(ABC):
    """The way from this process's memory to one device."""

    @abstractmethod
    def allocate(self, nbytes: int) -> Tensor:
        """Returns host memory to copy from: uint8, of shape (nbytes,). Called by any thread."""

    @abstractmethod
    def send(self, block: Tensor) -> Sent:
        """Begins to copy it, for what the calling thread does on the device later."""

    @abstractmethod
    def receive(self, sent: Sent) -> None:
        """Has what the calling thread does next on the device wait for the copy."""


class _Done:
    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass


class CpuLink(Link):
    """No way at all: batches are where they are wanted."""

    def allocate(self, nbytes: int) -> Tensor:
        return ordinary(nbytes)

    def send(self, block: Tensor) -> Sent:
        return Sent(block, _Done())

    def receive(self, sent: Sent) -> None:
        pass


class CudaLink(Link):
    """Copies to a CUDA device, on a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self._cuda: Any = torch.cuda  # which is not typed throughout
        self._stream = self._cuda.Stream(device)
        # With a number: which device is the current one differs between threads.
        self._device: torch.device = self._stream.device
        self._reserve = Reserve()

    def allocate(self, nbytes: int) -> Tensor:
        return self._reserve.take(nbytes)

    def send(self, block: Tensor) -> Sent:
        learner = self._cuda.current_stream(self._device)
        copy = torch.empty_like(block, device=self._device)
        try:
            self._stream.wait_stream(learner)
            with self._cuda.stream(self._stream):  # and on its device, not on device 0 as well
                copy.copy_(block, non_blocking=True)
                # Blocking: to wait for it takes no processor from the learner.
                event: Event = self._cuda.Event(blocking=True)
                self._stream.record_event(event)
                self._reserve.fill()
        except BaseException:  # Ctrl-C, say, with the copy begun
            self._stream.synchronize()
            raise
        return Sent(copy, event, learner)

    def receive(self, sent: Sent) -> None:
        stream = self._cuda.current_stream(self._device)
        stream.wait_event(sent.event)
        if stream != sent.stream:
            sent.block.record_stream(stream)


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
