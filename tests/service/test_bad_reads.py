"""GetItem, SampleBatch and ReadColumn refuse what they cannot answer, and say what they could."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from replayring_proto.v1 import buffer_pb2, replay_pb2
from tests.service.frames import CAPACITY, SPEC, episode, refused, state
from tests.support import ServerProcess
from tests.wire import Wire, spec_message, view_message

INVALID, EXHAUSTED = "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"
RANGE, MISSING = "OUT_OF_RANGE", "NOT_FOUND"
SPEC_ERROR, LIMIT, REQUEST = "InvalidSpecError", "LimitExceededError", "InvalidRequestError"
NAN, INF = float("nan"), float("inf")
FRAMES = 7

View = buffer_pb2.View


class Refusal(NamedTuple):
    """Status, error class and words of a refusal."""

    code: str
    kind: str
    words: tuple[str, ...]


@pytest.fixture(scope="module")
def buffers(shared_server: ServerProcess) -> Iterator[None]:
    with Wire(shared_server.address) as wire:
        wire.create("reads", SPEC)
        wire.add("reads", episode(4), episode(3))
        wire.create("no-fps", spec_message({"a": ("bool", ())}, fps=None))
        wire.create("empty", SPEC)
        wire.create("wide", spec_message({"a": ("uint8", (1 << 20,))}, 1))
        before = state(wire, "reads")
        yield
        assert state(wire, "reads") == before


def seconds(*values: float, key: str = "pixel", **options: Any) -> View:
    return view_message(seconds={key: values}, **options)


def frames(*values: int, key: str = "pixel") -> View:
    return view_message(frames={key: values})


def twice(view: View) -> View:
    view.windows.append(view.windows[0])
    return view


# Views are one message for both RPCs, so each of these must be refused by both.
VIEWS: dict[str, tuple[View, Refusal]] = {
    "an unknown key": (
        view_message(["pixel", "nope"]),
        Refusal(INVALID, SPEC_ERROR, ("'nope'", "the columns are done, episode_index")),
    ),
    "a path as key": (
        view_message(["../cursor"]),
        Refusal(INVALID, SPEC_ERROR, ("no column '../cursor'",)),
    ),
    "our own column": (
        view_message(["_bounds"]),
        Refusal(INVALID, SPEC_ERROR, ("no column '_bounds'",)),
    ),
    "a window on an unknown key": (
        frames(0, key="nope"),
        Refusal(INVALID, SPEC_ERROR, ("no column 'nope'",)),
    ),
    "a window without offsets": (
        frames(),
        Refusal(INVALID, SPEC_ERROR, ("'pixel' has no offsets", "at least one")),
    ),
    "a window that is neither": (
        View(windows=[buffer_pb2.Window(key="pixel")]),
        Refusal(INVALID, SPEC_ERROR, ("'pixel' has no offsets",)),
    ),
    "a window of no seconds": (
        seconds(),
        Refusal(INVALID, SPEC_ERROR, ("'pixel' has no offsets",)),
    ),
    "4,097 offsets": (
        frames(*range(4097)),
        Refusal(EXHAUSTED, LIMIT, ("'pixel'", "received 4,097", "limit is 4,096", "fewer")),
    ),
    "4,097 seconds": (
        seconds(*[0.0] * 4097),
        Refusal(EXHAUSTED, LIMIT, ("received 4,097", "limit is 4,096")),
    ),
    "an offset of NaN": (seconds(0, NAN), Refusal(INVALID, SPEC_ERROR, ("'pixel' is not finite",))),
    "an offset of infinity": (
        seconds(-INF),
        Refusal(INVALID, SPEC_ERROR, ("'pixel' is not finite",)),
    ),
    "an offset beyond any buffer": (
        frames(-(1 << 63)),
        Refusal(INVALID, SPEC_ERROR, ("1,099,511,627,776 frames",)),
    ),
    "two windows on a key": (
        twice(frames(0)),
        Refusal(INVALID, SPEC_ERROR, ("'pixel' has more than one window",)),
    ),
    "a negative tolerance": (
        seconds(0, tolerance_s=-1),
        Refusal(INVALID, SPEC_ERROR, ("tolerance_s is -1.0",)),
    ),
    "a tolerance of NaN": (
        seconds(0, tolerance_s=NAN),
        Refusal(INVALID, SPEC_ERROR, ("tolerance_s is nan",)),
    ),
    "513 keys": (
        view_message(["pixel"] * 513),
        Refusal(EXHAUSTED, LIMIT, ("keys of a view", "received 513", "limit is 512")),
    ),
    "a million windows": (
        View.FromString(b"\x12\x00" * 1_000_000),
        Refusal(EXHAUSTED, LIMIT, ("windows of a view", "1,000,000", "limit is 512")),
    ),
    "a window that misses within the episode": (
        seconds(0.05, tolerance_s=0.01),
        Refusal("FAILED_PRECONDITION", "ToleranceError", ("+0.05 s", "tolerance_s=0.01", "1/fps")),
    ),
}


@pytest.mark.usefixtures("buffers")
@pytest.mark.parametrize(("view", "refusal"), VIEWS.values(), ids=VIEWS.keys())
def test_bad_view_is_refused_in_get_item(wire: Wire, view: View, refusal: Refusal) -> None:
    with refused(refusal.code, refusal.kind, *refusal.words):
        wire.get("reads", [0], view=view)


@pytest.mark.usefixtures("buffers")
@pytest.mark.parametrize(("view", "refusal"), VIEWS.values(), ids=VIEWS.keys())
def test_bad_view_is_refused_in_sample_batch(wire: Wire, view: View, refusal: Refusal) -> None:
    with refused(refusal.code, refusal.kind, *refusal.words):
        wire.sample("reads", 64, view=view)


@pytest.mark.usefixtures("buffers")
def test_seconds_without_fps_are_refused(wire: Wire) -> None:
    view = seconds(0, key="a")
    for ask in (
        lambda: wire.get("no-fps", [0], view=view),
        lambda: wire.sample("no-fps", 1, view=view),
    ):
        with refused(INVALID, SPEC_ERROR, "'a'", "has no fps", "delta_indices"):
            ask()


GETS: dict[str, tuple[dict[str, Any], Refusal]] = {
    "neither positions nor indices": (
        {},
        Refusal(INVALID, REQUEST, ("either positions or indices", "neither")),
    ),
    "both": ({"positions": [0], "indices": [0]}, Refusal(INVALID, REQUEST, ("received both",))),
    "a position too high": (
        {"positions": [0, FRAMES]},
        Refusal(RANGE, "FrameNotFoundError", ("position 7", "7 frames are live", "-7 to 6")),
    ),
    "a position too low": (
        {"positions": [-FRAMES - 1]},
        Refusal(RANGE, "FrameNotFoundError", ("position -8", "-7 to 6")),
    ),
    "the lowest position of all": (
        {"positions": [-(1 << 63)]},
        Refusal(RANGE, "FrameNotFoundError", (f"{-(1 << 63)}",)),
    ),
    "an index yet to come": (
        {"indices": [0, FRAMES]},
        Refusal(RANGE, "FrameNotFoundError", ("index 7 does not exist yet", "0 to 6")),
    ),
    "the highest index of all": (
        {"indices": [0, (1 << 64) - 1]},
        Refusal(RANGE, "FrameNotFoundError", ("index 18446744073709551615 does not exist yet",)),
    ),
    "the lowest index beyond int64": (
        {"indices": [1 << 63]},
        Refusal(RANGE, "FrameNotFoundError", ("index 9223372036854775808 does not exist yet",)),
    ),
    "65,537 positions": (
        {"positions": [0] * 65_537},
        Refusal(EXHAUSTED, LIMIT, ("received 65,537", "limit is 65,536", "ask for fewer")),
    ),
    "too many window entries": (
        {"positions": [0] * 2048, "view": frames(*[0] * 2049)},
        Refusal(EXHAUSTED, LIMIT, ("received 4,196,352", "limit is 4,194,304", "shorter windows")),
    ),
    "no such buffer": (
        {"buffer": "nope", "positions": [0]},
        Refusal(MISSING, "NotFoundError", ("'nope'", "did you mean 'no-fps'?")),
    ),
    "an empty buffer": (
        {"buffer": "empty", "positions": [0]},
        Refusal(RANGE, "FrameNotFoundError", ("position 0", "the buffer is empty")),
    ),
    "an empty buffer from its end": (
        {"buffer": "empty", "positions": [-1]},
        Refusal(RANGE, "FrameNotFoundError", ("position -1", "the buffer is empty")),
    ),
    "257 frames of 1 MiB": (
        {"buffer": "wide", "positions": [0] * 257},
        Refusal(EXHAUSTED, LIMIT, ("bytes of one reply", "limit is 268,435,456", "fewer keys")),
    ),
}


@pytest.mark.usefixtures("buffers")
@pytest.mark.parametrize(("fields", "refusal"), GETS.values(), ids=GETS.keys())
def test_bad_get_item_is_refused(wire: Wire, fields: dict[str, Any], refusal: Refusal) -> None:
    with refused(refusal.code, refusal.kind, *refusal.words):
        wire.call("GetItem", replay_pb2.GetItemRequest(**{"buffer": "reads", **fields}))


SAMPLES: dict[str, tuple[dict[str, Any], Refusal]] = {
    "batch_size 0": (
        {"batch_size": 0},
        Refusal(INVALID, REQUEST, ("batch_size is 0", "at least 1")),
    ),
    "batch_size 65,537": (
        {"batch_size": 65_537},
        Refusal(EXHAUSTED, LIMIT, ("asked for at once", "65,537", "limit is 65,536", "fewer")),
    ),
    "batch_size 2^32 - 1": (
        {"batch_size": (1 << 32) - 1},
        Refusal(EXHAUSTED, LIMIT, ("4,294,967,295", "65,536")),
    ),
    "min_frames above the capacity": (
        {"min_frames": CAPACITY + 1},
        Refusal(INVALID, REQUEST, ("min_frames is 11", "keeps 10 frames", "for ever")),
    ),
    "min_frames 2^64 - 1": (
        {"min_frames": (1 << 64) - 1},
        Refusal(INVALID, REQUEST, ("keeps 10 frames",)),
    ),
    "a drop that no episode survives": (
        {"drop_n_last_frames": CAPACITY},
        Refusal(INVALID, REQUEST, ("drop_n_last_frames is 10", "from 0 to 9", "larger")),
    ),
    "a drop of 2^64 - 1": (
        {"drop_n_last_frames": (1 << 64) - 1},
        Refusal(INVALID, REQUEST, ("from 0 to 9",)),
    ),
    "no such buffer": ({"buffer": "nope"}, Refusal(MISSING, "NotFoundError", ("'nope'",))),
    "no buffer": ({"buffer": ""}, Refusal(MISSING, "NotFoundError", ("''",))),
    "257 frames of 1 MiB": (
        {"buffer": "wide", "batch_size": 257},
        Refusal(EXHAUSTED, LIMIT, ("bytes of one reply", "limit is 268,435,456")),
    ),
    "too many window entries": (
        {"batch_size": 2048, "view": frames(*[0] * 2049)},
        Refusal(EXHAUSTED, LIMIT, ("received 4,196,352", "limit is 4,194,304", "shorter windows")),
    ),
}


@pytest.mark.usefixtures("buffers")
@pytest.mark.parametrize(("fields", "refusal"), SAMPLES.values(), ids=SAMPLES.keys())
def test_bad_sample_is_refused(wire: Wire, fields: dict[str, Any], refusal: Refusal) -> None:
    spec = replay_pb2.SampleSpec(**{"buffer": "reads", "batch_size": 2, **fields})
    with refused(refusal.code, refusal.kind, *refusal.words):
        wire.call("SampleBatch", replay_pb2.SampleBatchRequest(spec=spec))


@pytest.mark.usefixtures("buffers")
def test_sampling_must_say_what_first(wire: Wire) -> None:
    with refused(INVALID, "MalformedMessageError", "first request", "`spec`"):
        wire.call("SampleBatch", replay_pb2.SampleBatchRequest(batches=1))


@pytest.mark.usefixtures("buffers")
def test_more_batches_at_once_than_allowed_are_refused(wire: Wire) -> None:
    with refused(EXHAUSTED, LIMIT, "batches", "received 1,025", "limit is 1,024"):
        wire.sample("reads", 1, batches=1025)


COLUMNS: dict[str, tuple[list[str], Refusal]] = {
    "no key": ([], Refusal(INVALID, REQUEST, ("at least one key",))),
    "a key twice": (["done", "done"], Refusal(INVALID, REQUEST, ("each once", "'done'"))),
    "an unknown key": (["nope"], Refusal(INVALID, SPEC_ERROR, ("no column 'nope'", "done"))),
    "a path": (["../cursor"], Refusal(INVALID, SPEC_ERROR, ("no column '../cursor'",))),
    "our own column": (["_bounds"], Refusal(INVALID, SPEC_ERROR, ("no column '_bounds'",))),
    "513 keys": (["done"] * 513, Refusal(EXHAUSTED, LIMIT, ("received 513", "limit is 512"))),
}


@pytest.mark.usefixtures("buffers")
@pytest.mark.parametrize(("keys", "refusal"), COLUMNS.values(), ids=COLUMNS.keys())
def test_bad_read_column_is_refused(wire: Wire, keys: list[str], refusal: Refusal) -> None:
    with refused(refusal.code, refusal.kind, *refusal.words):
        wire.columns("reads", *keys)
