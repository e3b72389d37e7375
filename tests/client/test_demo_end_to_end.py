"""The demo for real: a server, an actor and a learner, and what happens when they are killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from replayring_server.engine import Store

for module in ("torch", "gymnasium", "matplotlib"):
    pytest.importorskip(module)

DRIVER = """
import argparse
from replayring.demo import command, progress
progress.SECONDS_BETWEEN_LINES = 0.0
parser = argparse.ArgumentParser()
command.add_arguments(parser)
raise SystemExit(command.run(parser.parse_args()))
"""


def kill(demo: psutil.Process, word: str) -> None:
    """Kill the child that has this word on its command line."""
    next(child for child in demo.children() if word in child.cmdline()).kill()


@pytest.mark.timeout(300)
def test_training_survives_the_loss_of_an_actor_and_of_the_server(tmp_path: Path) -> None:
    data_dir, output = tmp_path / "data", tmp_path / "output"
    arguments = ["--steps", "1200", "--actors", "1", "--seed", "0"]
    folders = ["--data-dir", str(data_dir), "--output", str(output)]
    said = []
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, *arguments, *folders],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        demo = psutil.Process(process.pid)
        victims = ["replayring.demo.actor", "replayring_server"]
        for line in process.stdout:
            said.append(line)
            if victims and "00/1,200 steps" in line:  # the first episode has arrived
                kill(demo, victims.pop(0))
        errors = process.stderr.read()

    output_text = "".join(said)
    assert process.returncode == 0, output_text + errors
    assert errors == ""
    assert output_text.count("actor-0 was killed by SIGKILL; started again\n") == 1
    assert output_text.count("server was killed by SIGKILL; started again\n") == 1
    assert (output / "learning-curve.png").exists()
    with Store(str(data_dir)) as store:  # nobody holds the lock any more
        info = store.get("pendulum").info()
    assert info.next_index == 201 * info.next_episode_index  # whole episodes only
    assert info.next_index >= 1_200
