"""PublishParameters and WatchParameters: the newest version of a name, for everybody."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from replayring_proto.limits import ServerLimits
from replayring_proto.v1 import pack_pb2, replay_pb2
from tests.service.frames import refused
from tests.support import LocalServer, ServerProcess
from tests.wire import Arrays, Stream, Wire, header_of, pack_messages

INVALID, EXHAUSTED, MISSING = "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "NOT_FOUND"
MALFORMED, LIMIT = "MalformedMessageError", "LimitExceededError"
MIB = 1 << 20

Publish = replay_pb2.PublishParametersRequest


def weights(value: float, size: int = 3) -> dict[str, np.ndarray]:
    return {"layer.weight": np.full((2, size), value, np.float32), "step": np.array(value)}


def watch(wire: Wire, name: str, after: int = 0) -> Stream:
    """Begins to follow a name."""
    stream = wire.stream("WatchParameters")
    stream.send(replay_pb2.WatchParametersRequest(name=name, after_version=after, follow=True))
    stream.done_sending()
    return stream


def receive(stream: Stream) -> tuple[int, float]:
    """Returns the version received next, and the value its weights are filled with."""
    first, arrays = stream.receive_pack(replay_pb2.WatchParametersResponse)
    (value,) = np.unique(arrays["layer.weight"])
    assert value == arrays["step"]
    return first.version, float(value)


def test_versions_count_from_1_and_the_newest_is_returned(wire: Wire, name: str) -> None:
    assert [wire.publish(name, weights(value)) for value in (1, 2, 3)] == [1, 2, 3]
    version, arrays = wire.latest(name)
    assert version == 3
    assert arrays["layer.weight"].tolist() == [[3, 3, 3]] * 2
    assert (arrays["step"].shape, arrays["step"]) == ((), 3)


def test_a_version_may_be_asked_to_be_higher_and_never_falls(wire: Wire, name: str) -> None:
    for asked, given in ((0, 1), (7, 7), (3, 8), (9, 9), (0, 10), (1 << 62, 1 << 62)):
        assert wire.publish(name, weights(given), min_version=asked) == given
        assert wire.latest(name)[0] == given
    with refused(INVALID, "InvalidRequestError", "at most 2^62"):
        wire.publish(name, weights(0), min_version=(1 << 62) + 1)


PACKS: dict[str, Arrays] = {
    "every dtype": {
        dtype: np.ones(5, dtype)
        for dtype in (
            *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
            *("float16", "float32", "float64", "complex64", "complex128"),
        )
    },
    "no tensor": {},
    "an empty tensor": {"empty": np.zeros((3, 0, 2))},
    "a name like a path": {"../encoder/0.weight": np.ones(2)},
    "NaN": {"x": np.array([np.nan, np.inf])},
    "several chunks": {"x": np.arange(700_000, dtype=np.float32), "y": np.ones(3)},
}


@pytest.mark.parametrize("arrays", PACKS.values(), ids=PACKS.keys())
def test_tensors_come_back_as_they_were_published(wire: Wire, name: str, arrays: Arrays) -> None:
    assert wire.publish(name, arrays) == 1
    _, received = wire.latest(name)
    assert received.keys() == arrays.keys()
    for key, array in arrays.items():
        assert received[key].dtype == array.dtype
        np.testing.assert_array_equal(received[key], array)


def test_follower_gets_what_is_there_and_then_each_newer_version(wire: Wire, name: str) -> None:
    for value in (1, 2, 3):
        wire.publish(name, weights(value))
    stream = watch(wire, name)
    assert receive(stream) == (3, 3)
    for value in (4, 5):
        wire.publish(name, weights(value))
        assert receive(stream) == (value, value)


def test_follower_may_come_before_the_first_version(wire: Wire, name: str) -> None:
    stream = watch(wire, name)
    wire.publish(name + "-other", weights(7))
    wire.publish(name, weights(1))
    assert receive(stream) == (1, 1)


def test_follower_gets_only_versions_above_the_one_it_has(wire: Wire, name: str) -> None:
    for value in (1, 2):
        wire.publish(name, weights(value))
    assert receive(watch(wire, name, after=1)) == (2, 2)
    waiting = watch(wire, name, after=2)
    wire.publish(name, weights(3))
    assert receive(waiting) == (3, 3)


def test_slow_follower_skips_to_the_newest(server: ServerProcess, wire: Wire, name: str) -> None:
    large = 1 << 20  # 8 MiB a version, far more than the 64 KiB that may be under way
    wire.publish(name, weights(1, large))
    options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 64 << 10)]
    with Wire(server.address, options) as slow:
        stream = watch(slow, name)
        assert replay_pb2.WatchParametersResponse.FromString(stream.receive()).version == 1
        for value in (2, 3, 4, 5):
            wire.publish(name, weights(value, large))
        versions = [
            message.version
            for message in map(replay_pb2.WatchParametersResponse.FromString, iter_until(stream, 5))
            if message.HasField("pack")
        ]
    assert versions == [5]


def iter_until(stream: Stream, version: int) -> list[bytes]:
    """Returns all messages up to the one that begins this version."""
    messages = [stream.receive()]
    while replay_pb2.WatchParametersResponse.FromString(messages[-1]).version != version:
        messages.append(stream.receive())
    return messages


@pytest.mark.parametrize("after", [0, 1, 2, (1 << 64) - 1])
def test_no_newer_version_is_not_found(wire: Wire, name: str, after: int) -> None:
    if after:
        wire.publish(name, weights(1))
    with refused(MISSING, "NotFoundError", repr(name)):
        wire.latest(name, after_version=after)


@pytest.mark.parametrize("bad", ["", "../x", ".x", "a/b", "n" * 65], ids=ascii)
@pytest.mark.parametrize("follow", [False, True])
def test_watching_a_name_that_cannot_be_is_refused(wire: Wire, bad: str, follow: bool) -> None:
    request = replay_pb2.WatchParametersRequest(name=bad, follow=follow)
    with refused(INVALID, "InvalidRequestError", "1 to 64", "A-Za-z0-9._-"):
        wire.call("WatchParameters", request)


def header(dtype: str, *shape: int) -> pack_pb2.PackHeader:
    return pack_pb2.PackHeader(tensors=[pack_pb2.Tensor(name="x", dtype=dtype, shape=shape)])


HALF = header("uint8", 2)
# What is sent under a name that has a version, and how it is refused.
BROKEN: dict[str, tuple[Callable[[str], list[Publish]], tuple[str, ...]]] = {
    "nothing": (lambda _: [], (INVALID, MALFORMED, "without any parameters")),
    "a name alone": (lambda name: [Publish(name=name)], (INVALID, MALFORMED, "without any")),
    "no name": (
        lambda _: pack_messages(Publish, weights(9)),
        (INVALID, "InvalidRequestError", "''", "1 to 64"),
    ),
    "a path as name": (
        lambda _: pack_messages(Publish, weights(9), name="../x"),
        (INVALID, "InvalidRequestError", "'../x'"),
    ),
    "bytes before the header": (
        lambda name: [Publish(name=name, data=b"x")],
        (INVALID, MALFORMED, "before its pack header"),
    ),
    "a body too short": (
        lambda name: [Publish(name=name, pack=HALF, data=b"x")],
        (INVALID, MALFORMED, "ended in the middle of parameters"),
    ),
    "a body too long": (
        lambda name: [Publish(name=name, pack=HALF, data=b"xxx")],
        (INVALID, MALFORMED, "has 2 bytes", "3 came"),
    ),
    "bytes after the end": (
        lambda name: [Publish(name=name, pack=HALF, data=b"xx"), Publish(data=b"x")],
        (INVALID, MALFORMED, "after the parameters were complete"),
    ),
    "a second pack": (
        lambda name: pack_messages(Publish, weights(9), name=name) * 2,
        (INVALID, MALFORMED, "after the parameters were complete"),
    ),
    "an object": (
        lambda name: [Publish(name=name, pack=header("object", 1))],
        (INVALID, MALFORMED, "'object'"),
    ),
    "bool bytes of 2": (
        lambda name: [Publish(name=name, pack=header("bool", 1), data=b"\2")],
        (INVALID, MALFORMED, "0 and 1"),
    ),
    "1 GiB and a byte": (
        lambda name: [Publish(name=name, pack=header("uint8", (1 << 30) + 1))],
        (EXHAUSTED, LIMIT, "received 1,073,741,825", "limit is 1,073,741,824"),
    ),
    "another name amid the body": (
        lambda name: [
            Publish(name=name, pack=HALF, data=b"x"),
            Publish(name=f"{name}-other", data=b"x"),
        ],
        (INVALID, MALFORMED, "-other'; set `name` with `pack`"),
    ),
    "a name twice": (
        lambda name: [
            Publish(name=name, pack=pack_pb2.PackHeader(tensors=[*HALF.tensors, *HALF.tensors]))
        ],
        (INVALID, MALFORMED, "twice"),
    ),
}


@pytest.mark.parametrize(("messages", "refusal"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_publication_is_refused_and_changes_nothing(
    wire: Wire, name: str, messages: Callable[[str], list[Publish]], refusal: tuple[str, ...]
) -> None:
    wire.publish(name, weights(1))
    code, kind, *words = refusal
    with refused(code, kind, *words):
        wire.call("PublishParameters", *messages(name))
    version, arrays = wire.latest(name)
    assert (version, arrays["step"]) == (1, 1)


def test_fields_of_newer_peers_amid_the_body_change_nothing(wire: Wire, name: str) -> None:
    """Also where such a peer repeats the name."""
    begun = Publish(name=name, pack=HALF, min_version=7).SerializeToString()
    unknown = b"\xa0\x06\x01"  # field 100
    middle, end = Publish(data=b"x"), Publish(name=name, data=b"y")
    wire.call(
        "PublishParameters",
        *(begun, middle.SerializeToString() + unknown, end.SerializeToString()),
    )
    version, arrays = wire.latest(name)
    assert (version, arrays["x"].tobytes()) == (7, b"xy")


def test_names_of_parameters_are_limited(tmp_path: Path) -> None:
    limits = ServerLimits(max_parameter_sets=2)
    with LocalServer(tmp_path / "data", limits) as server, Wire(server.address) as wire:
        for name in ("a", "b", "a"):
            wire.publish(name, weights(1))
        with refused(EXHAUSTED, LIMIT, "names of parameters", "received 3", "limit is 2"):
            wire.publish("c", weights(1))
        assert wire.latest("a")[0] == 2


def test_header_of_the_test_client_is_what_the_server_sends(wire: Wire, name: str) -> None:
    arrays = weights(1)
    wire.publish(name, arrays)
    (reply,) = wire.call("WatchParameters", replay_pb2.WatchParametersRequest(name=name))
    assert replay_pb2.WatchParametersResponse.FromString(reply).pack == header_of(arrays)
