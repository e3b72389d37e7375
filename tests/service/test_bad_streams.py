"""AddEpisodes refuses messages that come in the wrong order, or announce what they do not keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from replayring_proto.v1 import pack_pb2, replay_pb2
from tests.service.frames import SPEC, episode, refused, state
from tests.support import ServerProcess
from tests.wire import Wire, acknowledgements, episode_messages, start_message

INVALID, EXHAUSTED = "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"
MALFORMED, LIMIT = "MalformedMessageError", "LimitExceededError"
MIB = 1 << 20

Request = replay_pb2.AddEpisodesRequest
Messages = list[Request | bytes]


class Case(NamedTuple):
    """What is sent, given the buffer's name, and what the refusal says."""

    messages: Callable[[str], Messages]
    code: str
    kind: str
    words: tuple[str, ...]


def after_start(*messages: Request | bytes) -> Callable[[str], Messages]:
    return lambda buffer: [start_message(buffer), *messages]


def header(*tensors: tuple[str, str, tuple[int, ...]], sequence: int = 3) -> Request:
    pack = pack_pb2.PackHeader(
        tensors=[pack_pb2.Tensor(name=n, dtype=d, shape=s) for n, d, s in tensors]
    )
    return Request(pack=pack, sequence=sequence)


def good(sequence: int = 3) -> Request:
    (message,) = episode_messages(sequence, episode(4))
    return message


def changed(**fields: object) -> Request:
    message = good()
    for key, value in fields.items():
        setattr(message, key, value)
    return message


def started(buffer: str, writer_id: str) -> Messages:
    return [start_message(buffer, writer_id), good()]


BODY = good().data
HUGE = 1 << 63
DEEP = header(("pixel", "uint8", (1,) * 33))
MANY = header(*((f"t{number}", "uint8", (1,)) for number in range(4097)))

CASES = {
    "an episode before start": Case(
        lambda _: [good()], INVALID, MALFORMED, ("before `start`", "name the buffer first")
    ),
    "bytes before start": Case(
        lambda _: [Request(data=b"x")], INVALID, MALFORMED, ("before its pack header",)
    ),
    "bytes before a header": Case(
        after_start(Request(data=b"x")), INVALID, MALFORMED, ("before its pack header",)
    ),
    "bytes after an episode": Case(
        after_start(good(1), Request(data=b"x")), INVALID, MALFORMED, ("before its pack header",)
    ),
    "start twice": Case(
        lambda buffer: [start_message(buffer)] * 2, INVALID, MALFORMED, ("`start` came twice",)
    ),
    "no such buffer": Case(
        lambda buffer: [start_message(buffer + "x")], "NOT_FOUND", "NotFoundError", ("no buffer",)
    ),
    "no buffer named": Case(
        lambda _: [start_message("")], "NOT_FOUND", "NotFoundError", ("no buffer ''",)
    ),
    "no writer": Case(
        lambda buffer: started(buffer, ""), INVALID, "InvalidRequestError", ("''", "1 to 64")
    ),
    "a path as writer": Case(
        lambda buffer: started(buffer, "../x"), INVALID, "InvalidRequestError", ("'../x'", "A-Za-z")
    ),
    "a writer's name too long": Case(
        lambda buffer: started(buffer, "w" * 65), INVALID, "InvalidRequestError", ("1 to 64",)
    ),
    "sequence 0": Case(after_start(changed(sequence=0)), INVALID, MALFORMED, ("from 1",)),
    "sequence 2^63": Case(
        after_start(changed(sequence=HUGE)), INVALID, MALFORMED, (str(HUGE), "2^63 - 1")
    ),
    "sequence without a pack": Case(
        after_start(Request(sequence=3)), INVALID, MALFORMED, ("without an episode's pack",)
    ),
    "two headers in a message": Case(
        after_start(good().SerializeToString() * 2), INVALID, MALFORMED, ("two pack headers",)
    ),
    "a header within an episode": Case(
        after_start(changed(data=BODY[:-1]), good(4)),
        INVALID,
        MALFORMED,
        ("came in the middle of an episode",),
    ),
    "a body too long": Case(
        after_start(changed(data=BODY + b"x")),
        INVALID,
        MALFORMED,
        (f"has {len(BODY)} bytes", f"{len(BODY) + 1} came", "sequence 3: "),
    ),
    "a body too long by its last piece": Case(
        after_start(changed(data=BODY[:-1]), Request(data=b"xx")),
        INVALID,
        MALFORMED,
        (f"has {len(BODY)} bytes", f"{len(BODY) + 1} came"),
    ),
    "a body too short": Case(
        after_start(changed(data=BODY[:-1])), INVALID, MALFORMED, ("ended in the middle", "3: ")
    ),
    "no body at all": Case(
        after_start(changed(data=b"")), INVALID, MALFORMED, ("ended in the middle of an episode",)
    ),
    "a header that does not parse": Case(
        after_start(b"\x0a\x02\xff\xff\x20\x03"), INVALID, MALFORMED, ("PackHeader does not parse",)
    ),
    "an episode of 1 GiB and a byte": Case(
        after_start(header(("pixel", "uint8", ((1 << 30) + 1,)))),
        EXHAUSTED,
        LIMIT,
        ("bytes of an episode", "received 1,073,741,825", "limit is 1,073,741,824", "split it"),
    ),
    "a size that wraps in 64 bits": Case(
        after_start(header(("pixel", "uint8", (1 << 32, 1 << 32)))),
        INVALID,
        MALFORMED,
        ("(4294967296, 4294967296)", "2^62"),
    ),
    "an absurd axis beside an empty one": Case(
        after_start(header(("pixel", "uint8", (0, HUGE)))), INVALID, MALFORMED, (f"(0, {HUGE})",)
    ),
    "sizes that wrap only in sum": Case(
        after_start(header(*((f"t{number}", "uint8", (1 << 61,)) for number in range(9)))),
        EXHAUSTED,
        LIMIT,
        ("bytes of an episode", "limit is 1,073,741,824"),
    ),
    "33 axes": Case(after_start(DEEP), EXHAUSTED, LIMIT, ("received 33", "limit is 32")),
    "4,097 tensors": Case(
        after_start(MANY), EXHAUSTED, LIMIT, ("received 4,097", "limit is 4,096", "send fewer")
    ),
    "a tensor's name of 257 characters": Case(
        after_start(header(("n" * 257, "uint8", (4,)))),
        EXHAUSTED,
        LIMIT,
        ("received 257", "limit is 256"),
    ),
    "a header of more than 1 MiB": Case(
        after_start(header(*((f"{number}" * 150, "uint8", (1,)) for number in range(4096)))),
        EXHAUSTED,
        LIMIT,
        ("bytes of a pack header", "limit is 1,048,576"),
    ),
}


