"""The pack codec: arrays to bytes and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replayring_proto.errors import InvalidRequestError, MalformedMessageError
from replayring_proto.pack import (
    ALIGNMENT,
    Pack,
    PackAssembler,
    PackLayout,
    TensorSpec,
    aligned_empty,
    parse_header,
)
from replayring_proto.spec import DTYPES
from replayring_proto.v1 import pack_pb2
from tests.proto.arrays import packs

Arrays = dict[str, np.ndarray[Any, Any]]


def assert_same(found: Arrays, expected: Arrays) -> None:
    """Compares bytes, so that NaN equals itself and minus zero differs from zero."""
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


def receive(pack: Pack, size: int) -> Pack:
    """What a peer makes of a pack that comes in pieces of `size`."""
    assembler = PackAssembler(parse_header(pack.layout.header()))
    for piece in pack.pieces(size):
        assert not assembler.complete
        assembler.add(bytes(piece))
    assert assembler.complete
    return assembler.pack


@settings(max_examples=200)
@given(packs, st.integers(1, 200))
def test_arrays_come_out_as_they_went_in(arrays: Arrays, size: int) -> None:
    sent = Pack.of(arrays)
    assert_same(sent.arrays, arrays)
    assert_same(receive(sent, size).arrays, arrays)


@settings(max_examples=100)
@given(packs, st.integers(1, 200))
def test_every_array_of_a_pack_is_aligned_and_writable(arrays: Arrays, size: int) -> None:
    sent = Pack.of(arrays)
    for pack in (sent, receive(sent, size)):
        for array in pack.arrays.values():
            assert array.flags.writeable
            assert array.flags.c_contiguous
            assert not array.size or array.ctypes.data % ALIGNMENT == 0


@settings(max_examples=100)
@given(packs)
def test_the_body_is_laid_out_as_pack_proto_says(arrays: Arrays) -> None:
    """Each tensor at the next multiple of 64, zeroes before it: written out again, naively."""
    body = b""
    for array in arrays.values():
        body += bytes(-len(body) % 64) + array.tobytes()
    assert Pack.of(arrays).body.tobytes() == body
    header = pack_pb2.PackHeader.FromString(Pack.of(arrays).layout.header())
    assert [(t.name, t.dtype, tuple(t.shape)) for t in header.tensors] == [
        (name, array.dtype.name, array.shape) for name, array in arrays.items()
    ]


@settings(max_examples=50)
@given(packs)
def test_a_pack_shares_no_memory_with_what_it_was_made_of(arrays: Arrays) -> None:
    pack = Pack.of(arrays)
    for name, array in arrays.items():
        assert not np.shares_memory(pack.arrays[name], array)


def test_arrays_in_other_orders_are_sent_by_value() -> None:
    grid = np.arange(12, dtype=np.int32).reshape(3, 4)
    arrays = {
        "fortran": np.asfortranarray(grid),
        "strided": grid[::2, ::-1],
        "big": grid.astype(">i4"),
    }
    sent = Pack.of(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(sent.arrays[name], array)
        assert sent.arrays[name].dtype.str == "<i4"


@pytest.mark.parametrize("dtype", ["O", "U3", "S2", "M8[s]", "f4,f4", "longdouble"])
def test_only_dtypes_of_the_allowlist_are_packed(dtype: str) -> None:
    with pytest.raises(InvalidRequestError, match="'bad'"):
        Pack.of({"bad": np.zeros(2, dtype)})


def test_a_body_comes_in_pieces_of_at_most_the_size_asked_for() -> None:
    pack = Pack.of({"a": np.arange(1000, dtype=np.uint8)})
    pieces = [bytes(piece) for piece in pack.pieces(300)]
    assert [len(piece) for piece in pieces] == [300, 300, 300, 100]
    assert b"".join(pieces) == pack.body.tobytes()
    assert list(Pack.of({}).pieces()) == []


def test_memory_that_was_used_before_does_not_show_between_tensors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pack's memory comes uninitialised; the gaps would carry it to the peer."""

    def dirty(nbytes: int) -> np.ndarray[Any, Any]:
        body = aligned_empty(nbytes)
        body[:] = 0xAA
        return body

    monkeypatch.setattr("replayring_proto.pack.aligned_empty", dirty)
    pack = Pack.of({"a": np.zeros(3, np.uint8), "b": np.zeros(5, np.uint8), "c": np.zeros((0,))})
    assert not pack.body.any()


# Assembling


LAYOUT = PackLayout([TensorSpec("a", DTYPES["uint8"], (10,))])


@pytest.mark.parametrize("pieces", [[b"x" * 11], [b"x" * 10, b"y"], [b"x" * 9, b"y" * 2]])
def test_more_bytes_than_announced_are_refused(pieces: list[bytes]) -> None:
    assembler = PackAssembler(LAYOUT)
    *fitting, last = pieces
    for piece in fitting:
        assembler.add(piece)
    before = assembler.pack.body.copy()
    with pytest.raises(MalformedMessageError, match="10 bytes by its header"):
        assembler.add(last)
    np.testing.assert_array_equal(assembler.pack.body, before)


def test_a_pack_is_complete_with_its_last_byte_and_not_before() -> None:
    assembler = PackAssembler(LAYOUT)
    for _ in range(10):
        assert not assembler.complete
        assembler.add(b"x")
    assert assembler.complete
    assembler.add(b"")
    assert assembler.complete


@pytest.mark.parametrize("arrays", [{}, {"none": np.zeros((0, 3), np.float64)}])
def test_a_pack_without_bytes_is_complete_at_once(arrays: Arrays) -> None:
    assembler = PackAssembler(parse_header(Pack.of(arrays).layout.header()))
    assert assembler.complete
    assembler.add(b"")
    assert_same(assembler.pack.arrays, arrays)


# Bools


def check_bools(**arrays: np.ndarray) -> None:
    pack = Pack.of(arrays)
    pack.layout.check_bools(pack.arrays)


@pytest.mark.parametrize("shape", [(), (4,), (2, 2)])
def test_bool_bytes_other_than_0_and_1_are_refused(shape: tuple[int, ...]) -> None:
    for byte in (2, 128, 255):
        values = np.zeros(shape, np.uint8)
        values[...] = byte
        with pytest.raises(MalformedMessageError, match="'done'"):
            check_bools(x=np.ones(3), done=values.view(np.bool_))
    check_bools(done=np.ones(shape, np.bool_), none=np.zeros((0, 2), np.bool_))


def test_other_dtypes_may_hold_any_byte() -> None:
    check_bools(image=np.full(4, 255, np.uint8))
