"""A death or a power loss at any moment is no damage, and `verify` does not call it any."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from replayring_proto import layout
from replayring_proto.ring import Counters
from replayring_server.engine import Origin, Store, cursor, files
from replayring_server.engine.records import EpisodeLog, WriterTable
from replayring_server.engine.ring import RingWriter
from replayring_server.inspection import describe, verify
from tests.engine.lives import die
from tests.engine.power import PowerDisk
from tests.inspection.spoiling import SPEC, episode

LARGER = replace(SPEC, capacity=80)
"""Large enough for episodes beyond the slack, which is 64."""

APPENDS = [(3, "a"), (80, "b"), (45, None), (2, "c"), (80, "a"), (1, None)]
"""Frames and writers: within the slack and beyond it, with a record of its own and without."""


def before_each(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, look: Callable[[], None]
) -> None:
    """Has `look` called before each call of a method, or before each store to a property."""
    real = getattr(owner, name)
    if isinstance(real, property):

        def store(self: Any, value: int) -> None:
            look()
            assert real.fset
            real.fset(self, value)

        monkeypatch.setattr(owner, name, property(real.fget, store))
    else:

        def call(*arguments: Any) -> Any:
            look()
            return real(*arguments)

        monkeypatch.setattr(owner, name, call)


STEPS = [
    *((Counters, name) for name in ("low", "head", "intent")),
    *((EpisodeLog, name) for name in ("write", "erase")),
    *(
        (cursor, "_write_slot"),
        (files, "sync_mapped"),
        (RingWriter, "_write"),
        (WriterTable, "put"),
    ),
]


def test_a_death_at_any_step_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each step of appends and syncs, what lies on the disk is as a `kill -9` leaves it."""
    moments = 0
    data_dir, grave = tmp_path / "data", tmp_path / "grave"

    def look() -> None:
        nonlocal moments
        moments += 1
        shutil.copytree(data_dir, grave)
        report = verify(grave)
        assert not report.damaged, report.findings
        assert describe(grave).unreadable == {}
        shutil.rmtree(grave)

    store = Store(data_dir)
    store._syncer.stop()  # syncs are a matter of this thread
    buffer, _ = store.create("ring", LARGER)
    for owner, name in STEPS:
        before_each(monkeypatch, owner, name, look)
    for tag, (frames, writer) in enumerate(APPENDS, 1):
        buffer.append(episode(tag, frames), Origin(writer, tag) if writer else None)
        look()
        if tag % 2:
            buffer.sync()
    monkeypatch.undo()
    die(store)
    assert moments > 100
    assert not verify(data_dir).damaged


@pytest.mark.parametrize("file", ["writers", "episodes"])
def test_a_record_cut_in_the_middle_by_a_death_is_no_damage(tmp_path: Path, file: str) -> None:
    """Of 128 bytes copied, any number may have been: to the table, or to the log before that."""
    with Store(tmp_path) as store:
        buffer, _ = store.create("ring", SPEC)
        for tag in (1, 2, 3):
            buffer.append(episode(tag, 4), Origin(f"w{tag}", tag))
    path = tmp_path / "ring" / file
    whole = path.read_bytes()
    begin, place = 2 * 128, {"writers": 2, "episodes": 3}[file]
    for copied in range(1, 116, 3):
        record = whole[begin : begin + copied] + bytes(128 - copied)
        path.write_bytes(whole[: place * 128] + record + whole[(place + 1) * 128 :])
        (finding,) = verify(tmp_path).findings
        assert finding.harmless, (copied, finding)
        assert f"the first at place {place}" in finding.what
    with Store(tmp_path) as store:
        assert store.get("ring").append(episode(3, 4), Origin("w3", 3)).duplicate


def test_records_that_lost_episodes_put_over_older_ones_are_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log had turned, and power was lost: the table still knows what the log no longer does."""
    store = Store(tmp_path)
    store._syncer.stop()
    buffer, _ = store.create("ring", replace(SPEC, capacity=1))
    for tag in range(1, 71):
        buffer.append(episode(tag, 1), Origin(f"w{tag}", 1))
    buffer.sync()
    table = (tmp_path / "ring" / "writers").read_bytes()
    for tag in range(71, 81):
        buffer.append(episode(tag, 1), Origin(f"w{tag}", 1) if tag % 2 else None)
    die(store)
    (tmp_path / "ring" / "writers").write_bytes(table)  # none of its pages was written since
    monkeypatch.setattr(layout, "machine_boot_id", lambda: bytes(16))
    (finding,) = verify(tmp_path).findings
    assert finding.harmless
    assert "10 frames written" in finding.means


def test_a_restart_of_the_machine_is_said_with_its_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    store._syncer.stop()
    buffer, _ = store.create("ring", SPEC)
    buffer.append(episode(1, 20))
    buffer.sync()
    buffer.append(episode(2, 7))
    die(store)
    monkeypatch.setattr(layout, "machine_boot_id", lambda: bytes(16))
    report = verify(tmp_path)
    (finding,) = report.findings
    assert not report.damaged
    assert "the machine was restarted" in finding.what
    assert "20 frames live then, 7 frames written or overwritten since" in finding.means
    (state,) = describe(tmp_path).buffers
    assert (state.next_index, state.given_up, state.num_episodes) == (20, 7, 1)
    assert state.next_episode_index == 1
    with Store(tmp_path) as opened:
        assert opened.get("ring").info().next_index == 20
    assert verify(tmp_path).findings == []


@pytest.mark.parametrize("seed", range(4))
def test_a_power_loss_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """What is left of the files then is any mixture of what they held since their last sync."""
    disk = PowerDisk(monkeypatch, seed)
    chance = random.Random(seed)
    boots = 100

    def loss() -> None:
        """Loses power and looks at what is left, on a machine that has started again."""
        nonlocal boots
        boots += 1
        with monkeypatch.context() as patch:
            boot_id = boots.to_bytes(16, "big")
            patch.setattr(layout, "machine_boot_id", lambda: boot_id)
            remains = tmp_path / f"remains-{boots}"
            disk.lose(remains / "ring")
            report = verify(remains)
            assert not report.damaged, report.findings
            assert describe(remains).unreadable == {}
            shutil.rmtree(remains)

    store = Store(tmp_path / "data")
    store._syncer.stop()
    buffer, _ = store.create("ring", SPEC)
    disk.watch(tmp_path / "data" / "ring")
    for tag in range(1, 31):
        writer = chance.choice(["a", "b", None])
        buffer.append(
            episode(tag, chance.choice([1, 5, 20, 50])), Origin(writer, tag) if writer else None
        )
        disk.pass_moment()
        loss()
        if chance.random() < 0.3:
            buffer.sync()
    die(store)
    assert boots == 130
