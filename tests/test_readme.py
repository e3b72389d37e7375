"""README is true: its code runs, its commands exist, its tables agree with the code."""

from __future__ import annotations

import builtins
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import replayring
from replayring_proto.limits import MAX_COLUMNS, MAX_WINDOW_OFFSETS, ServerLimits
from replayring_server.configuration import Settings
from tests.support import ServerProcess

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
ADDRESS = "127.0.0.1:50051"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines() if line]


def test_a_working_block_stands_before_line_25() -> None:
    before = README[: README.index("for batch in itertools.islice")]
    assert before.count("\n") < 25


@pytest.mark.timeout(300)
def test_python_blocks_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with ServerProcess(tmp_path / "replay") as server:
        names: dict[str, Any] = {}
        for block in blocks("python"):
            exec(compile(block.replace(ADDRESS, server.address), "README.md", "exec"), names)
        names["client"].close()


# Of which a type checker makes a dict of objects, as the shapes are tuples of two types.
OTHER_SPEC = """
columns = {"obs": {"dtype": "float32", "shape": (17,)}, "reward": {"dtype": "float32", "shape": ()}}
client.create_buffer("other", columns, capacity=10)
"""


def test_python_blocks_pass_a_type_checker(tmp_path: Path) -> None:
    """What users type first is not underlined in their editors."""
    program = tmp_path / "readme.py"
    program.write_text("\n".join([*blocks("python"), OTHER_SPEC]))
    check = [sys.executable, "-m", "mypy", "--check-untyped-defs", "--cache-dir", str(tmp_path)]
    done = subprocess.run([*check, str(program)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# What runs each command: a test here or in tests/docker, or CI. A new command needs a line here.
RUN_BY = {
    "replayring serve --data-dir ./replay": "test_serve_command_runs",
    'pip install ".[demo]" && replayring demo': ".ci/run",
    'pip install -e ".[dev]" && pytest': ".ci/run",
    "replayring info ./replay": "test_looking_after_a_data_directory",
    "replayring verify ./replay": "test_looking_after_a_data_directory",
    "replayring snapshot ./replay ./snapshot": "test_looking_after_a_data_directory",
    "replayring restore ./snapshot ./restored": "test_looking_after_a_data_directory",
    **dict.fromkeys(
        README[README.index("replayring certs certs") :].partition("\n```")[0].splitlines(),
        "tests/security/test_recipe.py",
    ),
    "replayring top 127.0.0.1:50051": "tests/observability/test_top.py",
    "docker compose -f docker/compose.yaml up --build": "tests/docker",
    "docker build -f docker/server.Dockerfile -t replayring-server .": "tests/docker",
    "docker run -v replay:/data -p 127.0.0.1:50051:50051 replayring-server --insecure": (
        "tests/docker"
    ),
    "replayring bench 127.0.0.1:50051": "tests/client/test_bench_command.py",
    "python -m tests.benchmarks": "tests/benchmarks/test_benchmarks.py",
}


def test_every_command_is_run_by_something() -> None:
    assert commands() == list(RUN_BY)


def test_ci_takes_its_two_commands_from_readme() -> None:
    script = (
        "sed -n '/^## Two commands/,/^## /p' README.md | grep '^pip install'"  # as .ci/run has it
    )
    assert script in (ROOT / ".ci" / "run").read_text()
    found = subprocess.run(script, shell=True, cwd=ROOT, capture_output=True, text=True, check=True)
    expected = [command for command, runner in RUN_BY.items() if runner == ".ci/run"]
    assert found.stdout.splitlines() == expected


def test_serve_command_runs(tmp_path: Path) -> None:
    (command,) = (line for line, runner in RUN_BY.items() if runner == "test_serve_command_runs")
    program = Path(sys.executable).with_name("replayring")
    # A free port instead of the default one, which may be taken where tests run.
    arguments = [str(program), *shlex.split(command)[1:], "--listen", "127.0.0.1:0"]
    with subprocess.Popen(
        arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("replayring listening on 127.0.0.1:")
        process.terminate()
        assert process.wait(30) == 0
    assert (tmp_path / "replay").is_dir()


def test_looking_after_a_data_directory(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "replay") as server, replayring.connect(server.address) as client:
        client.create_buffer("online", {"x": {"shape": (), "dtype": "uint8"}}, 10)
        assert server.stop() == 0
    assert "buffer online" in run("replayring info ./replay", tmp_path)
    assert "no damage found" in run("replayring verify ./replay", tmp_path)
    run("replayring snapshot ./replay ./snapshot", tmp_path)
    assert "buffer online" in run("replayring restore ./snapshot ./restored", tmp_path)


def run(command: str, folder: Path) -> str:
    """Returns what a command of ours prints; it must succeed."""
    program = Path(sys.executable).with_name("replayring")
    arguments = [str(program), *shlex.split(command)[1:]]
    return subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=True).stdout


def test_default_address_is_the_one_in_readme() -> None:
    assert str(Settings(data_dir="./replay").listen) == ADDRESS


def test_error_table_names_every_error_and_its_built_in() -> None:
    table = README[README.index("## Errors") : README.index("## Limits")]
    rows = re.findall(r"^\| (`.*?) \| `(\w+)` \|", table, re.MULTILINE)
    listed = {name: base for names, base in rows for name in re.findall(r"`(\w+)`", names)}
    public = {name for name in replayring.__all__ if name.endswith("Error")}
    assert set(listed) == public - {"ReplayRingError"}
    for name, base in listed.items():
        parent = getattr(replayring, base, None) or getattr(builtins, base)
        assert issubclass(getattr(replayring, name), parent), name


def test_limits_table_agrees_with_the_code() -> None:
    limits = ServerLimits()
    table = README[README.index("## Limits") : README.index("## Docker")]
    for row in (
        f"{limits.max_batch_size:,} | `max_batch_size`",
        f"{limits.max_reply_bytes >> 20} MiB | `max_reply_bytes`",
        f"{limits.max_window_entries:,} | `max_window_entries`",
        f"{MAX_WINDOW_OFFSETS:,} |",
        f"{limits.max_episode_bytes >> 30} GiB each | `max_episode_bytes`, `max_parameters_bytes`",
        f"{limits.max_staging_bytes >> 30} GiB each | `max_staging_bytes`, `max_sending_bytes`",
        f"{MAX_COLUMNS} |",
        f"{limits.max_buffers} | `max_buffers`",
        f"{limits.max_connections:,} each | `max_connections`, `max_calls`",
        f"{limits.stall_timeout_s:g}; {limits.stall_patience_s:g} while others wait",
    ):
        assert f"| {row}" in table, row
    assert limits.max_parameters_bytes == limits.max_episode_bytes
    assert limits.max_sending_bytes == limits.max_staging_bytes
    assert limits.max_calls == limits.max_connections
    (example,) = re.findall(r"--limit (\S+)`", table)
    assert example == "max_buffers=1000"
