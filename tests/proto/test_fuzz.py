"""Whatever bytes or arrays come in, parsers either refuse them by name or return what is in order.

Inputs are valid ones, broken at random: as bytes, and in their structure, beyond every limit too.
REPLAYRING_FUZZ sets how many are tried in all.
"""

from __future__ import annotations

import importlib
import os
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest

from replayring_proto import limits
from replayring_proto.episode import check_episode
from replayring_proto.errors import ReplayRingError
from replayring_proto.framing import decode_frame
from replayring_proto.messages import (
    parse,
    query_from_message,
    spec_from_message,
    spec_to_message,
    view_to_message,
)
from replayring_proto.pack import parse_header
from replayring_proto.ring import Plan
from replayring_proto.spec import DTYPES, BufferSpec
from replayring_proto.v1 import buffer_pb2, pack_pb2, replay_pb2
from tests.mutate import EXTREMES, broken

INPUTS = int(os.environ.get("REPLAYRING_FUZZ", "100000"))

SPEC = BufferSpec.from_data_spec(
    {
        "image": {"shape": (2, 3), "dtype": "uint8"},
        "done": {"shape": (), "dtype": "bool"},
        "state": {"shape": (3,), "dtype": "float32"},
    },
    capacity=20,
    fps=10,
)
HUGE = (0, 1, -1, 255, 1 << 31, (1 << 32) - 1, 1 << 62, (1 << 63) - 1)
NAMES = ("", "a", "done", "index", "_x", "../x", "a/b", "é", "x" * 65, "y" * 300, "\0", "state")


def rarely(rng: Random) -> bool:
    """Says yes so seldom that inputs may be large then; they are in order otherwise."""
    return rng.random() < 0.003


# Pack headers


def header(rng: Random) -> bytes:
    message = pack_pb2.PackHeader()
    if rarely(rng):
        for number in range(limits.MAX_TENSORS + 1):
            message.tensors.add(name=str(number), dtype="bool")
        return message.SerializeToString()
    for number in range(rng.randrange(4)):
        shape = [rng.randrange(4) for _ in range(rng.choice((0, 1, 2, 33)))]
        if shape and rng.random() < 0.3:
            shape[-1] = abs(rng.choice(HUGE))
        dtype = rng.choice((*DTYPES, "object", ">f4", "")) if rng.random() < 0.3 else "uint8"
        name = rng.choice(NAMES) if rng.random() < 0.3 else f"n{number}"
        message.tensors.add(name=name, dtype=dtype, shape=shape)
    return message.SerializeToString()


def check_header(rng: Random) -> None:
    encoded = maybe_broken(rng, header(rng))
    layout = parse_header(encoded)
    assert len(encoded) <= limits.MAX_HEADER_BYTES
    assert len(layout.tensors) <= limits.MAX_TENSORS
    assert len({tensor.name for tensor in layout.tensors}) == len(layout.tensors)
    for tensor, offset in zip(layout.tensors, layout.offsets, strict=True):
        assert tensor.dtype.name in DTYPES
        assert len(tensor.shape) <= limits.MAX_AXES
        assert len(tensor.name) <= limits.MAX_TENSOR_NAME
        assert 0 <= tensor.nbytes < 1 << 62
        assert offset % 64 == 0
        assert offset + tensor.nbytes <= layout.nbytes
    again = parse_header(layout.header())
    assert (again.tensors, again.nbytes) == (layout.tensors, layout.nbytes)
    if layout.nbytes <= 1 << 16:
        views = layout.views(np.zeros(layout.nbytes, np.uint8))
        assert [view.shape for view in views.values()] == [t.shape for t in layout.tensors]


# Specs


def spec_bytes(rng: Random) -> bytes:
    message = buffer_pb2.BufferSpec(
        capacity=rng.choice((1, 20, 1 << 40)), durability=rng.choice((0, 1, 2, 3))
    )
    if rarely(rng):
        for number in range(limits.MAX_COLUMNS + 1):
            message.columns.add(name=f"c{number}", dtype="bool")
        return message.SerializeToString()
    if rng.random() < 0.2:
        message.capacity = abs(rng.choice(HUGE))
    if rng.random() < 0.5:
        message.fps = rng.choice((10.0, 0.0, -1.0, float("nan"), float("inf"), 1e-300))
    for number in range(rng.randrange(1, 4)):
        shape = [rng.choice((1, 2, 3)) for _ in range(rng.choice((0, 1, 3, 31)))]
        if shape and rng.random() < 0.2:
            shape[0] = abs(rng.choice(HUGE))
        name = rng.choice((*NAMES, "a_is_pad")) if rng.random() < 0.3 else f"c{number}"
        message.columns.add(name=name, dtype=rng.choice(list(DTYPES)), shape=shape)
    return message.SerializeToString()


