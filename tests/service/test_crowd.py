"""256 clients at once: nobody sees an error, nothing that was acknowledged is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replayring
from tests.service.crowd import BUFFER, PARAMETERS
from tests.service.told_apart import COLUMNS, DATA_SPEC, check, episode
from tests.support import PATIENCE, ServerProcess, eventually

ROOT = Path(__file__).parents[2]
PROCESSES, THREADS, ROUNDS = 4, 64, 10
BOUND = 10.0
"""Seconds within which 99 of 100 calls are answered, on a loaded machine of two cores."""

MIB = 1 << 20


def crowd(address: str, first: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.service.crowd", address]
    command += map(str, (first, THREADS, ROUNDS))
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def outcomes(address: str) -> list[dict[str, Any]]:
    children = [crowd(address, number * THREADS) for number in range(PROCESSES)]
    try:
        return [json.loads(child.communicate(timeout=2 * PATIENCE)[0]) for child in children]
    finally:
        for child in children:
            child.kill()
            child.communicate()


@pytest.mark.timeout(300)
def test_256_clients_at_once(tmp_path: Path, record_property: Any) -> None:
    with ServerProcess(tmp_path / "data") as server, replayring.connect(server.address) as client:
        buffer = client.create_buffer(BUFFER, DATA_SPEC, 100_000, fps=10)
        buffer.add_episode(episode(1_000, 1))  # for those who read, by a writer of its own
        client.publish(PARAMETERS, {"w": np.zeros(9)})
        before = server.stats.num_threads(), server.stats.num_fds(), server.stats.memory_info().rss
        results = outcomes(server.address)
        errors = [error for result in results for error in result["errors"]]
        assert not errors, f"{errors[:5]}\n{server.log_text()[-3000:]}"
        seconds = np.concatenate([result["seconds"] for result in results])
        slow = float(np.quantile(seconds, 0.99))
        record_property("p99_s", slow)
        print(f"{len(seconds):,} calls, p99 {slow:.3f} s, slowest {seconds.max():.3f} s")
        assert slow < BOUND
        acknowledged = {
            int(writer): count
            for result in results
            for writer, count in result["acknowledged"].items()
        }
        assert acknowledged == dict.fromkeys(range(0, PROCESSES * THREADS, 4), ROUNDS)
        check(buffer.read_columns(COLUMNS), {**acknowledged, 1_000: 1})
        eventually(lambda: server.stats.num_fds() <= before[1], "connections are closed")
        assert server.stats.num_threads() <= before[0] + 40  # the engine's lanes, gRPC's own pool
        assert server.stats.memory_info().rss < before[2] + 256 * MIB
        assert server.stop() == 0
        assert "Traceback" not in server.log_text()
