"""A server against plain lists, over the wire, through its deaths and everything that is asked.

Hypothesis picks the steps: buffers created, deleted and created again, episodes from writers that
retry, reads, parameters, and ends of the server's life, by SIGKILL and clean. After each step both
must say the same. `contract/test_differential.py` goes deeper into reads, on one server.

REPLAYRING_MODEL_EXAMPLES sets how many runs there are.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from replayring_proto.messages import spec_from_message
from replayring_proto.v1 import buffer_pb2
from tests.naive import Acknowledgement, NaiveBuffer
from tests.service.frames import COLUMNS, SPEC, episode, refused
from tests.support import ServerProcess
from tests.wire import Wire, view_message

EXAMPLES = int(os.environ.get("REPLAYRING_MODEL_EXAMPLES", "4"))
LIVES = 4  # of the server in each run

NAMES = st.sampled_from(["left", "right"])
WRITERS = st.sampled_from(["w1", "w2"])
DURABILITIES = st.sampled_from(
    [buffer_pb2.DURABILITY_NONE, buffer_pb2.DURABILITY_INTERVAL, buffer_pb2.DURABILITY_COMMIT]
)
Sent = tuple[str, int, dict[str, Any], Acknowledgement]  # writer, sequence, episode, place


@dataclasses.dataclass
class Served:
    """A process that serves one directory, over and over, on one port."""

    data_dir: Path
    process: ServerProcess
    address: str

    def restart(self, number: int) -> None:
        self.process.signal(number)
        self.process.wait()
        self.process.close()
        self.process = ServerProcess(self.data_dir, listen=self.address)


@dataclasses.dataclass
class Twin:
    """A buffer's naive twin, and what was sent to it."""

    naive: NaiveBuffer
    sent: list[Sent] = dataclasses.field(default_factory=list)

    def newest(self, writer: str) -> int:
        return max((sequence for name, sequence, *_ in self.sent if name == writer), default=0)


