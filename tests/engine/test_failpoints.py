"""A death (SIGKILL) at every step of what the engine does leaves what was promised.

Each scenario is a deed done to a prepared directory, once to learn its steps and then once for each
of them, with a life that dies there. What is left must be the world before the deed or the one
after it; the deed done again leads to the latter; the ring goes on. And so once more for what each
death left, when the life that opens it dies as well.
"""

from __future__ import annotations

import copy
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from replayring_proto import layout
from replayring_server.engine import syncer
from tests.engine.failpoints import NEVER, Death, Deed, Files, Mortals
from tests.engine.worlds import World, check_death

CAPACITY = 70  # more than the slack of 64, so that `low` has to rise for the longest episodes
EMPTY: list[Deed] = [["open"]]
RING: list[Deed] = [
    ["open"],
    ["create", "ring", CAPACITY, "interval"],
    ["publish", "policy", 1],
    ["append", "ring", 1, 60],
    ["append_unnamed", "ring", 2, 41],
    ["append", "ring", 3, 50],
]
COMMITTED: list[Deed] = [
    ["open"],
    ["create", "ring", 3, "commit"],
    ["append", "ring", 4, 2],
]


@dataclasses.dataclass
class Scenario:
    """A deed, what was done before it, and the kinds of steps that it must take.

    Attributes:
        deed: what is interrupted.
        kinds: functions that are known to be steps of it: MODULE.FUNCTION.
        before: what was done before by the process that dies.
        earlier: what was done by one that died before it.
        rebooted: whether the machine was started anew in between.
    """

    deed: Deed
    kinds: str
    before: list[Deed] = dataclasses.field(default_factory=lambda: EMPTY)
    earlier: list[Deed] = dataclasses.field(default_factory=lambda: RING)
    rebooted: bool = False


APPEND = (
    "buffer.append buffer._store ring.append ring._write cursor.reserve "
    "counters.intent counters.head "
)
OPENING = (
    "lock.__init__ lock.describe store._remove_leftovers parameter_files.load store._open_all "
    "buffer.__init__ files.check_sizes files.map_file cursor.__init__ ring.check_counters "
    "records.__init__ buffer._recover_last_record "
)
SYNC = "buffer._sync files.sync_mapped cursor.checkpoint cursor._write_slot "

SCENARIOS = {
    "the first opening": Scenario(
        ["open"], "store.__init__ lock.__init__ parameters.__init__", before=[], earlier=[]
    ),
    "opening": Scenario(["open"], OPENING, before=[]),
    "opening after a restart of the machine": Scenario(
        ["open"],
        OPENING + "cursor._restore cursor._write_slot counters.low counters.head counters.intent",
        before=[],
        earlier=[*RING, ["close"]],
        rebooted=True,
    ),
    "creation": Scenario(
        ["create", "new", CAPACITY, "commit"],
        "store.create store._create buffer.create files.check_space files.reserve cursor.format "
        "files.sync_folder files.write_whole buffer.__init__",
        earlier=EMPTY,
    ),
    "append": Scenario(
        ["append", "ring", 5, 12],
        APPEND + "buffer._known records.write records.put",
        before=[["open"], ["append", "ring", 4, 5]],
    ),
    "append of an unnamed episode": Scenario(
        ["append_unnamed", "ring", 5, 12], APPEND + "records.erase"
    ),
    "append beyond the slack": Scenario(
        ["append", "ring", 5, CAPACITY], APPEND + "counters.low cursor._write_slot records.put"
    ),
    "append under commit": Scenario(
        ["append", "ring", 5, 3], APPEND + SYNC + "buffer.sync", earlier=COMMITTED
    ),
    "sync": Scenario(["sync", "ring"], SYNC + "buffer.sync"),
    "closing": Scenario(["close"], SYNC + "store.close buffer.close lock.release"),
    "deletion": Scenario(
        ["delete", "ring"], "store.delete buffer.close files.sync_folder shutil.rmtree"
    ),
    "publishing": Scenario(["publish", "policy", 2], "parameters.publish files.write_whole"),
    "publishing a new name": Scenario(["publish", "value", 1], "parameters.publish"),
}


@pytest.fixture(scope="module")
def mortals() -> Iterator[Mortals]:
    with Mortals() as mortals:
        yield mortals


class Stage:
    """Where one scenario is played again and again, in a folder of its own.

    Attributes:
        left: the directory that the last life left.
    """

    def __init__(
        self,
        mortals: Mortals,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        scenario: Scenario,
        mutation: str = "",
    ) -> None:
        self._mortals, self._folder, self._mutation = mortals, folder, mutation
        self._deed, self._deeds = scenario.deed, [*scenario.before, scenario.deed]
        self._boot = 1 + scenario.rebooted
        boot_id = self._boot.to_bytes(16, "big")
        monkeypatch.setattr(layout, "machine_boot_id", lambda: boot_id)
        monkeypatch.setattr(syncer, "INTERVAL_S", 3600.0)
        self.left = folder / "left"
        self._left = Files(self.left)
        self._beginning = folder / "beginning"
        self._beginning.mkdir()
        mortals.live(self._beginning, scenario.earlier, len(scenario.earlier))
        self._world = World()
        for deed in [*scenario.earlier, *scenario.before]:
            self._world = self._world.after(deed)

    def learn_steps(self) -> Death:
        """Lets a life do the deed and not die."""
        return self._play(self._beginning, self._deeds, NEVER)

    def die_at_each_point(self, points: list[int]) -> list[Path]:
        """Dies at each point of the deed, and returns a copy of each state that was left."""
        states: dict[str, Path] = {}
        for step in points:
            self._play(self._beginning, self._deeds, step)
            state = repr(self._left.look())
            if state not in states:
                states[state] = self._folder / f"state{step}"
                shutil.copytree(self.left, states[state])
        return [*states.values()]

    def die_again_while_opening(self, state: Path) -> Iterator[None]:
        """Opens a state, and dies where that has changed the files; yields after each death."""
        opening: list[Deed] = [["open"]]
        self._copy(state)
        before = self._left.look()
        self._mortals.live(self.left, opening, len(opening), boot=self._boot)
        if self._left.look() == before:
            return
        for step in self._play(state, opening, NEVER).changes:
            self._play(state, opening, step)
            yield

    def check(self, left: Path) -> None:
        """Checks what a death left, and uses it up."""
        check_death(left, copy.deepcopy(self._world), self._deed)

    def _play(self, state: Path, deeds: list[Deed], die_at: int) -> Death:
        """Lets a life do the last deed step by step, in a copy of `state`."""
        self._copy(state)
        first = len(deeds) - 1
        death = self._mortals.live(self.left, deeds, first, die_at, self._boot, self._mutation)
        assert not death.error
        assert death.done == first + (die_at == NEVER)
        return death

    def _copy(self, state: Path) -> None:
        self._left.close()
        shutil.rmtree(self.left, ignore_errors=True)
        shutil.copytree(state, self.left)


def play(stage: Stage) -> Death:
    """Plays a scenario with all its deaths, and those of the lives that open what was left."""
    whole = stage.learn_steps()
    for state in stage.die_at_each_point(whole.points):
        for _ in stage.die_again_while_opening(state):
            stage.check(stage.left)
        stage.check(state)
    return whole


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_death_at_each_step_leaves_what_was_promised(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch, mortals: Mortals, name: str
) -> None:
    scenario = SCENARIOS[name]
    whole = play(Stage(mortals, memory_path, monkeypatch, scenario))
    assert set(scenario.kinds.split()) - set(whole.kinds) == set()
    assert len(whole.points) > 10
