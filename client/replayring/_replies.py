"""What a server answers: a pack out of a call's replies, received into memory reserved up front."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy.typing as npt

from replayring_proto import limits
from replayring_proto.errors import MalformedMessageError
from replayring_proto.framing import decode_frame
from replayring_proto.pack import Memory, Pack, PackAssembler, aligned_empty, parse_header

Arrays: TypeAlias = "dict[str, npt.NDArray[Any]]"

INCOMPLETE = "the server's reply ended before its pack was complete"


def receive(
    first: bytes, more: Iterator[bytes], max_bytes: int, memory: Memory = aligned_empty
) -> tuple[Pack, bytes]:
    """Receives one pack into memory reserved up front.

    Args:
        first: the reply that begins the pack.
        more: the call's further replies.
        max_bytes: the largest body to make room for.
        memory: makes that room.

    Returns:
        The pack, whose arrays are writable, and the first message's other fields.

    Raises:
        MalformedMessageError: the replies are no pack, or end within one.
        LimitExceededError: it is larger than `max_bytes`; nothing was allocated.
    """
    frame = decode_frame(first)
    if frame.header is None:
        raise MalformedMessageError("the server's reply does not begin with a pack header")
    rest, layout = frame.rest, parse_header(frame.header)
    limits.check_limit(
        layout.nbytes,
        max_bytes,
        "bytes of the server's reply",
        "ask for less, or raise max_reply_bytes of connect()",
    )
    assembler = PackAssembler(layout, memory)
    assembler.add(frame.data)
    while not assembler.complete:
        frame = decode_frame(next_reply(more))
        if frame.header is not None:
            raise MalformedMessageError("the server's reply begins a pack within another")
        assembler.add(frame.data)
    return assembler.pack, rest


def read_pack(first: bytes, more: Iterator[bytes], max_bytes: int) -> tuple[Arrays, bytes]:
    """Receives one pack; returns its arrays in the place of it. See `receive`."""
    pack, rest = receive(first, more, max_bytes)
    return pack.arrays, rest


def next_reply(messages: Iterator[bytes]) -> bytes:
    """Returns the next reply of a pack.

    Raises:
        MalformedMessageError: there is none.
    """
    message = next(messages, None)
    if message is None:
        raise MalformedMessageError(INCOMPLETE)
    return message