class ServerAndModel(RuleBasedStateMachine):
    served: Served  # set by the test
    numbers = itertools.count(1)

    def __init__(self) -> None:
        super().__init__()
        self.wire = Wire(self.served.address)
        self.prefix = f"r{next(self.numbers)}."
        self.twins: dict[str, Twin] = {}
        self.version = 0
        self.lives = 1

    def teardown(self) -> None:
        for name in self.twins:
            self.wire.delete(name)
        self.wire.close()

    # Buffers

    @initialize(durability=DURABILITIES, lengths=st.lists(st.integers(1, 10), min_size=1))
    def begin(self, durability: Any, lengths: list[int]) -> None:
        self.create("left", 10, durability)
        self.create("right", 5, durability)
        for name in self.twins:
            self.add_to(name, "w2", 1, lengths)

    @rule(name=NAMES, capacity=st.sampled_from([1, 5, 10]), durability=DURABILITIES)
    def create(self, name: str, capacity: int, durability: Any) -> None:
        name = self.prefix + name
        spec = buffer_pb2.BufferSpec()
        spec.CopyFrom(SPEC)
        spec.capacity, spec.durability = capacity, durability
        twin = self.twins.get(name)
        if twin is None:
            assert self.wire.create(name, spec).created
            self.twins[name] = Twin(NaiveBuffer(spec_from_message(spec)))
        elif twin.naive.spec == spec_from_message(spec):
            assert not self.wire.create(name, spec).created
        else:
            with refused("ALREADY_EXISTS", "AlreadyExistsError"):
                self.wire.create(name, spec)

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        name = self.prefix + name
        if self.twins.pop(name, None):
            self.wire.delete(name)
        with refused("NOT_FOUND", "NotFoundError"):
            self.wire.info(name)

    # Episodes

    @precondition(lambda self: self.twins)
    @rule(data=st.data(), writer=WRITERS, lengths=st.lists(st.integers(1, 10), min_size=1))
    def add(self, data: st.DataObject, writer: str, lengths: list[int]) -> None:
        name, _ = self.pick(data)
        self.add_to(name, writer, data.draw(st.integers(1, 3)), lengths)

    def add_to(self, name: str, writer: str, gap: int, lengths: list[int]) -> None:
        twin = self.twins[name]
        first = twin.newest(writer) + gap
        episodes = [
            episode(min(frames, twin.naive.spec.capacity), start=7 * first + i)
            for i, frames in enumerate(lengths)
        ]
        replies = self.wire.add(name, *episodes, writer_id=writer, sequence=first)
        for i, (arrays, reply) in enumerate(zip(episodes, replies, strict=True)):
            place = twin.naive.add_episode(arrays)
            assert not reply.duplicate
            assert (reply.index, reply.num_frames) == (place.index, place.num_frames)
            twin.sent.append((writer, first + i, arrays, place))

    @precondition(lambda self: any(twin.sent for twin in self.twins.values()))
    @rule(data=st.data())
    def add_again(self, data: st.DataObject) -> None:
        """As it was, whatever became of its frames; and with other frames under its name."""
        name, twin = self.pick(data, sent=True)
        writer, sequence, arrays, place = data.draw(st.sampled_from(twin.sent))
        (reply,) = self.wire.add(name, arrays, writer_id=writer, sequence=sequence)
        assert reply.duplicate
        assert (reply.episode_index, reply.index) == (place.episode_index, place.index)
        with refused("ALREADY_EXISTS", "SequenceReusedError", f"sequence {sequence}"):
            self.wire.add(name, episode(1, start=250), writer_id=writer, sequence=sequence)

    # Reads

    @precondition(lambda self: any(twin.naive.frames for twin in self.twins.values()))
    @rule(data=st.data(), offsets=st.lists(st.integers(-3, 3), min_size=1, max_size=3))
    def read_windows(self, data: st.DataObject, offsets: list[int]) -> None:
        name, twin = self.pick(data, sent=True)
        positions = range(-len(twin.naive.frames), len(twin.naive.frames))
        view = view_message(["pixel"], None, {"position": offsets})
        expected = twin.naive.get(positions, delta_indices={"position": offsets}, keys=["pixel"])
        same(self.wire.get(name, positions, view=view), expected)

    @precondition(lambda self: any(twin.naive.frames for twin in self.twins.values()))
    @rule(data=st.data(), drop=st.integers(0, 3), seed=st.integers(0, 99))
    def sample(self, data: st.DataObject, drop: int, seed: int) -> None:
        """So many draws from ten frames miss none."""
        name, twin = self.pick(data, sent=True)
        eligible = {int(frame["index"]) for frame in twin.naive.eligible(drop)}
        if eligible:
            options = {"drop_n_last_frames": drop, "seed": seed, "batches": 2}
            for batch in self.wire.sample(name, 500, **options):
                assert set(batch["index"].tolist()) == eligible

    # Parameters

    @rule()
    def publish(self) -> None:
        self.version += 1
        name = f"{self.prefix}policy"
        assert self.wire.publish(name, {"w": np.array([self.version])}) == self.version

    # The server's life

    @precondition(lambda self: self.twins and self.lives < LIVES)
    @rule(number=st.sampled_from([signal.SIGKILL, signal.SIGTERM]))
    def restart(self, number: int) -> None:
        self.lives += 1
        self.wire.close()
        self.served.restart(number)
        self.wire = Wire(self.served.address)
        self.both_say_the_same()
        for name in self.twins:
            self.add_to(name, "w1", 1, [1, 3])

    @invariant()
    def both_say_the_same(self) -> None:
        listed = {info.name for info in self.wire.ask("ListBuffers", b"").buffers}
        assert listed == self.twins.keys()
        for name, twin in self.twins.items():
            found, expected = self.wire.info(name), twin.naive.info()
            for field in ("oldest_index", "next_index", "num_episodes", "next_episode_index"):
                assert getattr(found, field) == getattr(expected, field), field
            same(self.wire.columns(name, *COLUMNS), twin.naive.read_columns(COLUMNS))
        if self.version:
            version, arrays = self.wire.latest(f"{self.prefix}policy")
            assert (version, arrays["w"].tolist()) == (self.version, [self.version])

    def pick(self, data: st.DataObject, *, sent: bool = False) -> tuple[str, Twin]:
        names = [name for name, twin in self.twins.items() if twin.sent or not sent]
        name = data.draw(st.sampled_from(sorted(names)))
        return name, self.twins[name]


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    process = ServerProcess(tmp_path / "data")
    served = Served(tmp_path / "data", process, process.address)
    yield served
    served.process.close()


@pytest.mark.timeout(300)
def test_a_server_that_dies_now_and_then_agrees_with_plain_lists(served: Served) -> None:
    machine = type("Machine", (ServerAndModel,), {"served": served})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=25,
            phases=[
                Phase.generate
            ],  # making a failure smaller would take a server's life each time
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert served.process.stop() == 0
    assert "Traceback" not in served.process.log_text()