def check_spec(rng: Random) -> None:
    spec = spec_from_message(parse(buffer_pb2.BufferSpec, maybe_broken(rng, spec_bytes(rng))))
    assert 1 <= len(spec.columns) <= limits.MAX_COLUMNS
    assert 1 <= spec.capacity <= limits.MAX_CAPACITY
    assert spec.fps is None or 0 < spec.fps < float("inf")
    for column in spec.columns:
        assert column.name.isascii()
        assert column.name[0].isalnum()
        assert "/" not in column.name
        assert len(column.name) <= limits.MAX_COLUMN_NAME
        assert 0 < column.frame_bytes < 1 << 40
    assert spec_from_message(spec_to_message(spec)) == spec


# Messages that carry packs


def check_frame(rng: Random) -> None:
    if rarely(rng):
        decode_frame(b"\x1a\x00" * (limits.MAX_MESSAGE_FIELDS + 1))
        raise AssertionError("more fields than there may be")
    message = replay_pb2.AddEpisodesRequest(data=rng.randbytes(rng.randrange(40)))
    if rng.random() < 0.7:
        message.pack.SetInParent()
        message.sequence = abs(rng.choice(HUGE))
    if rng.random() < 0.3:
        message.start.buffer, message.start.writer_id = "b", rng.choice(("w", "w" * 70))
    encoded = maybe_broken(rng, message.SerializeToString())
    frame = decode_frame(encoded)
    rest = parse(replay_pb2.AddEpisodesRequest, frame.rest)
    assert not rest.data
    assert not rest.HasField("pack")
    if frame.header is not None:
        parse_header(frame.header)
    generated = replay_pb2.AddEpisodesRequest.FromString(encoded)  # takes it as well, and the same
    assert generated.data == frame.data
    assert generated.HasField("pack") == (frame.header is not None)
    assert (generated.start, generated.sequence) == (rest.start, rest.sequence)


# Queries


def query_bytes(rng: Random) -> bytes:
    spec = replay_pb2.SampleSpec(
        buffer="b",
        batch_size=rng.choice((1, 8, 0, (1 << 32) - 1)),
        drop_n_last_frames=abs(rng.choice(HUGE)) if rng.random() < 0.3 else 0,
    )
    view = spec.view
    if rarely(rng):
        spec.batch_size = 8
        view.keys.extend(["done"] * rng.choice((1, limits.MAX_VIEW_KEYS + 1)))
        view.windows.add(key="state").frames.values.extend([1] * (limits.MAX_WINDOW_OFFSETS + 1))
        return spec.SerializeToString()
    view.keys.extend(rng.choice(NAMES) for _ in range(rng.choice((0, 0, 1))))
    for key in rng.sample(["done", "state", "index", "nope"], rng.randrange(3)):
        window = view.windows.add(key=key)
        length = rng.randrange(4)
        if rng.random() < 0.5:
            times = (0.0, -0.1, 0.1, float("nan"), float("inf"), -1e308)
            window.seconds.values.extend(rng.choice(times[:3]) for _ in range(length))
            if rng.random() < 0.2:
                window.seconds.values.append(rng.choice(times))
        else:
            window.frames.values.extend([1] * length)
            if rng.random() < 0.2:
                window.frames.values.append(rng.choice((*HUGE, -(1 << 63))))
    if rng.random() < 0.3:
        view.tolerance_s = rng.choice((0.0, 0.1, -1.0, float("nan")))
    return spec.SerializeToString()


def check_query(rng: Random) -> None:
    query = query_from_message(parse(replay_pb2.SampleSpec, maybe_broken(rng, query_bytes(rng))))
    query.check(SPEC)
    plan = Plan(SPEC, query.view)
    assert query.batch_size >= 1
    assert query.drop_n_last_frames >= 0
    assert len(query.view.keys or ()) <= limits.MAX_VIEW_KEYS
    assert plan.entries_per_frame <= limits.MAX_WINDOW_OFFSETS
    names = [tensor.name for tensor in plan.layout(2).tensors]
    assert len(set(names)) == len(names)
    again = view_to_message(query.view)
    assert (
        query_from_message(replay_pb2.SampleSpec(batch_size=1, view=again)).view.check(SPEC) is None
    )