@pytest.fixture
def buffer(wire: Wire, name: str) -> str:
    wire.create(name, SPEC)
    wire.add(name, episode(4), episode(3))
    return name


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_broken_stream_is_refused_and_nothing_is_written(
    wire: Wire, buffer: str, case: Case
) -> None:
    before = state(wire, buffer)
    with refused(case.code, case.kind, *case.words):
        wire.call("AddEpisodes", *case.messages(buffer))
    assert state(wire, buffer) == before
    assert wire.add(buffer, episode(1), sequence=3)[0].index == 7


def test_announced_bytes_take_no_memory_before_they_come(
    server: ServerProcess, wire: Wire, buffer: str
) -> None:
    with server.memory_peak() as peak:
        announce(wire, buffer)
    assert peak.growth < 64 * MIB


def announce(wire: Wire, buffer: str) -> None:
    for axis in (1 << 30, (1 << 30) + 1, 1 << 40, 1 << 61):
        with pytest.raises(Exception, match=r"bytes of an episode|in the middle of"):
            wire.call("AddEpisodes", start_message(buffer), header(("pixel", "uint8", (axis,))))
    calls = [wire.stream("AddEpisodes") for _ in range(8)]
    for call in calls:  # 8 x 1 GiB announced and allowed, and never sent
        call.send(start_message(buffer), header(("pixel", "uint8", (1 << 30,))))
        call.send(Request(data=b"x"))
        call.done_sending()
    for call in calls:
        with refused(INVALID, MALFORMED, "in the middle"):
            call.receive()


def test_one_message_may_start_a_call_and_carry_an_episode(wire: Wire, buffer: str) -> None:
    message = good(3)
    message.start.CopyFrom(start_message(buffer).start)
    (reply,) = wire.call("AddEpisodes", message)
    assert [one.index for one in acknowledgements(reply)] == [7]


def test_pieces_of_any_size_make_an_episode(wire: Wire, buffer: str) -> None:
    for sequence, size in enumerate((1, 7, 64, 100), 3):
        wire.call(
            "AddEpisodes", start_message(buffer), *episode_messages(sequence, episode(2), size)
        )
        stored = wire.get(buffer, indices=[2 * sequence + 1, 2 * sequence + 2])
        assert np.array_equal(stored["position"], episode(2)["position"])
