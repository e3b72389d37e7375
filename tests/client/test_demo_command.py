"""`replayring demo` from the outside: options, exit codes, and the end by Ctrl-C."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from replayring.demo import command
from replayring.demo.session import Session, Settings

PATIENCE_SECONDS = 20.0

WAIT = "import signal; signal.pause()"
SERVER = f"print('replayring listening on 127.0.0.1:1234', flush=True); {WAIT}"


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code]


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(arguments)


def pretend(
    monkeypatch: pytest.MonkeyPatch, *, server: str = SERVER, learner: str = WAIT, actor: str = WAIT
) -> None:
    monkeypatch.setattr(Session, "_server_command", lambda self, listen: python(server))
    monkeypatch.setattr(Session, "_learner_command", lambda self, address: python(learner))
    monkeypatch.setattr(Session, "_actor_command", lambda self, address, number: python(actor))


def reports(*returns: float) -> str:
    lines = [
        json.dumps({"steps": 400 * i, "frames_inserted": 402 * i, "mean_return": mean_return})
        for i, mean_return in enumerate(returns)
    ]
    return f"print({chr(10).join(lines)!r})"


def test_importing_the_command_is_cheap() -> None:
    code = (
        "import sys, replayring.demo.command;"
        "print({'torch', 'gymnasium', 'matplotlib'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )

    assert result.stdout == "set()\n", result.stderr


def test_a_whole_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    pretend(monkeypatch, learner=reports(-1500.0, -300.0, -150.25))

    assert command.run(parse("--output", str(tmp_path), "--seed", "7")) == 0

    output = capsys.readouterr().out
    picture = tmp_path / "learning-curve.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert output.endswith(f"learning curve: {picture}\n")
    assert "800 steps" in output
    assert "mean return -150" in output
    assert "seed 7" in output
    assert "server on 127.0.0.1:1234" in output


def test_what_is_meant_for_another_server_does_not_reach_the_demos_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token file, say, would keep its actors and its learner out."""
    monkeypatch.setenv("REPLAYRING_SERVE_TOKEN_FILE", "/run/secrets/tokens")
    look = "import os; assert not [k for k in os.environ if k.startswith('REPLAYRING_SERVE_')];"
    pretend(monkeypatch, server=look + SERVER, learner=reports(-1.0))

    assert command.run(parse("--output", str(tmp_path))) == 0


def test_what_libraries_write_beside_the_reports_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch, learner=f"print('pygame 2.6.1'); {reports(-150.25)}; print('bye')")

    assert command.run(parse("--output", str(tmp_path))) == 0
    assert "mean return -150" in capsys.readouterr().out


def test_a_temporary_data_directory_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    pretend(monkeypatch, learner="raise SystemExit(1)")

    assert command.run(parse("--output", str(tmp_path / "output"))) == 1

    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_learner_that_fails_is_named_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch, learner="raise SystemExit('no server at 127.0.0.1:1234')")

    assert command.run(parse("--output", str(tmp_path))) == 1

    log = tmp_path / "learner.log"
    assert capsys.readouterr().err == (
        "replayring demo: learner ended with exit code 1: no server at 127.0.0.1:1234"
        f" (log: {log})\n"
    )


def test_a_server_that_does_not_start_is_named_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch, server="raise SystemExit('the directory is locked')")

    assert command.run(parse("--output", str(tmp_path))) == 1

    assert "server ended with exit code 1: the directory is locked" in capsys.readouterr().err


def test_what_is_missing_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find_spec = importlib.util.find_spec

    def without_gymnasium(name: str) -> object:
        return None if name == "gymnasium" else find_spec(name)

    monkeypatch.setattr(importlib.util, "find_spec", without_gymnasium)

    assert command.run(parse("--output", str(tmp_path / "untouched"))) == 1

    assert capsys.readouterr().err == (
        'replayring demo: the demo needs gymnasium: pip install "replayring[demo]"\n'
    )
    assert not (tmp_path / "untouched").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--role", "actor"], "--role actor needs --address"),
        (["--role", "learner"], "--role learner needs --address"),
        (["--address", "host:1", "--data-dir", "d"], "--data-dir is for a server"),
        (["--token-file", "t"], "--token-file is for a server elsewhere, and needs --address"),
        (
            ["--role", "actor", "--address", "a:1", "--device", "cuda"],
            "--device is for the learner",
        ),
        (["--device", "meta"], "device is 'meta', and batches are brought to CPU or CUDA devices"),
        (["--device", "gpu"], "device is 'gpu', which torch does not know"),
        (["--device", "cuda:99"], "device is 'cuda:99', but torch"),
    ],
)
def test_contradictions(
    arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.run(parse(*arguments)) == 2
    assert part in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--steps", "0"], ["--actors", "-1"], ["--seed", "x"]])
def test_numbers_are_checked(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        parse(*arguments)

    assert exit_info.value.code == 2
    assert arguments[0] in capsys.readouterr().err


@pytest.mark.parametrize("role", ["actor", "learner"])
def test_a_role_starts_only_its_processes(
    role: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pretend(monkeypatch, server="raise SystemExit(9)")
    started: list[str] = []

    def start(self: object, name: str, command: list[str], *, restart: bool = False) -> None:
        started.append(name)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("replayring.demo.supervisor.Supervisor.start", start)
    arguments = parse("--role", role, "--address", "host:1", "--output", str(tmp_path))

    assert command.run(arguments) == 128 + signal.SIGTERM

    assert started == {"actor": ["actor-0", "actor-1"], "learner": ["learner"]}[role]
    assert f"what keeps it waiting stands in {tmp_path}/{started[0]}.log" in capsys.readouterr().out


def test_the_learner_is_told_where_to_compute(tmp_path: Path) -> None:
    settings = Settings("learner", 100, 1, 0, "host:1", tmp_path, device="cpu")
    nobody: Any = None
    session = Session(settings, nobody, nobody, nobody)
    assert session._learner_command("host:1")[-2:] == ["--device", "cpu"]


def test_ctrl_c_ends_all_quietly(tmp_path: Path) -> None:
    pipe = tmp_path / "held-open-by-the-children"
    os.mkfifo(pipe)
    hold = f"file = open({str(pipe)!r}, 'wb', 0); file.write(b'.');"
    driver = f"""
import argparse, pytest, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_demo_command as test
patch = pytest.MonkeyPatch()
test.pretend(patch, server={hold + SERVER!r}, learner={hold + WAIT!r}, actor={hold + WAIT!r})
raise SystemExit(test.command.run(test.parse("--output", {str(tmp_path)!r})))
"""
    with (
        subprocess.Popen(
            [sys.executable, "-c", driver],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
        pipe.open("rb", 0) as held,
    ):
        seen = b""
        while len(seen) < 4:  # a server, a learner and two actors
            readable, _, _ = select.select([held], [], [], PATIENCE_SECONDS)
            assert readable
            seen += held.read(4)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE_SECONDS)

        assert held.read() == b"", "a child lives on"
    assert process.returncode == 130
    assert errors == ""
    assert output.endswith("stopped\n")
