"""Values to protobuf messages and back, over the wire's bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from replayring_proto import messages
from replayring_proto.errors import InvalidSpecError, MalformedMessageError
from replayring_proto.messages import BufferInfo, parse
from replayring_proto.query import SampleQuery, View, Window
from replayring_proto.spec import DTYPES, DURABILITIES, PRESET_NAMES, BufferSpec
from replayring_proto.v1 import buffer_pb2, pack_pb2, replay_pb2

column_names = st.from_regex(r"[a-z][a-z0-9._]{0,8}", fullmatch=True).filter(
    lambda name: name not in PRESET_NAMES and not name.endswith("_is_pad")
)
entries = st.builds(
    lambda shape, dtype: {"shape": shape, "dtype": dtype},
    st.lists(st.integers(1, 100), max_size=4),
    st.sampled_from(list(DTYPES)),
)
specs = st.builds(
    BufferSpec.from_data_spec,
    st.dictionaries(column_names, entries, min_size=1, max_size=4),
    st.integers(1, 1 << 40),
    st.none() | st.floats(1e-6, 1e9),
    st.sampled_from(DURABILITIES),
)
finite = st.floats(allow_nan=False, allow_infinity=False)
windows = st.one_of(
    st.builds(Window, column_names, seconds=st.lists(finite, min_size=1, max_size=4).map(tuple)),
    st.builds(
        Window,
        column_names,
        frames=st.lists(st.integers(-(1 << 40), 1 << 40), min_size=1, max_size=4).map(tuple),
    ),
)
views = st.builds(
    View,
    st.none() | st.lists(column_names, min_size=1, max_size=4).map(tuple),
    st.lists(windows, max_size=3).map(tuple),
    st.none() | st.floats(0, 1e6),
)


def over_the_wire(message: Any) -> Any:
    return type(message).FromString(message.SerializeToString())


@settings(max_examples=100)
@given(specs)
def test_a_spec_arrives_as_it_was(spec: BufferSpec) -> None:
    assert messages.spec_from_message(over_the_wire(messages.spec_to_message(spec))) == spec


@settings(max_examples=100)
@given(views)
def test_a_view_arrives_as_it_was(view: View) -> None:
    assert messages.view_from_message(over_the_wire(messages.view_to_message(view))) == view


def test_a_view_of_no_columns_arrives_as_one_of_a_preset() -> None:
    """No keys mean all of them on the wire; the presets always come, so one of them is none."""
    arrived = messages.view_from_message(messages.view_to_message(View(keys=())))
    assert arrived.keys is not None
    assert set(arrived.keys) <= PRESET_NAMES


@settings(max_examples=100)
@given(views, st.integers(1, 1 << 20), st.integers(0, 1 << 40))
def test_a_query_arrives_as_it_was(view: View, batch_size: int, drop: int) -> None:
    message = replay_pb2.SampleSpec(
        batch_size=batch_size, view=messages.view_to_message(view), drop_n_last_frames=drop
    )
    assert messages.query_from_message(over_the_wire(message)) == SampleQuery(
        batch_size, view, drop
    )


@settings(max_examples=50)
@given(specs, st.lists(st.integers(0, (1 << 63) - 1), min_size=6, max_size=6), st.text(max_size=9))
def test_an_info_arrives_as_it_was(spec: BufferSpec, numbers: list[int], text: str) -> None:
    info = BufferInfo(
        name=text,
        buffer_id=text,
        spec=spec,
        oldest_index=numbers[0],
        next_index=numbers[1],
        num_episodes=numbers[2],
        next_episode_index=numbers[3],
        physical_rows=numbers[4],
        disk_bytes=numbers[5],
        path=text,
    )
    assert messages.info_from_message(over_the_wire(messages.info_to_message(info))) == info
    assert info.num_frames == numbers[1] - numbers[0]
    assert (info.capacity, info.fps) == (spec.capacity, spec.fps)
    assert replace(info, next_index=numbers[0]).num_frames == 0


@pytest.mark.parametrize(
    "spec",
    [
        buffer_pb2.BufferSpec(),
        buffer_pb2.BufferSpec(capacity=10),
        buffer_pb2.BufferSpec(columns=[buffer_pb2.ColumnSpec(name="a", dtype="int8")]),
        *(
            buffer_pb2.BufferSpec(columns=[buffer_pb2.ColumnSpec(**column)], capacity=10)
            for column in (
                {"name": "a"},
                {"name": "a", "dtype": "object"},
                {"name": "../a", "dtype": "int8"},
                {"name": "index", "dtype": "int8"},
                {"name": "a", "dtype": "int8", "shape": [0]},
                {"name": "a", "dtype": "int8", "shape": [1 << 63, 2]},
            )
        ),
        buffer_pb2.BufferSpec(
            columns=[buffer_pb2.ColumnSpec(name="a", dtype="int8")], capacity=(1 << 64) - 1
        ),
        buffer_pb2.BufferSpec(
            columns=[buffer_pb2.ColumnSpec(name="a", dtype="int8")], capacity=1, fps=float("nan")
        ),
        buffer_pb2.BufferSpec(
            columns=[buffer_pb2.ColumnSpec(name="a", dtype="int8")] * 2, capacity=10
        ),
        buffer_pb2.BufferSpec(
            columns=[buffer_pb2.ColumnSpec(name="a", dtype="int8")],
            capacity=10,
            durability=99,  # type: ignore[arg-type]
        ),
    ],
)
def test_a_spec_that_breaks_a_rule_is_refused_on_arrival(spec: buffer_pb2.BufferSpec) -> None:
    with pytest.raises(InvalidSpecError):
        messages.spec_from_message(over_the_wire(spec))


def test_a_frame_rate_of_zero_is_told_from_none() -> None:
    """Unset means no frame rate; zero is a mistake, and is answered."""
    column = buffer_pb2.ColumnSpec(name="a", dtype="int8")
    unset = buffer_pb2.BufferSpec(columns=[column], capacity=10)
    assert messages.spec_from_message(unset).fps is None
    with pytest.raises(InvalidSpecError, match="fps"):
        messages.spec_from_message(buffer_pb2.BufferSpec(columns=[column], capacity=10, fps=0))


def test_a_durability_left_out_is_interval() -> None:
    column = buffer_pb2.ColumnSpec(name="a", dtype="int8")
    message = buffer_pb2.BufferSpec(columns=[column], capacity=10)
    assert messages.spec_from_message(message).durability == "interval"


KINDS = [
    module_type
    for module in (buffer_pb2, pack_pb2, replay_pb2)
    for name in module.DESCRIPTOR.message_types_by_name
    for module_type in [getattr(module, name)]
]


@settings(max_examples=300)
@given(st.sampled_from(KINDS), st.binary(max_size=40))
def test_any_bytes_parse_or_are_malformed(kind: type[Message], encoded: bytes) -> None:
    try:
        message = parse(kind, encoded)
    except MalformedMessageError:
        return
    assert isinstance(message, kind)


@pytest.mark.parametrize("encoded", [b"\xff", b"\x0a\x05ab", b"\x0a\x01\xff"], ids=repr)
def test_bytes_that_are_no_message_are_named_so(encoded: bytes) -> None:
    """The last of them is a name that is no UTF-8."""
    with pytest.raises(MalformedMessageError, match=r"replayring\.v1\.GetBufferRequest"):
        parse(replay_pb2.GetBufferRequest, encoded)
