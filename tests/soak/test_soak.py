"""The soak itself: it runs, ends when it is told to, and notices what it is there for."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.soak.__main__ import Soak, verdict
from tests.soak.measure import MIB, Footprint, Life
from tests.soak.workers import episode, torn
from tests.support import read_line

ROOT = Path(__file__).parents[2]


def test_a_soak_of_seconds_finds_nothing_and_ends_cleanly_on_sigint() -> None:
    options = "--hours 1 --interval 1 --kill-every 2 --actors 1 --learners 1 --watchers 1"
    command = [sys.executable, "-m", "tests.soak", *options.split()]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout
        try:
            lines = [read_line(process.stdout.fileno()) for _ in range(6)]
            children = psutil.Process(process.pid).children()
            process.send_signal(signal.SIGINT)
            rest = process.communicate(timeout=60)[0].decode()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its server too, if it could not end it
    assert len(children) >= 5
    assert process.returncode == 0, rest
    assert all("errors 0" in line for line in lines), lines
    assert "server kills" in rest
    assert "torn 0" in rest
    assert not psutil.wait_procs(children, 10)[1], "workers outlive the soak"


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[Soak]:
    """A soak whose workers are all on holiday."""
    roles = ("actors", "learners", "readers", "publishers", "watchers", "churners")
    with Soak(argparse.Namespace(**dict.fromkeys(roles, 0)), tmp_path) as soak:
        yield soak


def test_what_was_acknowledged_and_is_not_there_is_noticed(
    idle: Soak, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = idle.client.buffer("soak").add_episode(episode(7, 5))
    idle.ledger.take("stored", [7, stored.index, 5])
    idle.kill_server()
    idle.check()
    assert verdict(idle, 20) == 0
    idle.ledger.take("stored", [8, 0, 5])  # the episode there is number 7
    idle.check()
    idle.ledger.take("stored", [9, 5, 5])  # nothing is there
    idle.check()
    assert verdict(idle, 20) == 1
    said = capsys.readouterr().out
    assert "the episode at 0 is another one" in said
    assert "frames to 5 of 10 acknowledged ones" in said


def test_torn_rows_and_growth_are_noticed(idle: Soak) -> None:
    rows = {**episode(3, 10), "frame_index": np.arange(10)}
    assert torn(rows) == 0
    rows["value"][4, 2] += 1
    assert torn(rows) == 1
    growing = Life([Footprint(60.0 * i, 0, i * MIB, 9, 9) for i in range(15)])
    assert growing.slope() == pytest.approx(60)
    assert Life(growing.footprints[:5]).slope() is None
    idle.lives.append(growing)
    assert verdict(idle, 61) == 0
    assert verdict(idle, 59) == 1
