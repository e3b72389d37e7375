"""`replayring snapshot` and `replayring restore`, beside a running server and without."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from replayring_proto import cli
from replayring_proto.spec import DTYPES, BufferSpec, Column
from replayring_server.engine import Store
from replayring_server.snapshots import snapshot
from tests.service.frames import SPEC, episode
from tests.support import ServerProcess, command
from tests.wire import Wire


def test_a_server_is_copied_and_another_one_goes_on(tmp_path: Path) -> None:
    data, to, back = (tmp_path / name for name in ("data", "to", "back"))
    with ServerProcess(data) as server, Wire(server.address) as wire:
        wire.create("b", SPEC)
        wire.add("b", episode(4), episode(3), writer_id="w")
        done = command("snapshot", str(data), str(to), "--json")
        assert done.returncode == 0, done.stderr
        (buffer,) = json.loads(done.stdout)["buffers"]
        assert (buffer["name"], buffer["oldest_index"], buffer["next_index"]) == ("b", 0, 7)
        assert re.search(r"buffer b: .* MB, 1 of 1 parts, \d+\.\d s", done.stderr)
        wire.add("b", episode(2), writer_id="later")
        assert wire.info("b").next_index == 9
        refused = command("restore", str(to), str(data), "--buffer", "b", "--name", "c")
        assert (refused.returncode, refused.stdout) == (2, "")
        assert f"is served by another process (pid {server.pid}, {server.address})" in (
            refused.stderr
        )
        assert "Traceback" not in refused.stderr
    done = command("restore", str(to), str(back))
    assert done.returncode == 0, done.stderr
    assert "buffer b: 7 frames before index 7, id " in done.stdout
    with ServerProcess(back) as server, Wire(server.address) as wire:
        (first, *_) = wire.add("b", episode(4), episode(3), writer_id="w")
        assert first.duplicate
        assert wire.info("b").next_index == 7


def test_exit_codes_say_how_much_was_taken(tmp_path: Path) -> None:
    data, to = tmp_path / "data", tmp_path / "to"
    nothing = command("snapshot", str(data), str(to))
    assert (nothing.returncode, nothing.stdout) == (2, "")
    assert "there is no directory" in nothing.stderr
    with ServerProcess(data) as server, Wire(server.address) as wire:
        wire.create("b", SPEC)
        wire.create("c", SPEC)
    (data / "b" / "cursor").unlink()
    some = command("snapshot", str(data), str(to))
    assert some.returncode == 1
    assert "buffer b was NOT taken" in some.stdout
    assert "buffer c: 0 frames" in some.stdout
    done = command("restore", str(to), str(tmp_path / "back"), "--json")
    assert [one["name"] for one in json.loads(done.stdout)["buffers"]] == ["c"]


def test_exit_codes_tell_a_restore_that_failed_from_one_that_was_not_begun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # That of the tests stays as it is.
    monkeypatch.setattr("replayring_server.commands.restore.raise_descriptor_limit", list)
    data, to, back = (tmp_path / name for name in ("data", "to", "back"))
    with Store(data) as store:
        store.create("b", BufferSpec((Column("x", DTYPES["uint8"]),), 10))
    snapshot(str(data), str(to))

    def restored(source: Path, *arguments: str) -> int:
        commands = {"restore": "replayring_server.commands.restore"}
        return cli.run(commands, ["restore", str(source), str(back), *arguments])

    assert restored(tmp_path / "nowhere") == 2
    assert "there is no directory" in capsys.readouterr().err
    for wrong in (["--buffer", "c"], ["--name", "../x"]):
        assert restored(to, *wrong) == 2
    (back / "b").mkdir(parents=True)
    assert restored(to) == 2
    (back / "b").rmdir()
    (manifest,) = to.glob("manifest.json")
    whole = manifest.read_text()
    manifest.write_text(whole[:-10])
    assert restored(to) == 1
    manifest.write_text(whole)
    assert restored(to) == 0


@pytest.mark.parametrize("arguments", [[], ["a"], ["a", "b", "c"], ["a", "b", "--buffer"]])
@pytest.mark.parametrize("name", ["snapshot", "restore"])
def test_what_cannot_be_understood_is_a_usage_error(name: str, arguments: list[str]) -> None:
    done = command(name, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: " in done.stderr


@pytest.mark.parametrize("name", ["info", "verify", "snapshot", "restore"])
def test_a_variable_that_is_not_set_is_not_the_working_directory(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`replayring restore ./snapshot "$DATA"` made buffers where the shell happened to be."""
    commands = {name: f"replayring_server.commands.{name}"}
    for at in range(2 if name in ("snapshot", "restore") else 1):
        with pytest.raises(SystemExit):
            cli.run(commands, [name, *["here"] * at, ""])
        assert "'' is no folder" in capsys.readouterr().err
