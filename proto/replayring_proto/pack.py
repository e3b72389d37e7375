"""The pack codec: how named arrays become one run of bytes, and back.

A pack's body holds its tensors one after another, each at the next multiple of 64 bytes, so that
every array made of it is aligned and nothing is copied to make it. Owns the body's layout and
memory; headers as protobuf messages are handled here too, framing of messages in `framing`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from replayring_proto import limits
from replayring_proto.errors import InvalidRequestError, MalformedMessageError
from replayring_proto.limits import check_limit
from replayring_proto.spec import DTYPES
from replayring_proto.v1 import pack_pb2

ALIGNMENT = 64

# Streams repeat one header for every batch, and to parse it takes longer than all else about one.
# So the last ones are kept parsed: many small ones, and no more bytes of large ones.
_SMALL_HEADER_BYTES, _SMALL_HEADERS = 4 << 10, 64
_LARGE_HEADER_BYTES, _LARGE_HEADERS = 64 << 10, 4

Bytes = npt.NDArray[np.uint8]

Memory: TypeAlias = Callable[[int], Bytes]
"""Returns so many uninitialised bytes, beginning at a multiple of 64."""

_ZEROES = memoryview(bytes(ALIGNMENT))


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of one tensor of a pack."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size in bytes, as a Python integer: it cannot wrap, whatever the shape says."""
        return self.dtype.itemsize * math.prod(self.shape)


