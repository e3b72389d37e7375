"""A snapshot and a restoration that are killed (SIGKILL) at any step, and done again.

The steps are those of `tests.engine.failpoints`: each line of the engine and of the snapshots that
a life runs, with what the files hold then. REPLAYRING_SNAPSHOT_DEATHS sets how many are tried of
each deed, besides those at which the files have just changed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from replayring_proto import layout
from replayring_server.engine import Store
from replayring_server.inspection import verify
from replayring_server.snapshots import parts, restore, snapshot
from tests.engine.failpoints import Deed, Mortals
from tests.snapshots.comparing import Moment, moment

TAIL_FRAMES = parts.TAIL_FRAMES
DEATHS = int(os.environ.get("REPLAYRING_SNAPSHOT_DEATHS", "25"))

RING: list[Deed] = [
    ["open"],
    ["create", "ring", 70, "interval"],
    ["create", "small", 3, "commit"],
    ["publish", "policy", 1],
    *(["append", "ring", tag, 29] for tag in range(1, 6)),
    ["append", "small", 1, 2],
]
MORE: list[Deed] = [
    ["open"],
    ["append", "ring", 6, 40],
    ["append", "small", 2, 3],
    ["publish", "policy", 2],
]


@pytest.fixture
def mortals() -> Iterator[Mortals]:
    with Mortals() as mortals:
        yield mortals


@pytest.fixture(autouse=True)
def same_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start of the machine that `Mortals` live in, and their parts."""
    monkeypatch.setattr(layout, "machine_boot_id", lambda: (1).to_bytes(16, "big"))
    monkeypatch.setattr(parts, "PART_BYTES", 512)
    monkeypatch.setattr(parts, "TAIL_FRAMES", TAIL_FRAMES)


def state(data_dir: Path) -> dict[str, Moment | int]:
    """All buffers and parameters of a flawless data directory."""
    assert verify(data_dir).findings == []
    with Store(data_dir) as store:
        assert not store._damaged
        found: dict[str, Moment | int] = {name: moment(store.get(name)) for name in store.names()}
        for name, one in store.parameters._sets.items():
            found[f"parameters {name}"] = one.version
        return found


def restored(to: Path, folder: Path) -> dict[str, Moment | int]:
    shutil.rmtree(folder, ignore_errors=True)
    restore(str(to), folder)
    return state(folder)


def deaths(mortals: Mortals, folder: Path, deed: Deed) -> list[int]:
    """The steps at which to die: those that changed files, and others spread over the deed."""
    whole = mortals.live(folder, [deed])
    assert whole.error == ""
    every = len(whole.points) // DEATHS + 1
    assert len(whole.changes) > 10
    return sorted({*whole.changes, *whole.points[::every]})


def test_a_snapshot_killed_at_any_step_leaves_the_one_before_and_goes_on(
    memory_path: Path, mortals: Mortals
) -> None:
    data, to, back = (memory_path / name for name in ("data", "to", "back"))
    data.mkdir()
    assert not mortals.live(data, RING).error
    first = memory_path / "first"
    first.mkdir()
    mortals.live(first, [["snapshot", str(data)]])
    before = restored(first, back)
    mortals.live(data, MORE)
    after = state(data)
    assert before.keys() == after.keys()
    assert all(before[name] != after[name] for name in before)
    shutil.copytree(first, to)
    steps = deaths(mortals, to, ["snapshot", str(data)])
    copied = set()
    for step in steps:
        shutil.rmtree(to)
        shutil.copytree(first, to)
        mortals.live(to, [["snapshot", str(data)]], die_at=step)
        left = restored(to, back)
        for name, found in left.items():
            assert found in (before[name], after[name]), f"{name}, killed at step {step}"
        again = snapshot(data, str(to), prune=True)
        copied.add(sum(one.copied_parts for one in again.buffers))
        assert restored(to, back) == after
        assert not list(to.rglob("*.part")), "left behind"
    assert len(copied) > 2, "what was copied before a death is not used"


def test_a_restoration_killed_at_any_step_is_finished_by_the_next(
    memory_path: Path, mortals: Mortals
) -> None:
    data, to, back = (memory_path / name for name in ("data", "to", "back"))
    data.mkdir()
    assert not mortals.live(data, RING).error
    to.mkdir()
    back.mkdir()
    mortals.live(to, [["snapshot", str(data)]])
    whole = restored(to, back)
    shutil.rmtree(back)
    back.mkdir()
    steps = deaths(mortals, back, ["restore", str(to)])
    halves = 0
    for step in steps:
        shutil.rmtree(back)
        back.mkdir()
        mortals.live(back, [["restore", str(to)]], die_at=step)
        shutil.copytree(back, memory_path / "left")
        halves += bool(list(back.glob(".creating-*")))
        with Store(memory_path / "left") as store:  # a server that is started on what was left
            assert not store._damaged
            for name in store.names():
                assert moment(store.get(name)) == whole[name], f"{name}, killed at step {step}"
        shutil.rmtree(memory_path / "left")
        restore(str(to), back)
        assert state(back) == whole, f"killed at step {step}"
    assert halves > 5, "never in the middle of it"
