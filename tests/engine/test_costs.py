"""What a request costs does not grow with the capacity: counted in rows, not in time."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from replayring_proto.query import SampleQuery, View
from replayring_proto.ring import FrameColumns, Plan, RingReader, UniformSampler
from replayring_proto.ring.columns import Fetch
from tests.engine.frames import checked_spec
from tests.engine.rings import MemoryRing

SMALL, LARGE = 10_000, 1_000_000
EPISODE = 100
BATCH = 64


class CountedColumn(np.ndarray[Any, Any]):
    """A column that counts the rows taken from it. A slice of it is one, too, and costs nothing."""

    counter: list[int]

    def __array_finalize__(self, source: Any) -> None:
        self.counter = getattr(source, "counter", [0])

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        raise AssertionError(f"{function} on a whole column")

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, tuple) and key[0] == slice(None):
            return super().__getitem__(key)
        found = self.view(np.ndarray)[key]
        self.counter[0] += len(found) if np.ndim(found) else 1
        return found


class CountedColumns(FrameColumns):
    """Columns that count the rows taken from them, those that come in records once for each."""

    def __init__(self, ring: MemoryRing) -> None:
        super().__init__(ring.spec, ring.files.__getitem__)
        self.counter = [0]

    def __getitem__(self, key: str) -> Any:
        column = super().__getitem__(key).view(CountedColumn)
        column.counter = self.counter
        return column

    def gather(self, fetch: Fetch, rows: Any, out: Any) -> None:
        keys = (*fetch.together, *fetch.apart, *fetch.large)
        self.counter[0] += len(keys) * np.size(rows)
        super().gather(fetch, rows, out)


@cache
def full_ring(capacity: int) -> MemoryRing:
    """A ring full of episodes of 100 frames, and turned by half."""
    ring = MemoryRing(checked_spec(capacity, width=1))
    start = 0
    arrays = {
        name: [np.zeros((EPISODE, *column.shape), column.dtype)] * 100
        for name, column in ((c.name, c) for c in ring.spec.columns)
    }
    while start < capacity * 3 // 2:
        ring.writer.append(arrays, start // EPISODE, [EPISODE] * 100)
        start += EPISODE * 100
    return ring


def rows_touched(capacity: int, request: Callable[[RingReader], object]) -> int:
    """How many rows a request takes from all columns together."""
    ring = full_ring(capacity)
    columns = CountedColumns(ring)
    request(RingReader(ring.spec, ring.counters, columns))
    return columns.counter[0]


def sample(reader: RingReader) -> None:
    UniformSampler(reader, SampleQuery(BATCH), np.random.default_rng(0)).batch()


def sample_with_drop(reader: RingReader) -> None:
    query = SampleQuery(BATCH, View(), EPISODE // 2)
    UniformSampler(reader, query, np.random.default_rng(0)).batch()


def window_in_frames(reader: RingReader) -> None:
    view = View.of(delta_indices={"a.tag": [-1, 0, 1], "c.words": [-1, 0, 1]})
    UniformSampler(reader, SampleQuery(BATCH, view), np.random.default_rng(0)).batch()


def window_in_seconds(reader: RingReader) -> None:
    view = View.of(delta_timestamps={"a.tag": [-0.1, 0, 0.1]})
    UniformSampler(reader, SampleQuery(BATCH, view), np.random.default_rng(0)).batch()


def one_position(reader: RingReader) -> None:
    reader.at_positions(Plan(reader.spec, View()), np.array([-1]))


def one_index(reader: RingReader) -> None:
    reader.at_indices(Plan(reader.spec, View()), np.array([reader.live.start]))


def state(reader: RingReader) -> None:
    reader.state()


REQUESTS = [sample, window_in_frames, window_in_seconds, one_position, one_index, state]


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_request_touches_as_many_rows_at_a_hundred_times_the_capacity(
    request_: Callable[[RingReader], object],
) -> None:
    """To a few: where timestamps are equal to the bit, windows in seconds look once more."""
    touched = rows_touched(SMALL, request_)
    assert rows_touched(LARGE, request_) == pytest.approx(touched, rel=0.1)
    assert 0 < touched < 60 * BATCH


def test_dropping_frames_costs_as_much_as_is_dropped_and_no_more() -> None:
    """Half of all frames are eligible, so about twice the batch is looked at."""
    plain = rows_touched(SMALL, sample)
    for capacity in (SMALL, LARGE):
        assert plain < rows_touched(capacity, sample_with_drop) < plain + 6 * BATCH


def test_a_plain_batch_touches_each_row_once_for_each_column() -> None:
    columns = len(full_ring(SMALL).spec.by_name)
    assert rows_touched(LARGE, sample) == BATCH * columns


def test_an_append_writes_as_many_rows_as_it_has_frames() -> None:
    for capacity in (SMALL, LARGE):
        ring = MemoryRing(checked_spec(capacity, width=1))
        written = []
        columns: Any = {name: Written(written) for name in ring.columns}
        ring.writer._columns = columns
        ring.append(EPISODE)
        assert sum(written) == EPISODE * len(ring.columns)


class Written:
    """A column that notes how many rows are written to it."""

    def __init__(self, written: list[int]) -> None:
        self._written = written

    def __setitem__(self, rows: slice, values: np.ndarray[Any, Any]) -> None:
        self._written.append(len(values))
