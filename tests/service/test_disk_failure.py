"""A server whose disk fails stops, rather than acknowledge what may not be there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import replayring

# A disk that fails as soon as the file `fail` exists beside the data directory.
SERVER = """
import errno, pathlib, sys
from replayring_server.engine import files
sync_mapped = files.sync_mapped

def sync_or_fail(mapped, path):
    if pathlib.Path(sys.argv[1], "fail").exists():
        raise OSError(errno.EIO, "Input/output error", str(path))
    sync_mapped(mapped, path)

files.sync_mapped = sync_or_fail
from replayring_proto.cli import run
commands = {"serve": "replayring_server.commands.serve"}
data_dir = sys.argv[1] + "/data"
sys.exit(run(commands, ["serve", "--data-dir", data_dir, "--listen", "127.0.0.1:0"]))
"""


def test_server_stops_when_the_disk_fails_under_commit(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", SERVER, str(tmp_path)]
    with (
        log.open("w") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as server,
    ):
        assert server.stdout is not None
        address = server.stdout.readline().split()[-1]
        with replayring.connect(address, timeout=5) as client:
            columns = {"x": {"shape": (), "dtype": "float32"}}
            buffer = client.create_buffer("b", columns, capacity=100, durability="commit")
            assert buffer.info().durability == "commit"
            buffer.add_episode({"x": np.ones(3)})
            (tmp_path / "fail").touch()
            with pytest.raises((replayring.ServerError, replayring.ServerUnavailableError)):
                buffer.add_episode({"x": np.ones(3)})
        assert server.wait(60) == 1
    assert "stopped because the disk failed" in log.read_text()
