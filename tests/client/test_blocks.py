"""Batches in blocks of memory: their tensors, and packs that are cut into batches."""

from __future__ import annotations

import numpy as np
import pytest

from replayring._batch import batches_in
from replayring._blocks import block_of, in_blocks, tensors_in
from replayring._device import CpuLink
from replayring_proto.errors import MalformedMessageError
from replayring_proto.pack import Pack
from replayring_proto.spec import DTYPES
from tests.client.scripted_streams import Arrays, same


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("parts", [1, 2])
def test_any_dtype_in_a_block(name: str, parts: int) -> None:
    arrays = {
        "odd": np.arange(6, dtype=np.uint8),
        "scalars": np.arange(6).astype(DTYPES[name]),
        "matrices": np.arange(36).reshape(6, 3, 2).astype(DTYPES[name]),
        "none": np.zeros((6, 0), DTYPES[name]),
        "turned": np.arange(24).reshape(4, 6).astype(DTYPES[name]).T,
    }
    pack = Pack.of(arrays, in_blocks(CpuLink().allocate))
    size = 6 // parts
    for part in batches_in(pack, parts, 0):
        rows = slice(part.part * size, (part.part + 1) * size)
        wanted = {key: array[rows] for key, array in arrays.items()}
        tensors = tensors_in(block_of(part), part)
        assert same(tensors, wanted)
        assert all(tensor.is_contiguous() for tensor in tensors.values())
        assert all(np.array_equal(part.arrays[key], wanted[key]) for key in wanted)
        tensors["scalars"].zero_()
        assert same(tensors, {**wanted, "scalars": np.zeros(size, DTYPES[name])})
    assert not pack.arrays["scalars"].any()
    assert np.array_equal(pack.arrays["matrices"], arrays["matrices"])


@pytest.mark.parametrize(
    "arrays",
    [
        {"a": np.zeros(5)},
        {"a": np.zeros(4), "b": np.zeros(6)},
        {"a": np.zeros(4), "b": np.zeros(())},
        {"a": np.zeros(())},
        {},
    ],
)
def test_a_pack_that_cannot_be_cut(arrays: Arrays) -> None:
    with pytest.raises(MalformedMessageError, match="a reply of 2 batches"):
        batches_in(Pack.of(arrays), 2, 0)
    assert len(batches_in(Pack.of(arrays), 1, 0)) == 1
