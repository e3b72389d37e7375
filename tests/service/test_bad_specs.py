"""CreateBuffer refuses names and specs that break a rule, and leaves no trace of them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from replayring_proto.v1 import buffer_pb2, replay_pb2
from tests.service.frames import SPEC, refused
from tests.support import ServerProcess
from tests.wire import Wire, spec_message

INVALID, EXHAUSTED = "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"
SPEC_ERROR, LIMIT = "InvalidSpecError", "LimitExceededError"
NAN, INF = float("nan"), float("inf")

Spec = buffer_pb2.BufferSpec
COMMIT = buffer_pb2.DURABILITY_COMMIT


class Case(NamedTuple):
    """A spec, and what the refusal says."""

    spec: Spec
    words: tuple[str, ...]
    code: str = INVALID
    kind: str = SPEC_ERROR


def column(name: str = "a", dtype: str = "float32", shape: tuple[int, ...] = ()) -> Spec:
    return spec_message({name: (dtype, shape)})


def columns(count: int) -> Spec:
    return spec_message({f"c{number}": ("bool", ()) for number in range(count)})


def durable(durability: int) -> Spec:
    # 9 is no value of the enum here, but may be one of a newer client's.
    return Spec.FromString(column().SerializeToString() + b"\x20" + bytes([durability]))


def twice(spec: Spec) -> Spec:
    spec.columns.append(spec.columns[0])
    return spec


CASES = {
    "no spec": Case(Spec(), ("at least one column",)),
    "no columns": Case(spec_message({}), ("at least one column",)),
    "capacity 0": Case(
        spec_message({"a": ("bool", ())}, 0), ("capacity is 0", "1,099,511,627,776")
    ),
    "capacity 2^40 + 1": Case(
        spec_message({"a": ("bool", ())}, (1 << 40) + 1),
        ("capacity is 1,099,511,627,777", "from 1"),
    ),
    "capacity 2^63": Case(
        spec_message({"a": ("bool", ())}, 1 << 63), ("9,223,372,036,854,775,808", "from 1 to")
    ),
    "capacity 2^64 - 1": Case(spec_message({"a": ("bool", ())}, (1 << 64) - 1), ("from 1 to",)),
    "fps 0": Case(spec_message({"a": ("bool", ())}, fps=0), ("fps is 0.0", "above 0")),
    "fps below 0": Case(spec_message({"a": ("bool", ())}, fps=-1), ("fps is -1.0", "above 0")),
    "fps NaN": Case(spec_message({"a": ("bool", ())}, fps=NAN), ("fps is nan", "finite")),
    "fps infinite": Case(spec_message({"a": ("bool", ())}, fps=INF), ("fps is inf", "finite")),
    "no name": Case(column(""), ("column ''", "1 to 128")),
    "a path": Case(column("../x"), ("'../x'", "A-Za-z0-9._-")),
    "an absolute path": Case(column("/etc/passwd"), ("'/etc/passwd'",)),
    "two dots": Case(column(".."), ("'..'", "beginning with a letter or digit")),
    "a hidden file": Case(column(".x"), ("'.x'",)),
    "a slash": Case(column("a/b"), ("'a/b'",)),
    "a zero byte": Case(column("a\0b"), (r"'a\x00b'",)),
    "a line end": Case(column("a\n"), (r"'a\n'",)),
    "an umlaut": Case(column("ä"), ("'ä'",)),
    "a long name": Case(column("n" * 129), ("1 to 128",)),
    "a reserved name": Case(column("_x"), ("'_x'", "reserved", "rename")),
    "our own name": Case(column("_bounds"), ("'_bounds'", "reserved")),
    "index": Case(column("index"), ("'index' exists in every buffer", "leave it out")),
    "frame_index": Case(column("frame_index"), ("'frame_index' exists in every buffer",)),
    "episode_index": Case(column("episode_index"), ("'episode_index' exists in every",)),
    "timestamp": Case(column("timestamp"), ("'timestamp' exists in every buffer",)),
    "a preset's mask": Case(column("index_is_pad"), ("'index_is_pad'", "padding mask of 'index'")),
    "a column's mask": Case(
        spec_message({"a": ("bool", ()), "a_is_pad": ("bool", ())}), ("padding mask of 'a'",)
    ),
    "a name twice": Case(twice(column()), ("'a' is declared twice",)),
    "object": Case(column(dtype="object"), ("'object'", "float32, float64")),
    "a string": Case(column(dtype="U10"), ("'U10'", "use one of")),
    "big-endian": Case(column(dtype=">f4"), ("'>f4'", "use one of")),
    "bfloat16": Case(column(dtype="bfloat16"), ("'bfloat16'", "use one of")),
    "no dtype": Case(column(dtype=""), ("dtype ''", "use one of")),
    "a structure": Case(column(dtype="f4,f4"), ("'f4,f4'",)),
    "an empty axis": Case(column(shape=(3, 0)), ("(3, 0)", "at least 1")),
    "31 axes": Case(column(shape=(1,) * 31), ("31 axes", "at most 30")),
    "four million axes": Case(column(shape=(1,) * 4_000_000), ("4,000,000 axes", "at most 30")),
    "a frame of 2^40 bytes": Case(
        column(dtype="uint8", shape=(1 << 20, 1 << 20)), ("1,099,511,627,776 bytes", "2^40")
    ),
    "a size that wraps": Case(column(shape=((1 << 63) - 1,) * 30), ("bytes per frame", "2^40")),
    "a durability of the future": Case(durable(9), ("durability", "interval")),
    "257 columns": Case(columns(257), ("received 257", "limit is 256", "merge"), EXHAUSTED, LIMIT),
    "half a million columns": Case(
        Spec.FromString(b"\x0a\x06\x12\x04bool" * 500_000),
        ("received 500,000", "limit is 256"),
        EXHAUSTED,
        LIMIT,
    ),
    "more than the disk": Case(
        spec_message({"a": ("uint8", (1 << 20,))}, 1 << 30),
        ("bytes", "are free", "at most 80%", "lower the capacity"),
        EXHAUSTED,
        "DiskSpaceError",
    ),
}


def traces(server: ServerProcess) -> set[Path]:
    return set(server.data_dir.iterdir())


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_bad_spec_is_refused_and_leaves_no_trace(
    server: ServerProcess, wire: Wire, name: str, case: Case
) -> None:
    before = traces(server)
    with refused(case.code, case.kind, *case.words):
        wire.create(name, case.spec)
    assert traces(server) == before
    with refused("NOT_FOUND", "NotFoundError", repr(name)):
        wire.info(name)


NAMES = (
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "/tmp/x",
    ".hidden",
    "-x",
    "a b",
    "a\0b",
    "ä",
    "x\n",
    "n" * 65,
)


@pytest.mark.parametrize("bad", NAMES, ids=ascii)
def test_bad_buffer_name_is_refused_and_leaves_no_trace(
    server: ServerProcess, wire: Wire, bad: str
) -> None:
    before = traces(server)
    with refused(INVALID, "InvalidRequestError", "buffer name", "1 to 64", "A-Za-z0-9._-"):
        wire.create(bad, SPEC)
    assert traces(server) == before


@pytest.mark.parametrize("bad", [*NAMES, "lock", ".parameters", "nobody"], ids=ascii)
@pytest.mark.parametrize("method", ["GetBuffer", "DeleteBuffer"])
def test_asking_for_what_is_no_buffer_finds_nothing(wire: Wire, method: str, bad: str) -> None:
    request = getattr(replay_pb2, f"{method}Request")(name=bad)
    with refused("NOT_FOUND", "NotFoundError", "there is no buffer"):
        wire.ask(method, request)


def test_name_of_the_lock_is_not_taken_for_a_buffer(server: ServerProcess, wire: Wire) -> None:
    before = traces(server)
    with refused("ALREADY_EXISTS", "AlreadyExistsError", "is no buffer", "another name"):
        wire.create("lock", SPEC)
    assert traces(server) == before


def test_creating_again_returns_the_buffer_only_for_an_equal_spec(wire: Wire, name: str) -> None:
    first = wire.create(name, SPEC)
    shuffled = Spec(columns=reversed(SPEC.columns), capacity=SPEC.capacity, fps=SPEC.fps)
    again = wire.create(name, shuffled)
    assert (first.created, again.created) == (True, False)
    assert again.buffer == first.buffer
    for other in (
        spec_message({"a": ("bool", ())}),
        Spec(columns=SPEC.columns, capacity=SPEC.capacity + 1, fps=SPEC.fps),
        Spec(columns=SPEC.columns, capacity=SPEC.capacity, fps=SPEC.fps * 2),
        Spec(columns=SPEC.columns, capacity=SPEC.capacity),
        Spec(columns=SPEC.columns[:-1], capacity=SPEC.capacity, fps=SPEC.fps),
        Spec(columns=SPEC.columns, capacity=SPEC.capacity, fps=SPEC.fps, durability=COMMIT),
    ):
        with refused("ALREADY_EXISTS", "AlreadyExistsError", "another spec", "delete it first"):
            wire.create(name, other)
    assert wire.info(name) == first.buffer


@pytest.mark.parametrize("durability", buffer_pb2.Durability.values())
def test_durability_is_kept_and_means_interval_if_unset(
    wire: Wire, name: str, durability: buffer_pb2.Durability
) -> None:
    created = wire.create(name, durable(durability)).buffer.spec.durability
    assert created == durability or (durability, created) == (0, buffer_pb2.DURABILITY_INTERVAL)
    assert wire.info(name).spec.durability == created
    assert not wire.create(name, durable(created)).created
