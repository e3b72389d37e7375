"""`replayring bench`: it measures, touches nothing else, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import replayring
from tests.support import ServerProcess, eventually

PROGRAM = Path(sys.executable).with_name("replayring")
QUICK = ("--seconds", "0.02", "--frames", "400", "--workload", "small")
WIRE = {
    *("insert, 1 actor", "insert, 4 actors", "insert, each episode waited for"),
    *("sample, 1 learner", "sample, 2 learners", "sample, each batch waited for"),
    *("both at once: insert", "both at once: sample"),
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "data") as server:
        yield server


@pytest.fixture
def client(server: ServerProcess) -> Iterator[replayring.Client]:
    with replayring.connect(server.address, timeout=30) as client:
        yield client


def bench(address: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, "bench", address, *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "REPLAYRING_SAME_HOST": "1"},
    )


def test_it_measures_and_leaves_the_server_as_it_was(
    server: ServerProcess, client: replayring.Client
) -> None:
    spec = {"x": {"shape": (), "dtype": "uint8"}}
    client.create_buffer("bench", spec, 10).add_episode({"x": np.ones(3, np.uint8)})
    done = bench(server.address, *QUICK)
    assert done.returncode == 0, done.stderr
    heading, *lines = done.stdout.splitlines()
    assert heading.split()[:3] == ["workload", "per", "second"]
    assert {line[10:52].strip() for line in lines} >= WIRE
    assert any("sample from files" in line for line in lines)
    assert [(info.name, info.next_index) for info in client.buffers()] == [("bench", 3)]


def test_lines_of_json_say_the_same(server: ServerProcess) -> None:
    done = bench(server.address, *QUICK, "--json")
    assert done.returncode == 0, done.stderr
    figures = [json.loads(line) for line in done.stdout.splitlines()]
    assert {figure["what"] for figure in figures} >= WIRE
    for figure in figures:
        assert figure["workload"] == "small"
        assert figure["per_second"] > 0
        assert figure["megabytes_per_second"] == pytest.approx(figure["per_second"] * 97 / 1e6)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_when_it_is_stopped_its_buffer_goes(
    server: ServerProcess, client: replayring.Client, number: signal.Signals
) -> None:
    command = [PROGRAM, "bench", server.address, "--seconds", "600"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            eventually(lambda: bool(client.buffers()), "it has made its buffer")
            process.send_signal(number)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, errors) == (130, b"")
    assert client.buffers() == []


def test_a_server_that_refuses_is_told_of_in_one_line(server: ServerProcess) -> None:
    done = bench(server.address, "--frames", str(1 << 50))
    assert done.returncode == 1
    assert done.stdout.count("\n") == 1  # the heading
    assert done.stderr.startswith("replayring bench: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("seconds", ["0", "-1", "soon"])
def test_a_time_that_is_none_is_refused(seconds: str) -> None:
    done = bench("127.0.0.1:1", "--seconds", seconds)
    assert done.returncode == 2
    assert "--seconds" in done.stderr
