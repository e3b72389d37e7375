"""Bytes that are no message, too large a message, a compressed one: refused by every RPC."""

from __future__ import annotations

import grpc
import pytest

from replayring_proto.v1 import replay_pb2
from tests.service.frames import SPEC, episode, refused, state
from tests.wire import METHODS, Wire, start_message

INVALID, EXHAUSTED = "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"
MALFORMED, LIMIT = "MalformedMessageError", "LimitExceededError"
MIB = 1 << 20

NEED_NOTHING = ("ListBuffers", "GetServerStatus")
GARBAGE = {
    "a varint without end": b"\xff" * 16,
    "a field cut short": b"\x0a\x7f\x00",
    "a wire type that is none": b"\x0f\x00",
    "a group": b"\x0b\x0c",
    "field number 0": b"\x02\x00",
    "text": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
@pytest.mark.parametrize("method", METHODS)
def test_garbage_is_refused(wire: Wire, method: str, garbage: bytes) -> None:
    error = wire.refusal(method, garbage)
    # To some parsers some of these bytes are a message, which then lacks what it needs.
    if error is None:
        assert method in NEED_NOTHING
    else:
        assert error.code in (INVALID, "NOT_FOUND"), error
        assert error.kind in (MALFORMED, "InvalidRequestError", "NotFoundError", "InvalidSpecError")


@pytest.mark.parametrize("method", METHODS)
def test_bytes_that_are_no_message_are_called_so(wire: Wire, method: str) -> None:
    with refused(INVALID, MALFORMED):
        wire.call(method, b"\xff" * 16)


TEXT = b"\x0a\x02\xff\xfe"  # field 1, a string that is not UTF-8


@pytest.mark.parametrize("method", [name for name in METHODS if name not in NEED_NOTHING])
def test_text_that_is_not_utf8_is_refused(wire: Wire, method: str) -> None:
    with refused(INVALID, MALFORMED):
        wire.call(method, TEXT if method != "PublishParameters" else b"\x1a\x02\xff\xfe")


@pytest.mark.parametrize("method", METHODS)
def test_message_above_4_mib_is_refused(wire: Wire, method: str) -> None:
    with refused(EXHAUSTED, None, "4194304"):
        wire.call(method, b"\x12" + bytes(4 * MIB))


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
@pytest.mark.parametrize("method", METHODS)
def test_compressed_message_is_unimplemented(
    wire: Wire, method: str, algorithm: grpc.Compression
) -> None:
    with refused("UNIMPLEMENTED", None, "is disabled"):
        wire.call(method, bytes(5000), compression=algorithm)


@pytest.mark.parametrize("path", ["/replayring.v1.ReplayService/Nope", "/nope/GetItem"])
def test_unknown_method_is_unimplemented(wire: Wire, path: str) -> None:
    with refused("UNIMPLEMENTED", None):
        wire.call(path, b"")


# Each of these took seconds of the event loop, for everybody, before fields were counted.
@pytest.mark.parametrize(
    "unit", [b"\x12\x00", b"\x28\x01", b"\x0a\x00"], ids=["data", "rest", "pack"]
)
@pytest.mark.parametrize("method", ["AddEpisodes", "PublishParameters"])
def test_message_of_a_million_fields_is_refused_by_their_number(
    wire: Wire, method: str, unit: bytes
) -> None:
    with refused(*((INVALID, MALFORMED) if unit == b"\x0a\x00" else (EXHAUSTED, LIMIT))):
        wire.call(method, unit * (2 * MIB - 10))


def test_messages_without_content_are_ignored_between_episodes(wire: Wire, name: str) -> None:
    wire.create(name, SPEC)
    assert wire.call("AddEpisodes", b"", start_message(name), b"", b"\x12\x00") == []


def test_fields_of_a_newer_protocol_are_ignored(wire: Wire, name: str) -> None:
    unknown = b"\xa2\x06\x03new"  # field 100
    request = replay_pb2.CreateBufferRequest(name=name, spec=SPEC)
    wire.ask("CreateBuffer", request.SerializeToString() + unknown)
    wire.add(name, episode(4))
    before = state(wire, name)
    request = replay_pb2.GetItemRequest(buffer=name, positions=[0])
    assert wire.call("GetItem", request.SerializeToString() + unknown)
    assert wire.call("AddEpisodes", start_message(name).SerializeToString() + unknown) == []
    assert state(wire, name) == before
