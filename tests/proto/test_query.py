"""What a view or a query may ask, and what asking wrongly answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from replayring_proto import limits
from replayring_proto.errors import InvalidRequestError, InvalidSpecError, LimitExceededError
from replayring_proto.query import SampleQuery, View, Window
from replayring_proto.ring import Plan
from replayring_proto.spec import PRESET_NAMES, BufferSpec

COLUMNS = {"state": {"shape": (2,), "dtype": "float32"}, "done": {"shape": (), "dtype": "bool"}}
SPEC = BufferSpec.from_data_spec(COLUMNS, 10, 10)
NO_FPS = BufferSpec.from_data_spec(COLUMNS, 10)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"keys": []},
        {"keys": ["state"]},
        {"keys": ("timestamp", "done")},
        {"delta_timestamps": {"state": [-0.1, 0, 0.1]}},
        {"delta_timestamps": {"timestamp": np.array([0.5])}},
        {"delta_indices": {"state": np.array([-1, 0, 1])}},
        {"delta_indices": {"state": [1.0]}},
        {"delta_indices": {"state": [0]}, "delta_timestamps": {"done": [0]}},
        {"delta_indices": {"state": [limits.MAX_CAPACITY]}},
        {"delta_indices": {"state": range(limits.MAX_WINDOW_OFFSETS)}},
        {"tolerance_s": 0},
    ],
    ids=str,
)
def test_a_valid_view_is_planned(arguments: dict[str, Any]) -> None:
    view = View.of(**arguments)
    view.check(SPEC)
    names = {tensor.name for tensor in Plan(SPEC, view).layout(3).tensors}
    assert names >= PRESET_NAMES


@pytest.mark.parametrize(
    "arguments",
    [
        {"keys": ["stat"]},
        {"keys": ["_bounds"]},
        {"keys": ["state_is_pad"]},
        {"delta_timestamps": {"stat": [0]}},
        {"delta_indices": {"_bounds": [0]}},
        {"delta_timestamps": {"state": []}},
        {"delta_indices": {"state": []}},
        {"delta_timestamps": {"state": [0]}, "delta_indices": {"state": [0]}},
        {"delta_timestamps": {"state": [float("nan")]}},
        {"delta_timestamps": {"state": [float("inf")]}},
        {"delta_indices": {"state": [limits.MAX_CAPACITY + 1]}},
        {"delta_indices": {"state": [-limits.MAX_CAPACITY - 1]}},
        {"tolerance_s": -1e-9},
        {"tolerance_s": float("nan")},
        {"tolerance_s": float("inf")},
    ],
    ids=str,
)
def test_a_view_that_does_not_fit_the_spec_is_refused_when_it_is_set(
    arguments: dict[str, Any],
) -> None:
    """Not when an item is read: so it says nothing about what the buffer holds."""
    view = View.of(**arguments)
    with pytest.raises(InvalidSpecError):
        view.check(SPEC)
    with pytest.raises(InvalidSpecError):
        Plan(SPEC, view)


@pytest.mark.parametrize(
    "arguments",
    [
        {"keys": "state"},
        {"delta_indices": {"state": [0.5]}},
        {"delta_indices": {"state": [float("nan")]}},
        {"delta_indices": {"state": [float("inf")]}},
        {"delta_indices": {"state": ["one"]}},
        {"delta_indices": {"state": 1}},
        {"delta_timestamps": {"state": 0.1}},
        {"delta_timestamps": {"state": [None]}},
        {"delta_timestamps": {"state": [10**400]}},
    ],
    ids=lambda arguments: str(arguments)[:50],
)
def test_what_is_no_view_at_all_is_refused_as_it_is_written(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpecError):
        View.of(**arguments)


def test_windows_in_seconds_need_a_frame_rate() -> None:
    View.of(delta_indices={"state": [0]}).check(NO_FPS)
    with pytest.raises(InvalidSpecError, match=r"no fps; create it with fps, or use delta_indices"):
        View.of(delta_timestamps={"state": [0]}).check(NO_FPS)


def test_a_window_is_limited_in_length() -> None:
    view = View.of(delta_indices={"state": range(limits.MAX_WINDOW_OFFSETS + 1)})
    with pytest.raises(LimitExceededError, match="received 4,097, the limit is 4,096"):
        view.check(SPEC)


def test_two_windows_of_one_column_are_refused() -> None:
    view = View(windows=(Window("state", frames=(0,)), Window("state", frames=(1,))))
    with pytest.raises(InvalidSpecError, match="more than one window"):
        view.check(SPEC)


@pytest.mark.parametrize("query", [SampleQuery(0), SampleQuery(-1), SampleQuery(1, View(), -1)])
def test_a_query_needs_a_batch_of_at_least_one_and_no_negative_drop(query: SampleQuery) -> None:
    with pytest.raises(InvalidRequestError, match=r"must be (at least 1|from 0 to)"):
        query.check(SPEC)


@pytest.mark.parametrize("drop", [10, 11, 1 << 63])
def test_a_drop_that_no_episode_survives_is_refused(drop: int) -> None:
    """It would be waited for, for ever: no episode is longer than the capacity."""
    SampleQuery(1, View(), SPEC.capacity - 1).check(SPEC)
    text = rf"drop_n_last_frames is {drop:,}; it must be from 0 to 9.*create the buffer larger"
    with pytest.raises(InvalidRequestError, match=text):
        SampleQuery(1, View(), drop).check(SPEC)


def test_a_query_checks_its_view() -> None:
    with pytest.raises(InvalidSpecError):
        SampleQuery(1, View(("stat",))).check(SPEC)
