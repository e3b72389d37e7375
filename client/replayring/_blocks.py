"""All arrays of a batch in one block of memory: where each lies, and what it looks like there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from replayring_proto.pack import ALIGNMENT, PackLayout, tensor_specs

Arrays: TypeAlias = "Mapping[str, npt.NDArray[Any]]"
Form: TypeAlias = "tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]"


def form_of(arrays: Arrays) -> Form:
    """Returns names, dtypes and shapes: what tells whether batches have the same layout."""
    return tuple((name, array.dtype, array.shape) for name, array in arrays.items())


def layout_of(arrays: Arrays) -> PackLayout:
    """Returns where each array lies in a block; the same object for batches of the same form."""
    return _layout(form_of(arrays))


def block_bytes(layout: PackLayout) -> int:
    """Returns the size of a block, which ends so that it can be seen as any dtype."""
    return -(-layout.nbytes // ALIGNMENT) * ALIGNMENT


def fill(layout: PackLayout, arrays: Arrays, block: npt.NDArray[np.uint8]) -> None:
    """Copies the arrays to their places, whatever their strides."""
    for name, view in layout.views(block).items():
        np.copyto(view, arrays[name])


def tensors_in(layout: PackLayout, block: Tensor) -> dict[str, Tensor]:
    """Returns the tensors in a block, on whichever device it is: views of it.

    Args:
        layout: where they lie.
        block: uint8, as long as `block_bytes` says, with memory of its own.
    """
    seen: dict[torch.dtype, Tensor] = {}
    tensors = {}
    for name, dtype, shape, strides, start in _places(layout):
        if dtype not in seen:
            seen[dtype] = block.view(dtype)
        tensors[name] = seen[dtype].as_strided(shape, strides, start)
    return tensors


_layout = lru_cache(maxsize=64)(tensor_specs)


@lru_cache(maxsize=64)
def _places(layout: PackLayout) -> list[tuple[str, torch.dtype, Any, Any, int]]:
    """Name, dtype, shape, strides and beginning of each tensor; the last two count elements."""
    places = []
    for tensor, start in zip(layout.tensors, layout.offsets, strict=True):
        dtype = torch.from_numpy(np.empty(0, tensor.dtype)).dtype
        strides = [math.prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape))]
        places.append((tensor.name, dtype, tensor.shape, strides, start // tensor.dtype.itemsize))
    return places
