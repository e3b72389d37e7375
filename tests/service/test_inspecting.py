"""`replayring verify` and `replayring info`, as commands and beside a running server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from replayring_proto.messages import spec_from_message
from tests.service.frames import SPEC, episode
from tests.stored import SMALL, stored_column
from tests.support import ServerProcess
from tests.wire import Wire


def replayring(*arguments: object) -> tuple[int, str, str]:
    """Runs a command; returns its exit code, stdout and stderr."""
    command = [sys.executable, "-m", "replayring_server", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server of its own with one buffer of 7 frames."""
    with ServerProcess(tmp_path / "data") as server, Wire(server.address) as wire:
        wire.create("b", SPEC)
        wire.add("b", episode(4), episode(3))
        yield server


def test_a_served_directory_is_described_and_not_verified(server: ServerProcess) -> None:
    code, out, err = replayring("verify", server.data_dir)
    assert (code, out) == (2, "")
    holder = f"pid {server.pid}, {server.address}"
    assert f"is served by another process ({holder})" in err
    assert "stop it, then verify" in err
    code, out, err = replayring("info", server.data_dir)
    assert (code, err) == (0, "")
    assert f"{server.data_dir}: served by {holder}" in out
    assert "  frames      7 of " in out
    with Wire(server.address) as wire:
        wire.add("b", episode(2), writer_id="later")
        assert wire.info("b").next_index == 9


@pytest.mark.parametrize("properly", [True, False])
def test_a_server_that_was_stopped_or_killed_left_no_damage(
    server: ServerProcess, properly: bool
) -> None:
    if properly:
        server.stop()
    else:
        server.kill()
    code, out, err = replayring("verify", server.data_dir)
    assert (code, err) == (0, "")
    assert "checked   buffer b: 7 of " in out
    assert "the values of 2 episodes" in out
    assert out.endswith("no damage found\n")
    assert "not served at present" in replayring("info", server.data_dir)[1]


def test_damage_is_an_exit_code_of_its_own(server: ServerProcess) -> None:
    server.stop()
    stored_column(server.data_dir / "b", spec_from_message(SPEC), "position")[1] += 1
    code, out, _ = replayring("verify", server.data_dir)
    assert code == 1
    assert "DAMAGE    b/columns: 1 of 2 whole episodes" in out
    assert replayring("verify", "--quick", server.data_dir)[0] == 0
    assert replayring("info", server.data_dir)[0] == 0
    (server.data_dir / "b" / SMALL).unlink()
    assert replayring("verify", "--quick", server.data_dir)[0] == 1
    code, out, _ = replayring("info", "--json", server.data_dir)
    assert code == 1
    assert json.loads(out)["unreadable"].keys() == {"buffer b"}
    code, out, _ = replayring("verify", "--json", server.data_dir)
    assert code == 1
    assert json.loads(out)["findings"][0]["where"] == "b/columns/_small"


@pytest.mark.parametrize("command", ["verify", "info"])
def test_what_cannot_be_inspected_is_a_usage_error(tmp_path: Path, command: str) -> None:
    for arguments in ([tmp_path / "nowhere"], [tmp_path], [], [tmp_path, tmp_path]):
        code, out, err = replayring(command, *arguments)
        assert (code, out) == (2, "")
        assert err
        assert "Traceback" not in err
