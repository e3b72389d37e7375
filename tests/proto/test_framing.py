"""Framing by hand says and reads exactly what generated code does."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given, settings
from hypothesis import strategies as st

from replayring_proto import framing, limits
from replayring_proto.errors import LimitExceededError, MalformedMessageError
from replayring_proto.framing import (
    decode_frame,
    encode_arrays,
    encode_data,
    encode_header,
    encode_nested,
    encode_pack,
    encode_varint,
)
from replayring_proto.pack import Pack
from replayring_proto.v1 import pack_pb2
from replayring_proto.v1.replay_pb2 import (
    AddEpisodesRequest,
    AddEpisodesStart,
    GetItemResponse,
    PublishParametersRequest,
    ReadColumnResponse,
    SampleBatchResponse,
    WatchParametersResponse,
    WholeEpisode,
)
from tests.proto.arrays import packs

Arrays = dict[str, np.ndarray[Any, Any]]

uint64 = st.integers(0, (1 << 64) - 1)
starts = st.builds(AddEpisodesStart, buffer=st.text(max_size=5), writer_id=st.text(max_size=5))

messages = st.one_of(
    st.builds(AddEpisodesRequest, start=st.none() | starts, sequence=uint64),
    st.builds(GetItemResponse),
    st.builds(SampleBatchResponse, next_index=uint64),
    st.builds(ReadColumnResponse),
    st.builds(PublishParametersRequest, name=st.text(max_size=5)),
    st.builds(WatchParametersResponse, version=uint64),
)
"""All six messages that carry packs, without their pack."""


def header_of(pack: Pack) -> pack_pb2.PackHeader:
    return pack_pb2.PackHeader.FromString(pack.layout.header())


# What we write, generated code reads


@settings(max_examples=50)
@given(st.lists(st.tuples(uint64, packs), max_size=4), st.none() | starts)
def test_generated_code_reads_packs_that_share_a_message(wholes: list[Any], start: Any) -> None:
    made = [(sequence, Pack.of(arrays)) for sequence, arrays in wholes]
    message = AddEpisodesRequest.FromString(
        encode_nested(
            (
                (WholeEpisode(sequence=n).SerializeToString(), *encode_arrays(p.layout, p.arrays))
                for n, p in made
            ),
            AddEpisodesRequest(start=start).SerializeToString(),
        )
    )
    assert message == AddEpisodesRequest(
        start=start,
        episodes=[
            WholeEpisode(sequence=n, pack=header_of(pack), data=bytes(pack.body))
            for n, pack in made
        ],
    )
    frame = decode_frame(message.SerializeToString())
    parts = [decode_frame(part) for part in frame.nested]
    assert [bytes(part.data) for part in parts] == [bytes(pack.body) for _, pack in made]
    assert [WholeEpisode.FromString(part.rest).sequence for part in parts] == [n for n, _ in made]


@settings(max_examples=200)
@given(messages, packs)
def test_generated_code_reads_what_framing_writes(rest: Any, arrays: Arrays) -> None:
    pack = Pack.of(arrays)
    (encoded,) = encode_pack(pack, rest.SerializeToString())
    found = type(rest).FromString(encoded)
    expected = type(rest)()
    expected.CopyFrom(rest)
    expected.pack.CopyFrom(header_of(pack))
    expected.data = pack.body.tobytes()
    assert found == expected


@settings(max_examples=50)
@given(messages)
def test_a_large_pack_comes_in_messages_below_the_limit(rest: Any) -> None:
    """The first has the header and the other fields; the later ones only bytes of the body."""
    pack = Pack.of({"a": np.arange(5 << 18, dtype=np.float32), "b": np.ones(3)})
    encoded = list(encode_pack(pack, rest.SerializeToString()))
    assert max(map(len, encoded)) <= limits.CHUNK_BYTES + 4096 < limits.MAX_MESSAGE_BYTES
    first, *later = (type(rest).FromString(message) for message in encoded)
    assert len(later) == 2
    assert b"".join(message.data for message in (first, *later)) == pack.body.tobytes()
    assert all(message == type(rest)(data=message.data) for message in later)
    first.ClearField("data")
    rest.pack.CopyFrom(header_of(pack))
    assert first == rest


# Packs of arrays that are copied right into their messages


@settings(max_examples=200)
@given(messages, packs, st.sampled_from([1, 50, 64, 1000]), st.integers(0, 100))
def test_arrays_are_sent_as_their_pack_would_be(
    rest: Any, arrays: Arrays, chunk: int, whole: int
) -> None:
    pack = Pack.of(arrays)
    with (
        mock.patch.object(framing, "CHUNK_BYTES", chunk),
        mock.patch.object(framing, "WHOLE_BYTES", whole),
    ):
        first, *later = encode_arrays(pack.layout, arrays)
    frames = [decode_frame(rest.SerializeToString() + first), *map(decode_frame, later)]
    assert b"".join(bytes(frame.data) for frame in frames) == pack.body.tobytes()
    assert frames[0].header == pack.layout.header()
    assert type(rest).FromString(frames[0].rest) == rest
    assert all(frame.header is None and not frame.rest for frame in frames[1:])
    if pack.layout.nbytes <= whole:
        assert not later
    else:
        assert not frames[0].data, "what may be put before it would have to be copied with it"
        assert all(len(frame.data) == chunk for frame in frames[1:-1])
        assert 0 < len(frames[-1].data) <= chunk


def test_arrays_that_are_not_contiguous_are_sent_as_well() -> None:
    arrays = {"a": np.arange(60).reshape(3, 4, 5).T, "b": np.arange(9)[::-2], "c": np.array(3.0)}
    pack = Pack.of(arrays)
    (message,) = encode_arrays(pack.layout, arrays)
    assert decode_frame(message).data == pack.body.tobytes()


def test_a_pack_without_bytes_still_sends_its_header() -> None:
    (encoded,) = encode_pack(Pack.of({}))
    message = GetItemResponse.FromString(encoded)
    assert message.HasField("pack")
    assert message.data == b""


@given(uint64)
def test_varints_are_those_of_protobuf(value: int) -> None:
    field_3 = bytes([3 << 3]) + encode_varint(value)
    assert SampleBatchResponse(next_index=value).SerializeToString() in (field_3, b"")
    assert SampleBatchResponse.FromString(field_3).next_index == value


# What generated code writes, we read


@settings(max_examples=200)
@given(messages, packs, st.booleans(), st.booleans())
def test_framing_reads_what_generated_code_writes(
    rest: Any, arrays: Arrays, has_header: bool, has_data: bool
) -> None:
    pack = Pack.of(arrays)
    message = type(rest)()
    message.CopyFrom(rest)
    if has_header:
        message.pack.CopyFrom(header_of(pack))
    if has_data:
        message.data = pack.body.tobytes()
    frame = decode_frame(message.SerializeToString())
    assert bytes(frame.data) == message.data
    assert (frame.header is not None) == has_header
    if frame.header is not None:
        assert pack_pb2.PackHeader.FromString(frame.header) == message.pack
    assert type(rest).FromString(frame.rest) == rest


@settings(max_examples=100)
@given(messages, packs, st.randoms())
def test_fields_may_come_in_any_order(rest: Any, arrays: Arrays, random: Any) -> None:
    pack = Pack.of(arrays)
    fields = [rest.SerializeToString(), encode_header(pack.layout.header()), encode_data(b"ab")]
    random.shuffle(fields)
    frame = decode_frame(b"".join(fields))
    assert (frame.header, bytes(frame.data)) == (pack.layout.header(), b"ab")
    assert type(rest).FromString(frame.rest) == rest


def test_the_last_payload_counts_as_in_generated_code() -> None:
    encoded = encode_data(b"first") + encode_data(b"second")
    assert bytes(decode_frame(encoded).data) == b"second"
    assert GetItemResponse.FromString(encoded).data == b"second"


def test_the_payload_is_not_copied() -> None:
    encoded = encode_data(b"x" * 1000)
    data = decode_frame(encoded).data
    assert data.obj is encoded


def test_unknown_fields_are_kept_for_the_parser_of_the_rest() -> None:
    """A newer peer may send fields that this version does not know."""
    unknown = b"".join(
        (
            encode_varint(900 << 3) + b"\x07",
            encode_varint(901 << 3 | 1) + b"8 bytes.",
            encode_varint(902 << 3 | 2) + b"\x03abc",
            encode_varint(903 << 3 | 5) + b"4 by",
        )
    )
    frame = decode_frame(encode_data(b"ab", unknown))
    assert frame.rest == unknown
    assert bytes(frame.data) == b"ab"


# Bytes that are no message


@pytest.mark.parametrize(
    "encoded",
    [
        b"\x12",  # a tag alone
        b"\x12\x05abcd",  # a length beyond the end
        b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01x",  # one beyond any end
        b"\x12" + b"\xff" * 10 + b"\x01",  # a varint longer than a varint may be
        b"\xff",  # a tag that does not end
        b"\x78",  # a varint field without a value
        b"\x79short",  # a fixed64 field of 5 bytes
        b"\x7dsho",  # a fixed32 field of 3 bytes
        b"\x7e\x00",  # wire type 6
        b"\x7f\x00",  # wire type 7
        b"\x0a\x00\x0a\x00",  # two headers
    ],
    ids=repr,
)
def test_bytes_that_are_no_message_are_refused(encoded: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        decode_frame(encoded)


@settings(max_examples=500)
@given(st.binary(max_size=40))
def test_any_bytes_are_a_frame_or_malformed(encoded: bytes) -> None:
    try:
        frame = decode_frame(encoded)
    except MalformedMessageError:
        return
    assert len(frame.header or b"") + len(frame.data) + len(frame.rest) <= len(encoded)


@settings(max_examples=500)
@given(messages, packs, st.data())
def test_of_damaged_bytes_framing_and_generated_code_think_the_same(
    rest: Any, arrays: Arrays, data: st.DataObject
) -> None:
    """Where both take the bytes for a message, they find the same in it."""
    encoded = bytearray(next(encode_pack(Pack.of(arrays), rest.SerializeToString())))
    for _ in range(data.draw(st.integers(1, 3))):
        encoded[data.draw(st.integers(0, min(len(encoded) - 1, 30)))] = data.draw(
            st.integers(0, 255)
        )
    try:
        frame = decode_frame(bytes(encoded))
    except (MalformedMessageError, LimitExceededError):
        return
    try:
        message: Message = type(rest).FromString(bytes(encoded))
    except DecodeError:
        return
    assert bytes(frame.data) == message.data  # type: ignore[attr-defined]
    found = type(rest).FromString(frame.rest + encode_data(frame.data))
    if frame.header is not None:
        found.pack.CopyFrom(pack_pb2.PackHeader.FromString(frame.header))
    assert found.SerializeToString(deterministic=True) == message.SerializeToString(
        deterministic=True
    )


def test_a_message_of_very_many_fields_is_refused() -> None:
    """Two million empty fields fit into one message, and would hold the server up for seconds."""
    fields = b"\x78\x00" * limits.MAX_MESSAGE_FIELDS
    assert decode_frame(fields).rest == fields
    with pytest.raises(LimitExceededError, match="received 65, the limit is 64"):
        decode_frame(fields * 1000)
