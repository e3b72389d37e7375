"""All tensors of a batch in one block of memory: where each lies, and what it looks like there.

A pack's body can lie in a block that torch has allocated. Then its arrays are tensors as well, and
one copy of the block brings all of them to a device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from replayring._batch import Batch
from replayring_proto.pack import ALIGNMENT, Bytes, Memory, PackLayout

_Place: TypeAlias = "tuple[str, torch.dtype, tuple[int, ...], tuple[int, ...], int, int]"


def in_blocks(allocate: Callable[[int], Tensor]) -> Memory:
    """Returns memory for packs that torch allocates, from which `block_of` finds back.

    Args:
        allocate: returns so many bytes, as uint8, that begin at a multiple of 64, as all that torch
            allocates does.
    """

    def memory(nbytes: int) -> Bytes:
        # It ends so that it can be seen as any dtype.
        block: Bytes = allocate(-(-nbytes // ALIGNMENT) * ALIGNMENT).numpy()
        return block[:nbytes]

    return memory


def block_of(batch: Batch) -> Tensor:
    """Returns the block, of uint8, in which a batch's pack lies, by way of `in_blocks`."""
    whole: Any = batch.pack.body.base  # the array of all of it, whose memory is its tensor's
    block: Tensor = whole.base
    return block


def tensors_in(block: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Returns a batch's tensors, in its block or in a copy of that on any device: views of it."""
    seen: dict[torch.dtype, Tensor] = {}
    tensors = {}
    for name, dtype, shape, strides, start, size in _places(batch.pack.layout, batch.parts):
        if dtype not in seen:
            seen[dtype] = block.view(dtype)
        tensors[name] = seen[dtype].as_strided(shape, strides, start + batch.part * size)
    return tensors


# Of each iteration's packs nearly all have one layout, which whoever parses headers keeps for it;
# but those of thousands of columns are new ones each time, and large.
@lru_cache(maxsize=8)
def _places(layout: PackLayout, parts: int) -> list[_Place]:
    """For each tensor its name, dtype, and as of a part: shape, strides, first beginning, size."""
    places = []
    for tensor, start in zip(layout.tensors, layout.offsets, strict=True):
        dtype = torch.from_numpy(np.empty(0, tensor.dtype)).dtype
        shape = tensor.shape
        if parts > 1:
            shape = (shape[0] // parts, *shape[1:])
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        first = start // tensor.dtype.itemsize
        places.append((tensor.name, dtype, shape, strides, first, math.prod(shape)))
    return places
