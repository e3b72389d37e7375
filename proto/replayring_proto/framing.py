"""Messages that carry packs, framed by hand: one copy less in each direction than generated code.

Protobuf's wire format lets fields of one message be concatenated. So the small fields are encoded
by generated code and the payload, field 2 of every message that carries a pack, is appended as raw
bytes; on the way in, one scan of the top-level fields finds the payload without copying it. Whole
packs that share a message are field 15 of it, each framed like a message of its own. The bytes are
exactly what the generated classes read and write; a test holds that.

https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from replayring_proto.errors import MalformedMessageError
from replayring_proto.limits import MAX_MESSAGE_FIELDS, check_limit
from replayring_proto.pack import Pack

_LENGTH_DELIMITED = 2
_PACK_TAG = 1 << 3 | _LENGTH_DELIMITED
_DATA_TAG = 2 << 3 | _LENGTH_DELIMITED
_NESTED_TAG = 15 << 3 | _LENGTH_DELIMITED
_EMPTY = memoryview(b"")


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
    return b"".join((prefix, bytes([_DATA_TAG]), encode_varint(len(data)), data))


def encode_whole(pack: Pack, rest: bytes = b"") -> bytes:
    """Returns one message with all of `pack` and the encoded fields `rest`."""
    return encode_data(pack.body.data, encode_header(pack.layout.header(), rest))


def encode_nested(messages: Iterable[bytes], rest: bytes = b"") -> bytes:
    """Returns a message that holds whole messages, each with a pack, behind the fields `rest`."""
    pieces = [rest]
    for message in messages:
        pieces += (bytes([_NESTED_TAG]), encode_varint(len(message)), message)
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