class PackLayout:
    """Where each tensor lies in a pack's body. Immutable, and shared between packs of one form.

    Attributes:
        tensors: the tensors, in order.
        offsets: where each begins, in bytes.
        nbytes: length of the body.
        tensor_bytes: what the tensors take of it.
        bools: names of the bool tensors.
    """

    __slots__ = (
        "_gaps",
        "_header",
        "_places",
        "bools",
        "nbytes",
        "offsets",
        "tensor_bytes",
        "tensors",
    )

    def __init__(self, tensors: Iterable[TensorSpec]) -> None:
        self.tensors = tuple(tensors)
        offsets, gaps, end = [], [], 0
        for tensor in self.tensors:
            start = -(-end // ALIGNMENT) * ALIGNMENT
            offsets.append(start)
            if end < start:
                gaps.append(slice(end, start))
            end = start + tensor.nbytes
        self.offsets = tuple(offsets)
        self.nbytes = end
        self.tensor_bytes = sum(tensor.nbytes for tensor in self.tensors)
        self.bools = tuple(t.name for t in self.tensors if t.dtype.kind == "b")
        # Packs of one form are made thousands of times a second: what they share is kept ready.
        self._gaps = tuple(gaps)
        self._places = tuple(
            (tensor.name, tensor.shape, tensor.dtype, start)
            for tensor, start in zip(self.tensors, offsets, strict=True)
        )
        self._header: bytes | None = None

    def header(self) -> bytes:
        """Returns the encoded `PackHeader`, made once."""
        if self._header is None:
            self._header = pack_pb2.PackHeader(
                tensors=[
                    pack_pb2.Tensor(name=t.name, dtype=t.dtype.name, shape=t.shape)
                    for t in self.tensors
                ]
            ).SerializeToString()
        return self._header

    def check_filled(self, nbytes: int) -> None:
        """Checks that no more bytes of the body came than there are.

        Raises:
            MalformedMessageError: more did.
        """
        if nbytes > self.nbytes:
            raise MalformedMessageError(
                f"a pack's body has {self.nbytes:,} bytes by its header, but {nbytes:,} came; send "
                "exactly what the header announces"
            )

    def check_bools(self, arrays: Mapping[str, Any]) -> None:
        """Checks that every byte of every bool tensor is 0 or 1, as numpy and torch rely on.

        Raises:
            MalformedMessageError: it is not.
        """
        for name in self.bools:
            array = arrays[name]
            if array.size and np.maximum.reduce(array.view(np.uint8), axis=None) > 1:
                raise MalformedMessageError(
                    f"bool tensor {name!r} holds bytes other than 0 and 1; send 0 or 1"
                )

    def views(self, body: Bytes) -> dict[str, npt.NDArray[Any]]:
        """Returns one array per tensor, each a view of `body`."""
        return {
            name: np.ndarray(shape, dtype, body, start)
            for name, shape, dtype, start in self._places
        }

    def runs(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Iterator[memoryview]:
        """Yields the body that `arrays` make, in runs: copies only of those not contiguous."""
        end = 0
        for name, _, _, start in self._places:
            if end < start:
                yield _ZEROES[: start - end]
            run = np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data
            yield run
            end = start + len(run)

    def clear_gaps(self, body: Bytes) -> None:
        """Zeroes the bytes between tensors, so that no stale memory leaves the process."""
        for gap in self._gaps:
            body[gap] = 0


def aligned_empty(nbytes: int) -> Bytes:
    """Returns uninitialised bytes beginning at a multiple of 64."""
    raw = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -raw.__array_interface__["data"][0] % ALIGNMENT
    return raw[start : start + nbytes]


class Pack:
    """A pack in memory: a layout, a body, and one array per tensor that views the body.

    Not thread-safe while it is being filled; immutable by convention afterwards.

    Attributes:
        layout: where the tensors lie.
        body: the bytes, beginning at a multiple of 64.
        arrays: one array per tensor, by name; writable and aligned.
    """

    __slots__ = ("arrays", "body", "layout")

    def __init__(self, layout: PackLayout, memory: Memory = aligned_empty) -> None:
        self.layout = layout
        self.body = memory(layout.nbytes)
        layout.clear_gaps(self.body)
        self.arrays = layout.views(self.body)

    @classmethod
    def of(cls, arrays: Mapping[str, npt.NDArray[Any]], memory: Memory = aligned_empty) -> Pack:
        """Returns a pack that holds copies of `arrays`.

        Raises:
            InvalidRequestError: a dtype is not on the allowlist.
        """
        pack = cls(layout_of(arrays), memory)
        for name, array in arrays.items():
            pack.arrays[name][...] = array
        return pack

    def pieces(self, size: int = limits.CHUNK_BYTES) -> Iterator[memoryview]:
        """Yields the body in pieces of at most `size` bytes; an empty body yields nothing."""
        view = self.body.data
        for start in range(0, len(view), size):
            yield view[start : start + size]


class PackAssembler:
    """Takes a pack's body piece by piece into memory reserved up front.

    Not thread-safe. Make one per pack; `add` until `complete`, then take `arrays`.

    Raises:
        MalformedMessageError: more bytes came than the header announced.
    """

    __slots__ = ("_filled", "pack")

    def __init__(self, layout: PackLayout, memory: Memory = aligned_empty) -> None:
        self.pack = Pack(layout, memory)
        self._filled = 0

    @property
    def complete(self) -> bool:
        """Whether the whole body is there."""
        return self._filled == self.pack.layout.nbytes

    def add(self, piece: bytes | memoryview) -> None:
        """Appends the next bytes of the body."""
        end = self._filled + len(piece)
        self.pack.layout.check_filled(end)
        self.pack.body[self._filled : end] = np.frombuffer(piece, np.uint8)
        self._filled = end


def parse_header(encoded: bytes) -> PackLayout:
    """Returns the layout that an encoded `PackHeader` describes.

    Sizes are computed, not allocated; callers compare `nbytes` with their limit before they make a
    `PackAssembler`.

    Raises:
        MalformedMessageError: the bytes do not parse, or break a rule written in pack.proto.
        LimitExceededError: the header is too long, or has too many tensors, axes, or characters in
            a name.
    """
    if len(encoded) <= _SMALL_HEADER_BYTES:
        return _parse_small(encoded)
    if len(encoded) <= _LARGE_HEADER_BYTES:
        return _parse_large(encoded)
    check_limit(
        len(encoded), limits.MAX_HEADER_BYTES, "bytes of a pack header", "send fewer tensors"
    )
    return _parse(encoded)


def _parse(encoded: bytes) -> PackLayout:
    try:
        message = pack_pb2.PackHeader.FromString(encoded)
    except DecodeError:
        raise MalformedMessageError("a PackHeader does not parse as protobuf") from None
    check_limit(len(message.tensors), limits.MAX_TENSORS, "tensors of a pack", "send fewer")
    layout = PackLayout(_parse_tensor(tensor) for tensor in message.tensors)
    if len({tensor.name for tensor in layout.tensors}) != len(layout.tensors):
        raise MalformedMessageError("a pack names a tensor twice; names must be unique")
    return layout


_parse_small = lru_cache(_SMALL_HEADERS)(_parse)
_parse_large = lru_cache(_LARGE_HEADERS)(_parse)


def tensor_specs(columns: Sequence[tuple[str, np.dtype[Any], tuple[int, ...]]]) -> PackLayout:
    """Returns the layout of tensors given as (name, dtype, shape)."""
    return PackLayout(TensorSpec(*column) for column in columns)


def layout_of(arrays: Mapping[str, npt.NDArray[Any]]) -> PackLayout:
    """Returns the layout of a pack of arrays; the same object for some of the same form.

    Raises:
        InvalidRequestError: a dtype is not on the allowlist.
    """
    return layout_for(tuple([(name, array.dtype, array.shape) for name, array in arrays.items()]))


@lru_cache(maxsize=64)
def layout_for(tensors: tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]) -> PackLayout:
    """Returns the layout of a pack of tensors given as (name, dtype, shape), as `layout_of` does.

    Raises:
        InvalidRequestError: a dtype is not on the allowlist.
    """
    # An actor's episodes often have one length, and asking numpy for a dtype's name takes long.
    return PackLayout(_tensor_of(*tensor) for tensor in tensors)


def _tensor_of(name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> TensorSpec:
    if not isinstance(name, str):
        raise InvalidRequestError(f"names must be strings, received {name!r:.60}")
    if dtype.name not in DTYPES:
        raise InvalidRequestError(
            f"{name!r} has dtype {dtype}, which cannot be sent; use one of {', '.join(DTYPES)}"
        )
    return TensorSpec(name, DTYPES[dtype.name], shape)


def _parse_tensor(message: pack_pb2.Tensor) -> TensorSpec:
    check_limit(
        len(message.name), limits.MAX_TENSOR_NAME, "characters of a tensor's name", "cut it"
    )
    check_limit(len(message.shape), limits.MAX_AXES, "axes of a tensor", "reshape it")
    dtype = DTYPES.get(message.dtype)
    if dtype is None:
        raise MalformedMessageError(
            f"tensor {message.name!r} has dtype {message.dtype[:40]!r}; use one of "
            f"{', '.join(DTYPES)}"
        )
    tensor = TensorSpec(message.name, dtype, tuple(message.shape))
    # An empty axis would hide an absurd one from the product, and numpy refuses the shape later.
    if dtype.itemsize * math.prod(axis or 1 for axis in tensor.shape) >= 1 << 62:
        raise MalformedMessageError(
            f"tensor {message.name!r} has shape {tensor.shape}: more than 2^62 bytes"
        )
    return tensor
