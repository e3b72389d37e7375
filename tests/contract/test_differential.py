"""Random use of a buffer gives what a naive list gives, over every transport.

Hypothesis makes up buffers, episodes (good and bad), views and questions; the answers, and the
classes of the errors, must be those of `tests.naive`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from replayring_proto.errors import ReplayRingError
from replayring_proto.spec import BufferSpec
from tests.contract.transports import Arrays, BufferUnderTest, Transport
from tests.naive import NaiveBuffer

_numbers = itertools.count()

COLUMNS: dict[str, dict[str, Any]] = {
    "flag": {"shape": (), "dtype": "bool"},
    "image": {"shape": (2, 1, 3), "dtype": "uint8"},
    "state": {"shape": (3,), "dtype": "float32"},
    "wide": {"shape": (), "dtype": "complex128"},
}
KEYS = [*COLUMNS, "index", "episode_index", "frame_index", "timestamp", "nope"]
# Presets first: every buffer has them, so that most views are valid.
WINDOWED = ["index", "timestamp", "index", "frame_index", "index", "state", "image", "nope"]

# Steps between timestamps: frames at 8 Hz, repeated ones, late ones, and a gap. Sums of these are
# exact, so that two frames are often exactly as near.
FPS = 8.0
STEPS = st.sampled_from([0.125, 0.0, 0.125, 0.0, 0.0625, 0.25, 0.75])
OFFSETS_S = st.integers(-4, 4).map(lambda n: n / 16) | st.sampled_from([0.0, -9.0, 0.03, 0.5])
OFFSETS = st.integers(-4, 4) | st.sampled_from([-(1 << 40), 1 << 40])


def windows(offsets: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, list[Any]] | None]:
    some = st.lists(offsets, min_size=1, max_size=4)
    return st.dictionaries(st.sampled_from(WINDOWED), some, min_size=1, max_size=2) | st.none()


VIEWS = st.fixed_dictionaries(
    {},
    optional={
        "keys": st.none() | st.lists(st.sampled_from(KEYS), max_size=3),
        "delta_timestamps": windows(OFFSETS_S),
        "delta_indices": windows(OFFSETS),
        "tolerance_s": st.sampled_from([None, 0.0, 0.0625, 0.3, 9.0, 9.0, 9.0, -1.0]),
    },
)


def outcome(ask: Callable[[], Any]) -> Any:
    """Returns what a call returns, or the class of the error that it raises."""
    try:
        return ask()
    except ReplayRingError as error:
        return type(error)


def assert_same(real: Any, naive: Any) -> None:
    if not isinstance(naive, dict) or not isinstance(real, dict):
        assert real == naive
        return
    assert real.keys() == naive.keys()
    for key, array in naive.items():
        assert (real[key].dtype, real[key].shape) == (array.dtype, array.shape), key
        np.testing.assert_array_equal(real[key], array, err_msg=key)


class Differential(RuleBasedStateMachine):
    """One buffer, and the naive one beside it."""

    transport: Transport  # set by the test
    real: BufferUnderTest
    naive: NaiveBuffer

    def __init__(self) -> None:
        super().__init__()
        self.name = ""
        self.rng = np.random.default_rng(0)

    @initialize(
        capacity=st.integers(1, 12) | st.sampled_from([63, 64, 65, 200]),
        fps=st.sampled_from([FPS, FPS, FPS, None]),
        columns=st.sets(st.sampled_from(list(COLUMNS)), min_size=1),
        lengths=st.lists(st.integers(1, 12), max_size=4),
    )
    def create(
        self, capacity: int, fps: float | None, columns: set[str], lengths: list[int]
    ) -> None:
        self.name = f"d{next(_numbers)}"
        data_spec = {key: COLUMNS[key] for key in sorted(columns)}
        self.real = self.transport.create_buffer(self.name, data_spec, capacity, fps=fps)
        self.naive = NaiveBuffer(BufferSpec.from_data_spec(data_spec, capacity, fps), self.name)
        for length in lengths:
            self.add(self.frames(min(length, capacity)))

    def teardown(self) -> None:
        if self.name:
            self.transport.delete_buffer(self.name)

    def frames(self, count: int) -> Arrays:
        """Returns random values for every declared column."""
        arrays = {}
        for column in self.naive.spec.columns:
            values = self.rng.integers(0, 256, (count, *column.shape))
            arrays[column.name] = (values % 2 if column.name == "flag" else values).astype(
                column.dtype
            )
        return arrays

    def add(self, episode: dict[str, Any]) -> None:
        real = outcome(lambda: self.real.add_episode(episode))
        naive = outcome(lambda: self.naive.add_episode(episode))
        if isinstance(naive, type):
            assert real == naive
        else:
            assert not isinstance(real, type), real
            places = [(a.episode_index, a.index, a.num_frames) for a in (real, naive)]
            assert places[0] == places[1]

    @rule(data=st.data())
    def add_episode(self, data: st.DataObject) -> None:
        longest = min(self.naive.spec.capacity, 90)
        self.add(self.frames(data.draw(st.integers(1, longest), "frames")))

    @rule(steps=st.lists(STEPS, min_size=4, max_size=15))
    def add_episode_with_times(self, steps: list[float]) -> None:
        steps = steps[: self.naive.spec.capacity - 1]
        count = len(steps) + 1
        times = np.cumsum([0.0, *steps])
        self.add({**self.frames(count), "timestamp": times, "frame_index": np.arange(count)})

    @rule(
        flaw=st.sampled_from(
            ["long", "empty", "missing", "unknown", "shape", "length", "NaN", "time"]
        )
    )
    def add_misfit(self, flaw: str) -> None:
        column = self.naive.spec.columns[0]
        count = {"long": self.naive.spec.capacity + 1, "empty": 0}.get(flaw, 1)
        episode: dict[str, Any] = self.frames(count)
        values = episode[column.name]
        if flaw == "missing":
            del episode[column.name]
        elif flaw == "unknown":
            episode["more"] = np.zeros(count)
        elif flaw == "shape":
            episode[column.name] = values[..., None]
        elif flaw == "length":
            episode[column.name] = np.concatenate([values, values])
            episode["timestamp"] = np.zeros(count)
        elif flaw == "NaN":
            episode["timestamp"] = np.full(count, np.nan)
        elif flaw == "time":
            episode["timestamp"] = np.zeros((count, 1))
        self.add(episode)

    @rule(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), offset=st.integers(0, 6))
    def add_data(self, lengths: list[int], offset: int) -> None:
        total = sum(lengths)
        data = {
            **self.frames(total),
            "index": np.arange(total) + (offset == 1),  # wrong one time in seven
            "episode_index": np.repeat(np.arange(len(lengths)), lengths),
            "frame_index": np.concatenate([np.arange(length) for length in lengths]),
            "timestamp": np.concatenate([np.arange(length) / FPS for length in lengths]),
        }
        real = outcome(lambda: [a.index for a in self.real.add_data(data)])
        naive = outcome(lambda: [a.index for a in self.naive.add_data(data)])
        assert real == naive

    @rule(data=st.data(), view=VIEWS)
    def get_positions(self, data: st.DataObject, view: dict[str, Any]) -> None:
        reach = len(self.naive.frames) + 1  # one too far, at either end
        positions = data.draw(st.lists(st.integers(-reach, reach - 1), min_size=1, max_size=6))
        assert_same(
            outcome(lambda: self.real.get(positions, **view)),
            outcome(lambda: self.naive.get(positions, **view)),
        )

    @precondition(lambda self: self.naive.frames)
    @rule(
        picks=st.lists(st.integers(0, 1 << 20), min_size=1, max_size=8),
        frames=st.lists(OFFSETS, min_size=1, max_size=5),
        seconds=st.lists(OFFSETS_S, min_size=1, max_size=5),
        tolerance_s=st.sampled_from([9.0, 0.0625, None]),
    )
    def get_windows(self, picks: list[int], frames: Any, seconds: Any, tolerance_s: Any) -> None:
        """As below, but always a valid view of live frames."""
        positions = [pick % len(self.naive.frames) for pick in picks]
        view: dict[str, Any] = {"delta_indices": {"frame_index": frames}}
        if self.naive.spec.fps is not None:
            view["delta_timestamps"] = {"index": seconds, "timestamp": seconds}
            view["tolerance_s"] = tolerance_s
        assert_same(
            outcome(lambda: self.real.get(positions, **view)),
            outcome(lambda: self.naive.get(positions, **view)),
        )

    @rule(data=st.data(), view=VIEWS)
    def get_indices(self, data: st.DataObject, view: dict[str, Any]) -> None:
        info = self.naive.info()
        reachable = st.integers(max(0, info.oldest_index - 1), info.next_index)
        indices = data.draw(st.lists(reachable, min_size=1, max_size=6))
        assert_same(
            outcome(lambda: self.real.get(indices=indices, **view)),
            outcome(lambda: self.naive.get(indices=indices, **view)),
        )

    @precondition(lambda self: self.naive.frames)
    @rule(view=VIEWS, drop=st.integers(0, 4), seed=st.integers(0, 1 << 32))
    def sample(self, view: dict[str, Any], drop: int, seed: int) -> None:
        eligible = [int(frame["index"]) for frame in self.naive.eligible(drop)]
        if not eligible:
            return  # a server would wait
        options = {**view, "drop_n_last_frames": drop, "seed": seed, "timeout": 30}
        real = outcome(lambda: self.real.sample(8, **options))
        if isinstance(real, type):  # then some eligible frame says the same
            asked = (outcome(lambda i=i: self.naive.get(indices=[i], **view)) for i in eligible)
            assert real in asked
            return
        drawn = [int(value) for value in np.ravel(real["index"])[:8]]
        if "index_is_pad" not in real:
            assert set(drawn) <= set(eligible)
            assert_same(real, outcome(lambda: self.naive.get(indices=drawn, **view)))

    @invariant()
    def same_state(self) -> None:
        if not self.name:
            return
        real, naive = self.real.info(), self.naive.info()
        for field in ("oldest_index", "next_index", "num_episodes", "next_episode_index"):
            assert getattr(real, field) == getattr(naive, field), field
        keys = sorted(self.naive.spec.by_name)
        assert_same(self.real.read_columns(keys), self.naive.read_columns(keys))


def test_random_use_gives_what_a_naive_list_gives(
    transport: Transport, request: pytest.FixtureRequest
) -> None:
    over_engine = "engine" in request.node.callspec.id
    machine = type("Machine", (Differential,), {"transport": transport})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60 if over_engine else 15,
            stateful_step_count=20,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
