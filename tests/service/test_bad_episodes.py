"""AddEpisodes refuses, whole, an episode that does not fit its buffer."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.service.frames import CAPACITY, SPEC, episode, refused, state
from tests.wire import Wire, body_of, episode_messages, header_of, start_message

INVALID = "INVALID_ARGUMENT"
NAN, INF = float("nan"), float("inf")


class Case(NamedTuple):
    """Changes to a good episode, and what the refusal says."""

    changes: dict[str, Any]
    words: tuple[str, ...]
    kind: str = "InvalidEpisodeError"
    frames: int = 4


def times(*values: float) -> dict[str, Any]:
    return {"timestamp": np.array(values)}


CASES = {
    "unknown key": Case({"reward": np.zeros(4)}, ("'reward'", "leave it out", "'pixel'")),
    "missing key": Case({"pixel": None}, ("lacks 'pixel'", "every column is needed")),
    "no keys": Case(dict.fromkeys(("pixel", "position", "done")), ("lacks 'done', 'pixel'",)),
    "index given": Case({"index": np.arange(4)}, ("'index'", "leave it out")),
    "episode_index given": Case({"episode_index": np.zeros(4, int)}, ("'episode_index'",)),
    "our own column": Case({"_bounds": np.zeros((4, 2), int)}, ("'_bounds'",)),
    "a path as key": Case({"../x": np.zeros(4)}, ("'../x'",)),
    "(4, 1) into (4, 2)": Case(
        {"position": np.zeros((4, 1), np.float32)}, ("'position'", "(4, 1)", "(frames, 2)")
    ),
    "an axis too few": Case({"position": np.zeros(4, np.float32)}, ("(4,)", "(frames, 2)")),
    "an axis too many": Case({"pixel": np.zeros((4, 1), np.uint8)}, ("(4, 1)", "(frames,)")),
    "a scalar": Case({"pixel": np.zeros((), np.uint8)}, ("'pixel' has shape ()",)),
    "300.7 into uint8": Case(
        {"pixel": np.full(4, 300.7)}, ("float64", "uint8", "convert it to uint8")
    ),
    "300 into uint8": Case({"pixel": np.full(4, 300, np.uint16)}, ("300", "uint8 takes 0 to 255")),
    "-1 into uint8": Case({"pixel": np.full(4, -1, np.int64)}, ("int64", "uint8")),
    "float into bool": Case({"done": np.zeros(4)}, ("float64", "bool")),
    "complex into float": Case({"position": np.zeros((4, 2), complex)}, ("complex128", "float32")),
    "unequal lengths": Case({"pixel": np.zeros(3, np.uint8)}, ("'pixel': 3", "'done': 4")),
    "NaN timestamps": Case(times(0, NAN, 1, 2), ("finite",)),
    "infinite timestamps": Case(times(0, 1, 2, INF), ("finite",)),
    "decreasing timestamps": Case(times(0, 2, 1, 3), ("decrease", "2.0 then 1.0 at frame 2")),
    "timestamps of another shape": Case({"timestamp": np.zeros((4, 1))}, ("(4, 1)", "(frames,)")),
    "fractional frame_index": Case({"frame_index": np.arange(4.0)}, ("float64", "int64")),
    "0 frames": Case({}, ("no frames", "at least 1"), frames=0),
    "more than the capacity": Case(
        {}, (f"{CAPACITY + 1} frames", f"1 to {CAPACITY}", "split"), frames=CAPACITY + 1
    ),
}


@pytest.fixture
def buffer(wire: Wire, name: str) -> str:
    wire.create(name, SPEC)
    wire.add(name, episode(4), episode(3))
    return name


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_misfit_is_refused_and_nothing_is_written(wire: Wire, buffer: str, case: Case) -> None:
    before = state(wire, buffer)
    with refused(INVALID, case.kind, "sequence 3: ", *case.words):
        wire.add(buffer, episode(case.frames, **case.changes), sequence=3)
    assert state(wire, buffer) == before
    (acknowledged,) = wire.add(buffer, episode(2), sequence=3)  # the sequence is still free
    assert (acknowledged.index, acknowledged.episode_index) == (7, 2)
    assert not acknowledged.duplicate


@pytest.mark.parametrize("byte", [2, 128, 255])
def test_bool_bytes_other_than_0_and_1_are_refused(wire: Wire, buffer: str, byte: int) -> None:
    before = state(wire, buffer)
    (message,) = episode_messages(3, episode(4))
    message.data = message.data[:-1] + bytes([byte])  # the column `done` is the pack's last
    with refused(INVALID, "MalformedMessageError", "'done'", "0 and 1"):
        wire.call("AddEpisodes", start_message(buffer), message)
    assert state(wire, buffer) == before


DTYPES = ("object", "O", "U3", "S3", "datetime64[ns]", "bfloat16", ">f4", "float", "", "V8", "é")


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtype_off_the_allowlist_is_refused(wire: Wire, buffer: str, dtype: str) -> None:
    before = state(wire, buffer)
    (message,) = episode_messages(3, episode(4))
    message.pack.tensors[0].dtype = dtype
    with refused(INVALID, "MalformedMessageError", repr(dtype), "'position'", "float32"):
        wire.call("AddEpisodes", start_message(buffer), message)
    assert state(wire, buffer) == before


def test_duplicate_key_is_refused(wire: Wire, buffer: str) -> None:
    before = state(wire, buffer)
    arrays = episode(4, twin=np.zeros(4, np.uint8))
    (message,) = episode_messages(3, arrays)
    message.pack.CopyFrom(header_of(arrays))
    message.pack.tensors[3].name = "pixel"
    message.data = body_of(arrays)
    with refused(INVALID, "MalformedMessageError", "twice", "unique"):
        wire.call("AddEpisodes", start_message(buffer), message)
    assert state(wire, buffer) == before


def test_message_of_long_foreign_names_still_arrives_whole(wire: Wire, buffer: str) -> None:
    # 20 names of 120 emoji were 11 KiB of metadata once, which gRPC cuts off with the whole status.
    # It does so at random, the more often the more there is: hence the many calls.
    names = {chr(0x1F600) * 120 + str(number): np.zeros(4) for number in range(30)}
    for _ in range(30):
        with refused(INVALID, "InvalidEpisodeError", "the episode has"):
            wire.add(buffer, episode(4, **names), sequence=3)


def test_episodes_before_the_refused_one_are_stored_and_later_ones_are_not(
    wire: Wire, buffer: str
) -> None:
    call = wire.stream("AddEpisodes")
    call.send(start_message(buffer))
    call.send(*episode_messages(3, episode(1, 30)), *episode_messages(4, episode(1, 40)))
    call.send(*episode_messages(5, episode(1, pixel=None)), *episode_messages(6, episode(1, 60)))
    call.done_sending()
    assert len([call.receive(), call.receive()]) == 2
    with refused(INVALID, "InvalidEpisodeError", "sequence 5: ", "lacks 'pixel'"):
        call.receive()
    assert wire.columns(buffer, "pixel")["pixel"].tolist() == [0, 1, 2, 3, 0, 1, 2, 30, 40]
