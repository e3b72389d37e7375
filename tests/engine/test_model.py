"""The engine against a plain list, through any mix of what can be done to it.

Hypothesis picks the steps: episodes of all lengths from writers that retry, reads of every kind,
and ends of the server's life, clean and not. After each step both must say the same.

REPLAYRING_MODEL_EXAMPLES sets how many runs there are for each capacity.
"""

from __future__ import annotations

import os
import random
import tempfile
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
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

from replayring_proto.errors import (
    FrameNotFoundError,
    InvalidEpisodeError,
    InvalidRequestError,
    SequenceReusedError,
    ToleranceError,
)
from replayring_proto.layout import episode_records
from replayring_proto.query import SampleQuery, View
from replayring_proto.ring import NothingEligible, Plan, UniformSampler
from replayring_proto.spec import DURABILITIES, BufferSpec
from replayring_server.engine import Buffer, Origin, Store, Stored
from tests.engine.lives import die
from tests.naive import Acknowledgement, NaiveBuffer

Arrays = dict[str, np.ndarray[Any, Any]]

EXAMPLES = int(os.environ.get("REPLAYRING_MODEL_EXAMPLES", "10"))

# The slack is 64: with a capacity above it, an episode can be longer than the slack.
CAPACITIES = [1, 2, 7, 20, 100]
DATA_SPEC = {
    "state": {"shape": (2,), "dtype": "float32"},
    "done": {"shape": (), "dtype": "bool"},
}
# The steps of timestamps: one frame, and none, and other lengths of time.
STEPS = {
    "default": None,
    "regular": st.just(0.25),
    "repeating": st.sampled_from([0.0, 0.25]),
    "irregular": st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0]),
}


def same(found: Arrays, expected: Arrays) -> None:
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape, name
        assert found[name].tobytes() == np.ascontiguousarray(array).tobytes(), name