# Episodes

CHANGES: tuple[Callable[[Random, Any], Any], ...] = (
    lambda rng, array: array[: rng.randrange(len(array) + 1)],
    lambda rng, array: array.astype(rng.choice(("int64", "float64", "complex64", "uint8", "bool"))),
    lambda rng, array: array[..., None],
    lambda rng, array: np.concatenate([array] * 8),
    lambda rng, array: array.tolist(),
    lambda rng, array: array.astype(object),
    lambda rng, array: array.astype(str),
    lambda rng, array: array.astype(">f4"),
    lambda rng, array: array.reshape(-1),
    lambda rng, array: array[::-1],
    lambda rng, array: rng.choice(
        (None, "text", b"", 7, [], {}, [[1], [2, 3]], np.datetime64(1, "s"))
    ),
    lambda rng, array: array.astype("float64") * rng.choice((np.nan, np.inf, -1.0, 1e300)),
    lambda rng, array: array.astype("int64") - rng.choice((1, 300, 1 << 40)),
)


def episode(rng: Random) -> dict[str, Any]:
    frames = rng.choice((0, 1, 3, 20, 21))
    data: dict[str, Any] = {
        "image": np.zeros((frames, 2, 3), np.uint8),
        "done": np.zeros(frames, np.bool_),
        "state": np.ones((frames, 3), np.float32),
    }
    if rng.random() < 0.5:
        data["timestamp"] = np.arange(frames) / 10.0
    if rng.random() < 0.3:
        data["frame_index"] = np.arange(frames)
    return data


def check_one_episode(rng: Random) -> None:
    data = episode(rng)
    for key in rng.sample([*data], rng.randint(1, 2)):
        kind = rng.random()
        if kind < 0.1:
            del data[key]
        elif kind < 0.2:
            data[rng.choice(NAMES)] = np.zeros(3)
        else:
            with np.errstate(all="ignore"):
                data[key] = rng.choice(CHANGES)(rng, data[key])
    arrays = check_episode(SPEC, data)
    (frames,) = {len(array) for array in arrays.values()}
    assert 1 <= frames <= SPEC.capacity
    for name, array in arrays.items():
        assert array.dtype == SPEC.column(name).dtype
        assert array.shape[1:] == SPEC.column(name).shape
    if "timestamp" in arrays:
        assert np.isfinite(arrays["timestamp"]).all()
        assert (np.diff(arrays["timestamp"]) >= 0).all()


def maybe_broken(rng: Random, valid: bytes) -> bytes:
    """Breaks bytes, unless what they say is likely to be broken enough."""
    if rng.random() < 0.4:
        return valid
    if rng.random() < 0.02:
        return rng.choice(EXTREMES) * rng.randrange(1, 90)
    return broken(rng, valid)


CHECKS = [check_header, check_spec, check_frame, check_query, check_one_episode]


def fuzz(check: Callable[[Random], None], inputs: int) -> Counter[str]:
    """Tries that many inputs; returns how many were accepted, or refused as what."""
    outcomes: Counter[str] = Counter()
    rng = Random(check.__name__)
    for _ in range(inputs):
        try:
            check(rng)
        except ReplayRingError as error:
            outcomes[type(error).__name__] += 1
        else:
            outcomes["accepted"] += 1
    return outcomes


@pytest.mark.timeout(60 + INPUTS // 1000)
@pytest.mark.parametrize("check", CHECKS)
def test_malformed_input_is_refused_by_name_or_is_none(check: Callable[[Random], None]) -> None:
    inputs = INPUTS // len(CHECKS)
    outcomes = fuzz(check, inputs)
    assert inputs // 100 < outcomes["accepted"] < inputs // 2, outcomes


LIMITED = ("pack", "spec", "framing", "messages", "query")


@pytest.mark.parametrize("check", [check_header, check_spec, check_frame, check_query])
def test_without_the_limits_the_same_inputs_go_beyond_them(
    check: Callable[[Random], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a limit that is not checked is noticed."""
    for name in LIMITED:
        module = importlib.import_module(f"replayring_proto.{name}")
        if hasattr(module, "check_limit"):
            monkeypatch.setattr(module, "check_limit", lambda *_: None)
    monkeypatch.setattr(limits, "check_limit", lambda *_: None)
    with pytest.raises(AssertionError):
        fuzz(check, 5000)
