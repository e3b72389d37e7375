"""Batches on their way from a DataLoader's worker to the process that started it.

torch sends each tensor through shared memory of its own: a file that is made, filled page by new
page, passed through a socket, mapped and thrown away. That takes longer than sampling. Here a whole
batch goes through one slab of shared memory, which the worker uses again once the receiver has let
go of the batch.

Theory of operation. A slab belongs to the worker that made it and has a head of three words: its
number, the ticket of the batch in it, and whether its receiver has ever been seen. What is pickled
is where the slab is, the ticket, and where in it the tensors lie. The receiver maps it through
/proc/PID/fd, makes tensors that are views of it, and puts 0 in the ticket's place when the last of
them is gone; from then on the worker may write over it. A batch that was held while its receiver
forked is never given back, since the child may be looking at it: its receiver calls it lost, and
the worker lets go of that slab and makes another. The memory stays for as long as the child has it.

Not everybody may look into /proc. So a worker's first batches travel torch's way, with an offer of
a slab; only when the offer was seen do others follow through slabs. Whatever does not fit (tensors
on a device, bfloat16, subclasses, batches beyond the slabs there may be) goes torch's way for good.
"""

from __future__ import annotations

import mmap
import os
import secrets
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from replayring_proto.errors import ReplayRingError
from replayring_proto.machine import STORES_IN_ORDER
from replayring_proto.pack import ALIGNMENT, PackLayout, parse_header, tensor_specs

__all__ = ["WholeBatch", "hand_over"]

# Giving back rests on the order in which stores become visible, as the ring does.
_SUPPORTED = STORES_IN_ORDER and hasattr(os, "memfd_create")

# The words of a slab's head, and where its body begins.
_NUMBER, _TICKET, _SEEN = range(3)
_HEAD_BYTES = ALIGNMENT

# In a ticket's place: nobody looks at the slab; its receiver does no longer, a fork of it might.
_FREE, _LOST = 0, -1

# More batches than these are on their way only where the receiver collects them.
_MAX_SLABS = 32

# Mappings that are kept, since making one again costs as much as copying the batch.
_KEPT_BYTES = 64 << 20

Form: TypeAlias = "tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]"
Words: TypeAlias = npt.NDArray[np.int64]
Place: TypeAlias = "tuple[int, int, int]"  # process, descriptor, number
Reduced: TypeAlias = "tuple[Callable[..., dict[str, Tensor]], tuple[Any, ...]]"


class WholeBatch(dict[str, Tensor]):
    """A batch in a DataLoader's worker; multiprocessing's pickler hands it over in a slab."""