class EngineAndModel(RuleBasedStateMachine):
    capacity = 1

    @initialize(
        episodes=st.integers(0, 60),
        seed=st.integers(0, 10**6),
        durability=st.sampled_from(DURABILITIES),
    )
    def create(self, episodes: int, seed: int, durability: str) -> None:
        """Begins with a ring that is empty, or has turned already."""
        shared_memory = Path("/dev/shm")
        self.folder = tempfile.TemporaryDirectory(
            dir=shared_memory if shared_memory.is_dir() else None
        )
        self.spec = BufferSpec.from_data_spec(DATA_SPEC, self.capacity, 4, durability)
        self.store = Store(self.folder.name)
        self.values = 0
        self.begin_anew()
        rng = random.Random(seed)
        for _ in range(episodes):
            frames = rng.choice((1, rng.randint(1, self.capacity), min(self.capacity, 4)))
            times = list(accumulate(rng.choice((0, 0.25, 1)) for _ in range(frames)))
            self.add(self.episode(frames, rng.choice((None, times))), "w1", 1)

    def begin_anew(self) -> None:
        self.buffer, created = self.store.create("ring", self.spec)
        assert created
        self.model = NaiveBuffer(self.spec)
        # Of each writer, the episodes sent and where they went, by sequence.
        self.sent: dict[str, dict[int, tuple[Arrays, Acknowledgement]]] = {"w1": {}, "w2": {}}

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.folder.cleanup()

    # Writing

    def episode(self, frames: int, timestamps: Any) -> Arrays:
        self.values += 1
        data: Arrays = {
            "state": np.arange(frames * 2, dtype=np.float32).reshape(-1, 2) + 1000 * self.values,
            "done": np.arange(frames) == frames - 1,
        }
        if timestamps is not None:
            data["timestamp"] = np.array(timestamps[:frames])
        return data

    @rule(
        data=st.data(),
        writers=st.lists(st.sampled_from([None, "w1", "w2"]), min_size=1),
        together=st.booleans(),
        again=st.booleans(),
    )
    def append(
        self, data: st.DataObject, writers: list[str | None], together: bool, again: bool
    ) -> None:
        """Episodes one by one, or handed over together; then perhaps the last one again."""
        added = []
        for writer in writers:
            frames = data.draw(self.lengths())
            steps = STEPS[data.draw(st.sampled_from(list(STEPS)))]
            times = None
            if steps is not None:
                drawn = data.draw(st.lists(steps, min_size=frames, max_size=frames))
                times = list(accumulate(drawn))
            gap = data.draw(st.integers(1, 3))
            if together:
                added.append(self.expect(self.episode(frames, times), writer, gap))
            else:
                self.add(self.episode(frames, times), writer, gap)
        if again and added and added[-1][1] is not None:
            episode, origin, expected = added[-1]
            added.append((episode, origin, replace(expected, duplicate=True)))
        found = self.buffer.store_all((episode, origin) for episode, origin, _ in added)
        assert found == ([expected for _, _, expected in added], None)

    def add(self, episode: Arrays, writer: str | None, gap: int) -> None:
        episode, origin, expected = self.expect(episode, writer, gap)
        assert self.buffer.append(episode, origin) == expected

    def expect(
        self, episode: Arrays, writer: str | None, gap: int
    ) -> tuple[Arrays, Origin | None, Stored]:
        """Adds a new episode to the model; returns it, its origin, and where it is to go."""
        expected = self.model.add_episode(episode)
        origin = None
        if writer:
            sequence = max(self.sent[writer], default=0) + gap
            origin = Origin(writer, sequence)
            self.sent[writer][sequence] = (episode, expected)
        return episode, origin, stored(expected, duplicate=False)

    def lengths(self) -> st.SearchStrategy[int]:
        """Short episodes, any, those longer than the slack, and those as long as can be."""
        capacity = self.spec.capacity
        return (
            st.integers(1, min(4, capacity))
            | st.integers(1, capacity)
            | st.integers(min(65, capacity), capacity)
            | st.just(capacity)
        )

    @rule(beyond=st.integers(1, 3))
    def append_what_does_not_fit(self, beyond: int) -> None:
        with pytest.raises(InvalidEpisodeError, match="capacity"):
            self.buffer.append(self.episode(self.spec.capacity + beyond, None))
        with pytest.raises(InvalidEpisodeError, match="length"):
            self.buffer.append({**self.episode(1, None), "done": np.zeros(2, np.bool_)})

    @precondition(lambda self: any(self.sent.values()))
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        """Though its frames may be gone, an episode is there once, as long as it is remembered.

        That is, for as many episodes as there are records, and each writer's last one beyond that.
        """
        writer = data.draw(st.sampled_from(sorted(w for w, sent in self.sent.items() if sent)))
        sequence = data.draw(st.sampled_from(sorted(self.sent[writer])))
        episode, acknowledged = self.sent[writer][sequence]
        age = self.model.info().next_episode_index - acknowledged.episode_index
        if age <= episode_records(self.capacity) or sequence == max(self.sent[writer]):
            found = self.buffer.append(episode, Origin(writer, sequence))
            assert found == stored(acknowledged, duplicate=True)
        else:
            with pytest.raises(SequenceReusedError, match="no longer remembers"):
                self.buffer.append(episode, Origin(writer, sequence))

    @precondition(lambda self: any(self.sent.values()))
    @rule(data=st.data())
    def reuse_a_sequence(self, data: st.DataObject) -> None:
        writer = data.draw(st.sampled_from(sorted(w for w, sent in self.sent.items() if sent)))
        newest = max(self.sent[writer])
        sequence = data.draw(st.integers(1, newest))
        with pytest.raises(SequenceReusedError):
            self.buffer.append(self.episode(1, None), Origin(writer, sequence))

    # The buffer's life, and the server's

    @rule()
    def delete_and_create_again(self) -> None:
        """Nothing of the old one is left: not its frames, its numbers, nor its writers."""
        self.store.delete("ring")
        self.begin_anew()

    @rule()
    def sync(self) -> None:
        self.buffer.sync()

    @rule(cleanly=st.booleans())
    def reopen(self, cleanly: bool) -> None:
        if cleanly:
            self.store.close()
        else:
            die(self.store)
        self.store = Store(self.folder.name)
        self.buffer, created = self.store.create("ring", self.spec)
        assert not created

    # Reading

    @rule(data=st.data())
    def read_positions(self, data: st.DataObject) -> None:
        count = len(self.model.frames)
        position = st.integers(-count, count - 1) if count else st.nothing()
        positions = data.draw(st.lists(position, min_size=1, max_size=8)) if count else []
        if positions:
            found = self.at_positions(View(), positions)
            same(found, self.model.get(positions))
        for outside in (count, -count - 1):
            with pytest.raises(FrameNotFoundError, match=f"position {outside}"):
                self.at_positions(View(), [*positions, outside])

    @rule(data=st.data())
    def read_indices(self, data: st.DataObject) -> None:
        live = [int(frame["index"]) for frame in self.model.frames]
        for gone in (live[0] - 1 if live else -1, self.model.info().next_index):
            with pytest.raises(FrameNotFoundError):
                self.at_indices(View(), [gone])
        if live:
            indices = data.draw(st.lists(st.sampled_from(live), min_size=1, max_size=8))
            same(self.at_indices(View(), indices), self.model.get(indices=indices))

    @precondition(lambda self: self.model.frames)
    @rule(
        offsets=st.lists(st.integers(-5, 5), min_size=1, max_size=4),
        keys=st.sampled_from([None, [], ["done"]]),
    )
    def read_windows_in_frames(self, offsets: list[int], keys: list[str] | None) -> None:
        windows = {"state": offsets, "index": offsets, "done": [0, 1]}
        positions = list(range(len(self.model.frames)))
        found = self.at_positions(View.of(keys, None, windows), positions)
        same(found, self.model.get(positions, delta_indices=windows, keys=keys))

    @precondition(lambda self: self.model.frames)
    @rule(
        offsets=st.lists(
            st.sampled_from([-9.0, -1.0, -0.25, -0.1, 0.0, 0.0625, 0.25, 0.5, 9.0]),
            min_size=1,
            max_size=3,
        ),
        tolerance=st.sampled_from([None, 0.0, 0.125, 10.0]),
    )
    def read_windows_in_seconds(self, offsets: list[float], tolerance: float | None) -> None:
        """Frame by frame, as one that misses would spoil a batch."""
        windows = {"state": offsets, "timestamp": offsets}
        view = View.of(None, windows, None, tolerance)
        for position in range(0, len(self.model.frames), 1 + len(self.model.frames) // 10):
            try:
                expected = self.model.get(
                    [position], delta_timestamps=windows, tolerance_s=tolerance
                )
            except ToleranceError:
                with pytest.raises(ToleranceError):
                    self.at_positions(view, [position])
            else:
                same(self.at_positions(view, [position]), expected)

    @rule()
    def read_columns(self) -> None:
        keys = tuple(self.spec.by_name)
        form, pieces = self.buffer.reader.read_columns(keys)
        body = np.concatenate([np.empty(0, np.uint8), *pieces])
        same(form.views(body), self.model.read_columns(keys))

    @rule(seed=st.integers(0, 100))
    def sample(self, seed: int) -> None:
        """The frames ever drawn are exactly the eligible ones: so many draws miss none of 100."""
        for drop in (0, 1, 2, 5, 64, 99, 10**12):
            eligible = {int(frame["index"]) for frame in self.model.eligible(drop)}
            query = SampleQuery(3000, View(keys=()), drop)
            if drop >= self.spec.capacity:
                assert not eligible
                with pytest.raises(InvalidRequestError, match="create the buffer larger"):
                    UniformSampler(self.buffer.reader, query)
                continue
            sampler = UniformSampler(self.buffer.reader, query, np.random.default_rng(seed))
            if eligible:
                assert set(sampler.batch().arrays["index"].tolist()) == eligible
            else:
                with pytest.raises(NothingEligible):
                    sampler.batch()

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "model"):
            return
        expected, found = self.model.info(), self.buffer.info()
        for name in ("oldest_index", "next_index", "num_episodes", "next_episode_index"):
            assert getattr(found, name) == getattr(expected, name), name
        assert found.num_frames == len(self.model.frames)

    def at_positions(self, view: View, positions: list[int]) -> Arrays:
        plan = Plan(self.spec, view)
        return self.buffer.reader.at_positions(plan, np.array(positions, np.int64)).arrays

    def at_indices(self, view: View, indices: list[int]) -> Arrays:
        plan = Plan(self.spec, view)
        return self.buffer.reader.at_indices(plan, np.array(indices, np.int64)).arrays

    buffer: Buffer


def stored(acknowledged: Acknowledgement, *, duplicate: bool) -> Stored:
    return Stored(
        acknowledged.episode_index, acknowledged.index, acknowledged.num_frames, duplicate
    )


def explore(model: type[EngineAndModel], capacity: int, examples: int) -> None:
    """Runs a state machine on rings of that capacity."""
    run_state_machine_as_test(
        type(model.__name__, (model,), {"capacity": capacity}),
        settings=settings(
            deadline=None,
            max_examples=examples,
            stateful_step_count=25,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("capacity", CAPACITIES)
def test_the_engine_agrees_with_a_plain_list(capacity: int) -> None:
    explore(EngineAndModel, capacity, EXAMPLES)
