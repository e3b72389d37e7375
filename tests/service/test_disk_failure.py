"""A server whose disk fails stops, rather than acknowledge what may not be there."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import replayring
from tests.support import ServerProcess, eventually

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


class ThinDisk:
    """A file system of 64 MiB on storage of 24, as a volume may be that is paid by use.

    Attributes:
        folder: where it is mounted.
    """

    def __init__(self, folder: Path, undo: contextlib.ExitStack) -> None:
        self.folder, self._storage = folder / "disk", folder / "storage"
        self.folder.mkdir()
        self._storage.mkdir()
        run("mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", self._storage)
        undo.callback(run, "umount", "--lazy", self._storage)
        image = self._storage / "image"
        run("truncate", "-s", "64m", image)
        run("mkfs.ext4", "-q", "-O", "^has_journal", "-E", "lazy_itable_init=0,nodiscard", image)
        self._device = run("losetup", "--find", "--show", image).strip()
        undo.callback(run, "losetup", "--detach", self._device)
        self._mount()
        undo.callback(run, "umount", "--lazy", self.folder)

    def run_full(self) -> None:
        """Leaves it a few MiB to write."""
        free = shutil.disk_usage(self._storage).free
        (self._storage / "others").write_bytes(bytes(free - (4 << 20)))

    def heal(self) -> None:
        """Gives it room again; what it did not take is nowhere any more."""
        (self._storage / "others").unlink()
        run("umount", self.folder)
        self._mount()

    def _mount(self) -> None:
        run("mount", "-o", "errors=continue", self._device, self.folder)


def run(*command: str | Path) -> str:
    """Runs a command that has to work; returns what it says."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def thin_disk(tmp_path: Path) -> Iterator[ThinDisk]:
    if os.geteuid() != 0 or not (shutil.which("mkfs.ext4") and shutil.which("losetup")):
        pytest.skip("to make a disk that fails needs root, mkfs.ext4 and losetup")
    with contextlib.ExitStack() as undo:
        try:
            disk = ThinDisk(tmp_path, undo)
        except AssertionError as error:
            pytest.skip(f"no right to make a disk here: {error}")
        yield disk


def numbered(first: int, frames: int = 100) -> dict[str, np.ndarray]:
    """An episode of which each frame is full of its own `index`."""
    return {"x": np.repeat(np.arange(first, first + frames, dtype=np.float32)[:, None], 1024, 1)}


def test_a_server_started_again_after_its_disk_failed_serves_nothing_that_the_disk_did_not_take(
    thin_disk: ThinDisk,
) -> None:
    """The machine runs on, so that nobody but the server knows what has been lost."""
    with (
        ServerProcess(thin_disk.folder) as server,
        replayring.connect(server.address, same_host=False, timeout=5) as client,
    ):
        columns = {"x": {"shape": (1024,), "dtype": "float32"}}
        buffer = client.create_buffer("b", columns, capacity=8000)
        for first in range(0, 500, 100):
            buffer.add_episode(numbered(first))
        eventually(lambda: client.status().buffers[0].durable_index == 500, "a sync")
        thin_disk.run_full()
        with contextlib.suppress(replayring.ServerError, replayring.ServerUnavailableError):
            for first in range(500, 4000, 100):  # less than what reserves the rows of the first
                buffer.add_episode(numbered(first))
        assert server.wait() == 1
        assert "stopped because the disk failed" in server.log_text()
    thin_disk.heal()
    with (
        ServerProcess(thin_disk.folder) as server,
        replayring.connect(server.address, same_host=False) as client,
    ):
        assert "or the disk failed" in server.log_text()
        buffer = client.buffer("b")
        held = buffer.info().next_index
        assert held >= 500
        found = buffer.get(indices=range(held), keys=["x"])["x"]
        np.testing.assert_array_equal(found, numbered(0, held)["x"])