def hand_over(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the batch; in a DataLoader's worker, as one that travels fast."""
    return WholeBatch(batch) if _SUPPORTED and get_worker_info() is not None else batch


# The worker's side


class _Slab:
    """Shared memory for one batch at a time. Freed with the object, and when the process ends."""

    def __init__(self, nbytes: int) -> None:
        self._fd = os.memfd_create("replayring batch")
        weakref.finalize(self, os.close, self._fd)
        size = -(-(_HEAD_BYTES + nbytes) // mmap.PAGESIZE) * mmap.PAGESIZE
        os.posix_fallocate(self._fd, 0, size)  # or lack of memory would be SIGBUS later
        self.words, self.body = _parts(mmap.mmap(self._fd, size))
        self.words[_NUMBER] = secrets.randbits(63)

    @property
    def place(self) -> Place:
        return os.getpid(), self._fd, int(self.words[_NUMBER])


class _Slabs:
    """The slabs of one process. Thread-safe."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._all: list[_Slab] = []
        self._tickets = 0
        self._seen = False

    def reduce(self, batch: WholeBatch) -> Reduced:
        """Returns how to make the batch again in another process. Never raises, as queues hang."""
        if self._process != os.getpid():
            self._start()  # in a fork: what was here is the parent's
        arrays = _arrays(batch)
        layout = None if arrays is None else _layout_of(arrays)
        if arrays is None or layout is None:
            return dict, (dict(batch),)
        with self._lock:
            slab = self._free_slab(layout.nbytes)
            if slab is None:
                return dict, (dict(batch),)
            if not self._seen:
                return _receive_offer, (dict(batch), *slab.place)
            self._tickets += 1
            ticket = slab.words[_TICKET] = self._tickets
        for name, view in layout.views(slab.body).items():
            np.copyto(view, arrays[name])
        return _receive, (*slab.place, ticket, layout.header())

    def _free_slab(self, nbytes: int) -> _Slab | None:
        """Returns a slab that nobody looks at, or None if there may be no more."""
        self._look_at_heads()
        free = [slab for slab in self._all if slab.words[_TICKET] == _FREE]
        for slab in free:
            if len(slab.body) >= nbytes:
                return slab
        if not free and len(self._all) >= _MAX_SLABS:
            return None
        try:
            slab = _Slab(nbytes)
        except OSError:  # no descriptors, or no memory
            return None
        if free:  # batches have grown
            self._all.remove(free[0])
        self._all.append(slab)
        return slab

    def _look_at_heads(self) -> None:
        """Takes notice of what receivers wrote: whether they see slabs, and which ones are lost."""
        self._seen = self._seen or any(slab.words[_SEEN] for slab in self._all)
        self._all = [slab for slab in self._all if slab.words[_TICKET] != _LOST]


def _arrays(batch: WholeBatch) -> dict[str, npt.NDArray[Any]] | None:
    """Returns the tensors as arrays, or None where one cannot be seen as such."""
    if any(type(tensor) is not Tensor for tensor in batch.values()):
        return None  # a subclass, such as torchvision's, which an array would not bring back
    try:
        return {name: tensor.numpy() for name, tensor in batch.items()}
    except (RuntimeError, TypeError):  # with gradients; of another kind
        return None


def _layout_of(arrays: dict[str, npt.NDArray[Any]]) -> PackLayout | None:
    return _layout(tuple((name, array.dtype, array.shape) for name, array in arrays.items()))


@lru_cache(maxsize=64)
def _layout(form: Form) -> PackLayout | None:
    """Returns where the arrays lie in a slab, or None where a pack cannot describe them."""
    try:
        return parse_header(tensor_specs(form).header())
    except (ReplayRingError, TypeError, ValueError):
        return None


_SLABS = _Slabs()

ForkingPickler.register(WholeBatch, _SLABS.reduce)


# The receiver's side


class _Mappings:
    """Slabs of other processes, mapped. Thread-safe.

    The newest are kept while nobody looks at them, also lost ones and those of workers that have
    ended, up to a number of bytes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, mmap.mmap] = OrderedDict()

    def of(self, process: int, descriptor: int, number: int) -> mmap.mmap:
        """Returns a slab's mapping.

        Raises:
            OSError: it is out of reach.
        """
        with self._lock:
            mapping = self._kept.pop(number, None)
            if mapping is None:
                mapping = _map(process, descriptor, number)
            self._kept[number] = mapping
            while sum(map(len, self._kept.values())) > _KEPT_BYTES:
                self._kept.popitem(last=False)
            return mapping


def _map(process: int, descriptor: int, number: int) -> mmap.mmap:
    fd = os.open(f"/proc/{process}/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)
    try:
        mapping = mmap.mmap(fd, 0)
    finally:
        os.close(fd)
    if _parts(mapping)[0][_NUMBER] != number:
        raise FileNotFoundError(f"process {process} has ended, and with it the batch it sent")
    return mapping


_MAPPINGS = _Mappings()


def _receive_offer(batch: dict[str, Tensor], *place: int) -> dict[str, Tensor]:
    """Unpickles a batch that came torch's way, and says so if the slab is within reach."""
    try:
        words, _ = _parts(_MAPPINGS.of(*place))
    except (OSError, ValueError):
        return batch
    words[_SEEN] = 1
    return batch


def _receive(
    process: int, descriptor: int, number: int, ticket: int, header: bytes
) -> dict[str, Tensor]:
    """Unpickles a batch that lies in a slab."""
    words, body = _parts(_MAPPINGS.of(process, descriptor, number))
    if words[_TICKET] != ticket:
        raise RuntimeError("a batch was unpickled again after it had been given back")
    weakref.finalize(body, _give_back, words, os.getpid(), _forks).atexit = False
    # All arrays keep `body` alive itself, since numpy looks no further where a base is no array.
    arrays = parse_header(header).views(body)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _give_back(words: Words, receiver: int, forks: int) -> None:
    if receiver == os.getpid():  # a child's copy says nothing of what its parent still holds
        words[_TICKET] = _FREE if forks == _forks else _LOST


def _parts(mapping: mmap.mmap) -> tuple[Words, npt.NDArray[np.uint8]]:
    """Returns a slab's head and body; neither is a view of the other."""
    words = np.frombuffer(mapping, np.int64, _HEAD_BYTES // 8)
    return words, np.frombuffer(mapping, np.uint8, offset=_HEAD_BYTES)


_forks = 0


def _count_fork() -> None:
    global _forks
    _forks += 1


def _forget() -> None:
    global _MAPPINGS
    _MAPPINGS = _Mappings()
    _count_fork()


# On both sides, so that what was received meanwhile by another thread is not given back either.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_count_fork, after_in_parent=_count_fork, after_in_child=_forget)
