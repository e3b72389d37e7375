"""A batch as it came: one of the equal parts of a pack, in memory that the caller may have made."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from replayring._replies import Arrays
from replayring_proto.errors import InvalidRequestError, MalformedMessageError
from replayring_proto.pack import ALIGNMENT, Bytes, Memory, Pack, PackLayout, aligned_empty

Array: TypeAlias = "npt.NDArray[Any]"


class Batch(NamedTuple):
    """A batch that lies in a pack, which may hold others too.

    Attributes:
        pack: what came.
        next_index: frames ever added to the buffer when it was drawn; None if nobody knows.
        part: which of the pack's parts it is.
        parts: how many those are, cut along the first axis.
    """

    pack: Pack
    next_index: int | None
    part: int = 0
    parts: int = 1

    @property
    def arrays(self) -> Arrays:
        """Its arrays: views of the pack."""
        if self.parts == 1:
            return self.pack.arrays
        return {key: self._of(array) for key, array in self.pack.arrays.items()}

    def _of(self, array: Array) -> Array:
        size = len(array) // self.parts
        return array[self.part * size : (self.part + 1) * size]


class MemoryFailedError(InvalidRequestError):
    """Memory failed, or is not as it should be; the next time it may be."""


def checked(memory: Memory) -> Memory:
    """Returns memory that fails with an error saying so: `MemoryFailedError`.

    Raises:
        InvalidRequestError: it cannot be called.
    """
    if not callable(memory):
        raise InvalidRequestError(
            f"memory is {memory!r:.60}; give a function that takes a number of bytes and returns "
            "as many, as an array of uint8"
        )

    def made(nbytes: int) -> Bytes:
        try:
            body = memory(nbytes)
        except Exception as error:
            raise MemoryFailedError(
                f"memory={memory!r:.60} was asked for {nbytes:,} bytes and raised {error!r}"
            ) from error
        if not (
            isinstance(body, np.ndarray)
            and body.dtype == np.uint8
            and body.shape == (nbytes,)
            and body.flags.c_contiguous
            and body.flags.writeable
            and not body.ctypes.data % ALIGNMENT
        ):
            raise MemoryFailedError(
                f"memory={memory!r:.60} was asked for {nbytes:,} bytes and returned {_told(body)}; "
                f"it must return a writable array of uint8 and shape ({nbytes},) that begins at a "
                f"multiple of {ALIGNMENT}"
            )
        return body

    return _ordinary if memory is aligned_empty else made


def _ordinary(nbytes: int) -> Bytes:
    try:
        return aligned_empty(nbytes)
    except MemoryError as error:
        raise MemoryFailedError(
            f"there is no memory for {nbytes:,} bytes of batches ({error}); lower batch_size or "
            "in_flight"
        ) from None


def _told(body: Any) -> str:
    if not isinstance(body, np.ndarray):
        return f"{body!r:.60}"
    return (
        f"one of {body.dtype} and shape {body.shape}, "
        f"{'' if body.flags.c_contiguous else 'not '}contiguous, "
        f"{'' if body.flags.writeable else 'not '}writable, at {body.ctypes.data:#x}"
    )


def batches_in(pack: Pack, parts: int, next_index: int) -> list[Batch]:
    """Returns the batches that a pack holds.

    Raises:
        MalformedMessageError: it cannot be cut into so many.
    """
    if parts > 1 and not _can_be_cut(pack.layout, parts):
        raise MalformedMessageError(f"a reply of {parts} batches cannot be cut into as many")
    return [Batch(pack, next_index, part, parts) for part in range(parts)]


def _can_be_cut(layout: PackLayout, parts: int) -> bool:
    lengths = {tensor.shape[:1] for tensor in layout.tensors}
    return len(lengths) == 1 and all(shape and not shape[0] % parts for shape in lengths)
