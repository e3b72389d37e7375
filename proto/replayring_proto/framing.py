"""Messages that carry packs, framed by hand: one copy less in each direction than generated code.

Protobuf's wire format lets fields of one message be concatenated. So the small fields are encoded
by generated code and the payload, field 2 of every message that carries a pack, is appended as raw
bytes; on the way in, one scan of the top-level fields finds the payload without copying it. Whole
packs that share a message are field 15 of it, each framed like a message of its own. The bytes are
exactly what the generated classes read and write; a test holds that.

https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy.typing as npt

from replayring_proto.errors import MalformedMessageError
from replayring_proto.limits import CHUNK_BYTES, MAX_MESSAGE_FIELDS, TOGETHER_BYTES, check_limit
from replayring_proto.pack import Pack, PackLayout

_LENGTH_DELIMITED = 2
_PACK_TAG = 1 << 3 | _LENGTH_DELIMITED
_DATA_TAG = 2 << 3 | _LENGTH_DELIMITED
_NESTED_TAG = 15 << 3 | _LENGTH_DELIMITED
_EMPTY = memoryview(b"")

_DATA = bytes([_DATA_TAG])
_NESTED = bytes([_NESTED_TAG])

WHOLE_BYTES = TOGETHER_BYTES // 2
"""Up to so many bytes, a pack of arrays goes in one message with its header."""


class Frame(NamedTuple):
    """One received message that may carry part of a pack.

    Attributes:
        header: the encoded `PackHeader`, or None when this message continues a pack.
        data: the next bytes of the pack's body; a view of the message.
        rest: all other fields, still encoded.
        nested: whole packs that share the message, each as a message; views of it.
    """

    header: bytes | None
    data: memoryview
    rest: bytes
    nested: tuple[memoryview, ...] = ()


def encode_pack(pack: Pack, rest: bytes = b"") -> Iterator[bytes]:
    """Yields the messages that carry `pack`; the first also has the encoded fields `rest`."""
    prefix = encode_header(pack.layout.header(), rest)
    pieces = pack.pieces()
    first = next(pieces, None)
    yield prefix if first is None else encode_data(first, prefix)
    for piece in pieces:
        yield encode_data(piece)


def encode_header(header: bytes, rest: bytes = b"") -> bytes:
    """Returns a message that begins a pack and carries none of its body yet."""
    return rest + bytes([_PACK_TAG]) + encode_varint(len(header)) + header


def encode_data(data: memoryview | bytes, prefix: bytes = b"") -> bytes:
    """Returns a message with payload `data` behind the already encoded fields `prefix`."""
    return _encode_runs((data,), prefix)


def encode_arrays(layout: PackLayout, arrays: Mapping[str, npt.NDArray[Any]]) -> tuple[bytes, ...]:
    """Returns the messages that carry a pack of arrays, each of which is copied once.

    Other fields may be put before the first message, which is small or the only one.
    """
    header, runs = encode_header(layout.header()), layout.runs(arrays)
    if layout.nbytes <= WHOLE_BYTES:
        return (_encode_runs(list(runs), header),)
    return (header, *map(_encode_runs, _chunks(runs)))


def encode_nested(messages: Iterable[Sequence[bytes]], rest: bytes = b"") -> bytes:
    """Returns a message that holds whole messages, each with a pack, behind the fields `rest`.

    Args:
        messages: the parts of each, which follow each other.
        rest: encoded fields.
    """
    pieces = [rest]
    for parts in messages:
        pieces += (_NESTED, encode_varint(sum(map(len, parts))), *parts)
    return b"".join(pieces)


def decode_frame(message: bytes | memoryview) -> Frame:
    """Splits a message into pack header, payload and the other fields.

    As in generated code, the last occurrence of `data` counts. Unknown fields are kept in `rest`,
    whose own parser decides about them.

    Raises:
        MalformedMessageError: the bytes are not a protobuf message, or hold two pack headers.
        LimitExceededError: there are too many fields; no honest message comes near.
    """
    view = memoryview(message)
    header: bytes | None = None
    data = _EMPTY
    rest, nested = [], []
    position = fields = 0
    while position < len(message):
        start = position
        fields += 1
        if fields > MAX_MESSAGE_FIELDS:
            check_limit(fields, MAX_MESSAGE_FIELDS, "fields of a message", "set each once")
        tag, position = _varint(message, position)
        value, position = _field(message, view, tag, position)
        if tag == _DATA_TAG:
            data = value
        elif tag == _PACK_TAG:
            if header is not None:
                raise MalformedMessageError("a message holds two pack headers; send one pack")
            header = bytes(value)
        elif tag == _NESTED_TAG:
            nested.append(value)
        else:
            rest.append(view[start:position])
    return Frame(header, data, b"".join(rest), tuple(nested))


def _encode_runs(runs: Sequence[memoryview | bytes], prefix: bytes = b"") -> bytes:
    return b"".join((prefix, _DATA, encode_varint(sum(map(len, runs))), *runs))


def _chunks(runs: Iterable[memoryview]) -> Iterator[list[memoryview]]:
    """Yields as many bytes at a time as a message carries."""
    chunk: list[memoryview] = []
    room = CHUNK_BYTES
    for run in runs:
        while len(run) >= room:
            yield [*chunk, run[:room]]
            chunk, run, room = [], run[room:], CHUNK_BYTES
        chunk.append(run)
        room -= len(run)
    if room < CHUNK_BYTES:
        yield chunk


def encode_varint(value: int) -> bytes:
    """Returns `value`, not negative, as a base-128 varint."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _field(
    message: bytes | memoryview, view: memoryview, tag: int, position: int
) -> tuple[memoryview, int]:
    """Returns a field's value, where it is length-delimited, and where the next field begins."""
    start, wire_type = position, tag & 7
    if wire_type == _LENGTH_DELIMITED:
        length, start = _varint(message, position)
        end = start + length
    elif wire_type == 0:
        _, end = _varint(message, position)
    elif wire_type == 1:
        end = position + 8
    elif wire_type == 5:
        end = position + 4
    else:
        raise MalformedMessageError(f"a message has a field of wire type {wire_type}")
    if end > len(message):
        raise MalformedMessageError("a message ends within a field")
    return view[start:end], end


def _varint(message: bytes | memoryview, position: int) -> tuple[int, int]:
    if position < len(message) and (value := message[position]) < 0x80:  # as most are
        return value, position + 1
    value = shift = 0
    while position < len(message):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            break
    raise MalformedMessageError("a message holds a varint that does not end")
