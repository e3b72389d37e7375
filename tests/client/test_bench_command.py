"""`replayring bench`: it measures, touches nothing else, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import replayring
from replayring.benchmark.roles import fill
from replayring.benchmark.workloads import WORKLOADS
from tests.support import ServerProcess, eventually

PROGRAM = Path(sys.executable).with_name("replayring")
QUICK = ("--seconds", "0.02", "--frames", "400", "--workload", "small")
WIRE = {
    *("insert, 1 actor", "insert, 4 actors", "insert, each episode waited for"),
    *("sample, 1 learner", "sample, 2 learners", "sample, each batch waited for"),
    *("both at once: insert", "both at once: sample"),
}


def bench(address: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, "bench", address, *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "REPLAYRING_SAME_HOST": "1"},
    )


def buffers_left(client: replayring.Client) -> list[str]:
    return [info.name for info in client.buffers() if info.name.startswith("bench-")]


def test_it_measures_and_leaves_the_server_as_it_was(
    core_server: str, client: replayring.Client, buffer: replayring.Buffer
) -> None:
    buffer.add_episode({"state": np.zeros((3, 2)), "reward": np.zeros(3)})
    before = buffer.info()
    done = bench(core_server, *QUICK)
    assert done.returncode == 0, done.stderr
    heading, *lines = done.stdout.splitlines()
    assert heading.split()[:3] == ["workload", "per", "second"]
    assert {line[10:52].strip() for line in lines} >= WIRE
    assert any("sample from files" in line for line in lines)
    assert buffer.info() == before
    assert buffers_left(client) == []


def test_lines_of_json_say_the_same(core_server: str) -> None:
    done = bench(core_server, *QUICK, "--json")
    assert done.returncode == 0, done.stderr
    figures = [json.loads(line) for line in done.stdout.splitlines()]
    assert {figure["what"] for figure in figures} >= WIRE
    for figure in figures:
        assert figure["workload"] == "small"
        assert figure["per_second"] > 0
        assert figure["megabytes_per_second"] == pytest.approx(figure["per_second"] * 97 / 1e6)


def test_a_server_that_wants_a_token_gets_it_from_every_process(tmp_path: Path) -> None:
    token, tokens = tmp_path / "token", tmp_path / "tokens"
    token.write_text("t" * 32)
    tokens.write_text(f"write {'t' * 32}\n")
    with ServerProcess(tmp_path / "data", "--token-file", str(tokens)) as server:
        done = bench(server.address, *QUICK, "--token-file", str(token))
    assert done.returncode == 0, done.stderr
    assert "t" * 32 not in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_when_it_is_stopped_its_buffer_goes(
    core_server: str, client: replayring.Client, number: signal.Signals
) -> None:
    command = [PROGRAM, "bench", core_server, "--seconds", "600", "--workload", "small"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            eventually(lambda: bool(buffers_left(client)), "it has made its buffer")
            process.send_signal(number)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, errors) == (130, b"")
    assert buffers_left(client) == []


def test_nothing_is_left_to_import_that_would_swallow_the_stop() -> None:
    """An exception is lost while numpy.random starts, which numpy puts off until it is used."""
    program = "import sys, replayring.benchmark.command as _; print('numpy.random' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert done.stdout == b"True\n", done.stderr


def test_a_server_that_dies_meanwhile_is_told_of(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server:
        command = [PROGRAM, "bench", server.address, "--seconds", "600", "--workload", "small"]
        with (
            subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process,
            replayring.connect(server.address, timeout=20) as client,
        ):
            try:
                eventually(lambda: bool(buffers_left(client)), "it has made its buffer")
                server.kill()
                process.send_signal(signal.SIGINT)
                _, errors = process.communicate(timeout=100)
            finally:
                process.kill()
    assert process.returncode == 130
    assert "may be left on the server" in errors
    assert "Traceback" not in errors


def test_who_stops_the_filling_does_not_wait_for_a_dead_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that is left by an exception otherwise waits for what it has sent: here 60 s."""
    small = WORKLOADS["small"]
    add = replayring.Writer.add_episode

    def add_and_stop(writer: replayring.Writer, data: Mapping[str, Any]) -> int:
        add(writer, data)
        raise KeyboardInterrupt

    with ServerProcess(tmp_path / "data") as server, replayring.connect(server.address) as client:
        buffer = client.create_buffer("b", small.data_spec, small.capacity)
        server.kill()
        monkeypatch.setattr(replayring.Writer, "add_episode", add_and_stop)
        begun = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            fill(buffer, small)
    assert time.monotonic() - begun < 30


def test_what_the_server_refuses_is_told_in_one_line(core_server: str) -> None:
    done = bench(core_server, "--frames", str(1 << 50))
    assert done.returncode == 1
    assert done.stdout.count("\n") == 1  # the heading
    assert done.stderr.startswith("replayring bench: ")
    assert done.stderr.count("\n") == 1


def test_several_servers_are_refused_before_anything_is_sent() -> None:
    done = bench("127.0.0.1:1,127.0.0.1:2", *QUICK)
    assert done.returncode == 1
    assert done.stderr == (
        "replayring bench: 127.0.0.1:1,127.0.0.1:2 are several servers; this command is about "
        "one: run it for each\n"
    )


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_a_time_that_is_none_is_refused(seconds: str) -> None:
    done = bench("127.0.0.1:1", f"--seconds={seconds}")
    assert done.returncode == 2
    assert f"{seconds!r} is not a number of seconds from 0.01 to 3600" in done.stderr


def test_a_capacity_that_is_none_is_refused() -> None:
    done = bench("127.0.0.1:1", "--frames", "1e5")
    assert done.returncode == 2
    assert "--frames: '1e5' is not a whole number" in done.stderr


def test_a_server_that_is_not_there_is_told_of_soon_and_not_blamed_for_a_buffer() -> None:
    begun = time.monotonic()
    done = bench("127.0.0.1:1", *QUICK)
    assert (done.returncode, done.stdout) == (1, "")
    assert "127.0.0.1:1 could not be reached within 5 s" in done.stderr
    assert done.stderr.count("\n") == 1
    assert time.monotonic() - begun < 40  # where creating the buffer is waited for for 60


def test_a_worker_whose_caller_was_killed_ends_in_the_middle_of_its_turn() -> None:
    worker = "from replayring.benchmark.turns import take_turns; take_turns(lambda: 1)"
    caller = (
        "import subprocess, sys\n"
        f"worker = subprocess.Popen([sys.executable, '-c', {worker!r}], stdin=subprocess.PIPE)\n"
        "worker.stdin.write(b'600\\n')\n"
        "worker.stdin.flush()\n"
        "print(worker.pid, flush=True)\n"
        "worker.wait()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", caller], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = {process.stdout.readline().strip() for _ in range(2)}
        (pid,) = (int(line) for line in lines if line.isdecimal())
        process.kill()
        eventually(lambda: not psutil.pid_exists(pid), "the worker ends")
