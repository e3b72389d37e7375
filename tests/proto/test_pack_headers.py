"""Headers as hostile peers write them: refused or measured, but never followed into memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replayring_proto import limits
from replayring_proto.errors import LimitExceededError, MalformedMessageError
from replayring_proto.pack import PackLayout, parse_header
from replayring_proto.v1 import pack_pb2


@pytest.fixture(autouse=True)
def no_body_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test of this file if parsing a header takes memory for the body it describes."""

    def refuse(nbytes: int) -> None:
        raise AssertionError(f"{nbytes} bytes were about to be taken")

    monkeypatch.setattr("replayring_proto.pack.aligned_empty", refuse)


def header(*tensors: tuple[str, str, Sequence[int]]) -> bytes:
    return pack_pb2.PackHeader(
        tensors=[pack_pb2.Tensor(name=n, dtype=d, shape=s) for n, d, s in tensors]
    ).SerializeToString()


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("uint8", (1 << 62,)),
        ("uint8", ((1 << 64) - 1,)),
        ("uint8", (1 << 31, 1 << 31)),
        ("float32", (1 << 32, 1 << 30)),
        ("float32", (1 << 32, 1 << 32)),  # the product wraps to 0 in int64
        ("float64", (1 << 61, 8)),  # and so does this one, with the item size
        ("int8", (3, 6148914691236517206)),  # to 2
        ("complex128", (1 << 21,) * 31),
        ("uint8", (0, 1 << 63)),  # no bytes, but no shape numpy could make either
        ("uint8", (1 << 62, 0)),
    ],
)
def test_an_absurd_shape_is_refused(dtype: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(MalformedMessageError, match=r"2\^62"):
        parse_header(header(("a", dtype, shape)))


def test_a_huge_but_possible_shape_is_measured_without_taking_memory() -> None:
    """The caller compares the size with its limit before it makes an assembler."""
    assert parse_header(header(("a", "float64", (1 << 50,)))).nbytes == 1 << 53


def test_the_largest_header_there_may_be_takes_little_memory() -> None:
    """A megabyte of empty tensors is parsed only as far as their number allows."""
    encoded = b"\x0a\x00" * (limits.MAX_HEADER_BYTES // 2)
    tracemalloc.start()
    try:
        with pytest.raises(LimitExceededError, match="tensors"):
            parse_header(encoded)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_sizes_add_up_beyond_64_bits() -> None:
    """Each tensor is below the limit; the sum is above 2^64, which int64 would wrap."""
    tensors = [(f"t{i}", "uint8", ((1 << 62) - 64,)) for i in range(5)]
    assert parse_header(header(*tensors)).nbytes == 5 * ((1 << 62) - 64)


def test_tensors_are_limited_in_number() -> None:
    tensors = [(f"{i}", "int8", ()) for i in range(limits.MAX_TENSORS)]
    assert len(parse_header(header(*tensors)).tensors) == limits.MAX_TENSORS
    with pytest.raises(LimitExceededError, match="received 4,097, the limit is 4,096"):
        parse_header(header(*tensors, ("more", "int8", ())))


def test_axes_are_limited_in_number() -> None:
    assert parse_header(header(("a", "int8", (1,) * limits.MAX_AXES))).nbytes == 1
    with pytest.raises(LimitExceededError, match="axes"):
        parse_header(header(("a", "int8", (1,) * (limits.MAX_AXES + 1))))


def test_a_name_is_limited_in_length() -> None:
    assert parse_header(header(("ä" * limits.MAX_TENSOR_NAME, "int8", ()))).nbytes == 1
    with pytest.raises(LimitExceededError, match="name"):
        parse_header(header(("a" * (limits.MAX_TENSOR_NAME + 1), "int8", ())))


def test_a_header_is_limited_in_length_before_it_is_parsed() -> None:
    with pytest.raises(LimitExceededError, match="bytes of a pack header"):
        parse_header(b"\xff" * (limits.MAX_HEADER_BYTES + 1))


def test_a_name_may_come_once() -> None:
    with pytest.raises(MalformedMessageError, match="twice"):
        parse_header(header(("a", "int8", (1,)), ("b", "int8", ()), ("a", "float32", ())))


@pytest.mark.parametrize(
    "dtype", ["", "object", "O", "|O", "<f4", "f4", "str", "S8", "float128", "Float32", "x" * 9999]
)
def test_a_dtype_off_the_allowlist_is_refused(dtype: str) -> None:
    with pytest.raises(MalformedMessageError, match="dtype"):
        parse_header(header(("a", dtype, (1,))))


@pytest.mark.parametrize(
    "encoded",
    [b"\xff", b"\x0a", b"\x0a\x05ab", b"\x0a\x03\x0a\x01\xff", b"\x00", b"\x0a" * 5000],
    ids=repr,
)
def test_bytes_that_are_no_header_are_refused(encoded: bytes) -> None:
    with pytest.raises(MalformedMessageError, match="PackHeader"):
        parse_header(encoded)


@settings(max_examples=300)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_layout_or_a_named_error(encoded: bytes) -> None:
    try:
        layout = parse_header(encoded)
    except (MalformedMessageError, LimitExceededError):
        return
    assert isinstance(layout, PackLayout)


@settings(max_examples=300)
@given(st.data())
def test_a_header_with_damaged_bytes_is_a_layout_or_a_named_error(data: st.DataObject) -> None:
    encoded = bytearray(header(("state", "float32", (3, 4)), ("done", "bool", (3,))))
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        layout = parse_header(bytes(encoded))
    except (MalformedMessageError, LimitExceededError):
        return
    assert layout.nbytes >= sum(tensor.nbytes for tensor in layout.tensors)


def test_the_small_header_that_a_stream_repeats_is_parsed_once() -> None:
    encoded = header(("state", "float32", (256, 3)))
    assert parse_header(encoded) is parse_header(bytes(bytearray(encoded)))


def test_that_of_hundreds_of_columns_is_too() -> None:
    encoded = header(*[(f"column {i:03}", "float32", (256, 3)) for i in range(500)])
    assert parse_header(encoded) is parse_header(bytes(bytearray(encoded)))


def test_few_large_headers_are_kept_and_none_that_are_larger() -> None:
    large = [header((f"{number}", "int8", ()), *padding(100)) for number in range(5)]
    layouts = [parse_header(encoded) for encoded in large]
    assert parse_header(large[4]) is layouts[4]
    assert parse_header(large[0]) is not layouts[0]
    larger = header(*padding(300))
    assert parse_header(larger) is not parse_header(larger)


def padding(tensors: int) -> list[tuple[str, str, Sequence[int]]]:
    return [(f"{number:0240}", "int8", ()) for number in range(1000, 1000 + tensors)]
