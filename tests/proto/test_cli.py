"""The command `replayring` finds its commands by entry point and runs one."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

from replayring_proto.cli import run


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Two commands, each in a module of its own."""

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--code", type=int, default=0)

    for name in ("greet", "part"):
        module: Any = ModuleType(f"command_{name}", f"The command {name}.")
        module.HELP = f"help of {name}"
        module.add_arguments = add_arguments
        module.run = lambda arguments: arguments.code
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return {"greet": "command_greet", "part": "command_part"}


def test_a_command_gets_its_arguments_and_gives_the_exit_code(commands: dict[str, str]) -> None:
    assert run(commands, ["greet"]) == 0
    assert run(commands, ["part", "--code", "3"]) == 3
    assert run(commands, ["part", "--cod=3"]) == 3


def test_help_lists_every_command(
    commands: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        run(commands, ["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert "help of greet" in text
    assert "help of part" in text


def test_no_command_is_answered_with_those_there_are(
    commands: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        run(commands, [])
    assert exit_.value.code == 2
    assert "help of greet" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["unknown"], ["greet", "--what"]])
def test_a_mistake_is_answered_with_usage(
    commands: dict[str, str], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        run(commands, arguments)
    assert exit_.value.code == 2
    assert "usage: replayring" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "usage", "text"),
    [
        (["greet", "--port", "1"], "replayring greet [-h] [--code CODE]", "arguments: --port 1\n"),
        (["greet", "--cdoe=3"], "replayring greet ", "--cdoe=3; did you mean --code?\n"),
        (["greet", "--xx", "--cdoe"], "replayring greet ", "--xx --cdoe; did you mean --code?\n"),
        (["greet", "code"], "replayring greet ", "arguments: code\n"),
        (["--cdoe", "greet"], "replayring [-h] [--version] COMMAND", "arguments: --cdoe\n"),
    ],
)
def test_an_unknown_option_is_answered_with_the_usage_of_its_command(
    commands: dict[str, str],
    arguments: list[str],
    usage: str,
    text: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as exit_:
        run(commands, arguments)
    assert exit_.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(f"usage: {usage}")
    assert told.endswith(text)


def test_whoever_reads_it_may_stop_reading() -> None:
    code = (
        "import sys, types; from replayring_proto.cli import run;"
        "m = sys.modules['many'] = types.ModuleType('many'); m.HELP = ''; m.add_arguments = id;"
        "m.run = lambda arguments: print('line ' * 100_000) or 0;"
        "sys.exit(run({'many': 'many'}, ['many']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.read(4) == "line"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 1


def test_ctrl_c_ends_it_without_a_traceback() -> None:
    code = (
        "import os, signal; from replayring_proto import cli;"
        "cli.run = lambda *_: os.kill(os.getpid(), signal.SIGINT); cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (-signal.SIGINT, "")
    assert done.stderr == "replayring: interrupted\n"
