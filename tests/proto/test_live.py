"""The live window and the order of positions, against a list that is sorted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replayring_proto import layout
from replayring_proto.errors import FrameNotFoundError
from replayring_proto.layout import physical_rows
from replayring_proto.ring import Counters, FrameColumns, Live, RingReader
from replayring_proto.ring.live import rows_of
from replayring_proto.spec import BufferSpec


@st.composite
def lives(draw: st.DrawFn) -> Live:
    capacity = draw(st.integers(1, 20))
    end = draw(st.integers(0, 100))
    count = draw(st.integers(0, min(capacity, end)))
    return Live(end - count, end, capacity)


def in_position_order(live: Live) -> list[int]:
    """The definition: live frames in order of `index % capacity`."""
    return sorted(range(live.start, live.end), key=lambda index: index % live.capacity)


@settings(max_examples=300)
@given(lives())
def test_positions_follow_the_slots_of_a_ring_of_the_capacity(live: Live) -> None:
    expected = in_position_order(live)
    count = len(expected)
    assert len(live) == count
    positions = np.arange(-count, count)
    np.testing.assert_array_equal(live.index_at(positions), expected + expected)
    assert [index for run in live.runs for index in range(*run)] == expected


@settings(max_examples=100)
@given(lives(), st.integers(0, 50))
def test_a_position_out_of_range_is_refused(live: Live, beyond: int) -> None:
    for position in (len(live) + beyond, -len(live) - 1 - beyond):
        with pytest.raises(FrameNotFoundError, match=f"position {position} is out of range"):
            live.index_at(np.array([0, position][not len(live) :]))


@settings(max_examples=100)
@given(lives(), st.integers(-5, 120))
def test_an_index_is_alive_or_the_error_says_what_became_of_it(live: Live, index: int) -> None:
    indices = np.array([index])
    if live.start <= index < live.end:
        live.check_indices(indices)
        return
    state = "was overwritten" if 0 <= index < live.start else "does not exist yet"
    with pytest.raises(FrameNotFoundError, match=f"index {index} {state}"):
        live.check_indices(indices)


def test_no_positions_are_an_empty_answer_even_of_an_empty_ring() -> None:
    assert len(Live(0, 0, 5).index_at(np.array([], np.int64))) == 0


ANY = st.integers(-(1 << 63), (1 << 63) - 1)


@given(st.lists(ANY, max_size=9), st.integers(1, 1 << 40))
def test_whatever_a_torn_row_says_a_row_of_the_ring_is_meant(found: list[int], rows: int) -> None:
    index = np.array([*found, *(-(1 << 63), (1 << 63) - 1, rows, -rows)], np.int64)
    assert rows_of(index, rows).tolist() == [one % rows for one in index.tolist()]


class MovingCounters:
    """Counters of a ring whose writer appends whenever a reader has looked at one of them."""

    def __init__(self, capacity: int) -> None:
        self.rows = physical_rows(capacity)
        self.values = {"low": 0, "head": 0, "intent": 0}
        self.episode = capacity

    def __getattr__(self, name: str) -> Any:
        value = self.values[name]
        for _ in range(3):
            end = self.values["head"] + self.episode
            low = max(self.values["low"], end - self.rows)
            self.values.update(low=low, intent=end, head=end)
        return value


def test_a_window_looked_at_while_it_moves_is_never_upside_down() -> None:
    """Episodes longer than the slack raise `low` on every append.

    A reader that is held up between the two counters must not see one end of the window from
    before and the other from long after: that window would have a negative length.
    """
    spec = BufferSpec.from_data_spec({"a": {"shape": (), "dtype": "int8"}}, 1000)
    counters: Any = MovingCounters(spec.capacity)
    columns = FrameColumns(spec, lambda name: np.zeros(layout.file_sizes(spec)[name], np.uint8))
    reader = RingReader(spec, counters, columns)
    for _ in range(10):
        live = reader.live
        assert 0 <= len(live) <= spec.capacity


def test_counters_are_aligned_words_on_cache_lines_of_their_own() -> None:
    page = np.zeros(4096, np.uint8)
    counters = Counters(page)
    counters.low, counters.head, counters.intent = 1, 2, 3
    assert (counters.low, counters.head, counters.intent) == (1, 2, 3)
    words = page.view(np.int64)
    lines = {int(word) // 8 for word in np.flatnonzero(words)}
    assert len(lines) == 3
