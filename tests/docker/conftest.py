"""A real docker engine for the tests in this folder, and the images built from this tree.

Without an engine the tests are skipped, unless REPLAYRING_DOCKER=require (as in CI): then that is
a failure. What the tests measure is printed at the end of the run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.docker.engine import BASE, ROOT, docker, quiet

_measured: list[str] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what was measured."""
    for line in _measured:
        terminalreporter.write_line(f"measured: {line}")


@pytest.fixture(scope="session")
def measured() -> Callable[[str], None]:
    """Takes a line for the end of the run."""
    return _measured.append


@pytest.fixture(scope="session")
def docker_engine() -> None:
    """Makes sure that an engine answers."""
    missing = shutil.which("docker") is None or not quiet("info", timeout=30)
    if missing and os.environ.get("REPLAYRING_DOCKER") == "require":
        pytest.fail("no docker engine answers, but REPLAYRING_DOCKER=require")
    if missing:
        pytest.skip("no docker engine answers")


@pytest.fixture(scope="session")
def server_image(docker_engine: None) -> str:
    """Builds the server's image."""
    return build("server", "--build-arg", "VERSION=1.2.3", "--build-arg", "REVISION=abc")


@pytest.fixture(scope="session")
def trainer_image(docker_engine: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Builds the image of actors and learners, with a torch without CUDA."""
    with torch_from_here(tmp_path_factory.mktemp("index")) as arguments:
        return build("trainer", *arguments)


def build(name: str, *arguments: str) -> str:
    """Builds one of the images from this tree and returns its id.

    Its id, and not the tag: another tree's tests may build at the same time.
    """
    file, tag = str(ROOT / "docker" / f"{name}.Dockerfile"), f"replayring-{name}:test"
    return docker("build", "-q", "-f", file, "-t", tag, *arguments, str(ROOT), timeout=900)


@contextmanager
def torch_from_here(folder: Path) -> Iterator[list[str]]:
    """Gives what to build with where pip has a CPU build of torch at hand, else nothing.

    The public index of such builds cannot be reached from everywhere. So the build's own image
    gets one in a folder; the image that runs is made from the usual base all the same.
    """
    index = folder / "torch"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
    python = ["--python-version", "3.11", "--only-binary", ":all:", "torch==2.13.0+cpu"]
    done = subprocess.run([*command, str(index), *python], capture_output=True, check=False)
    if done.returncode:
        yield []
        return
    (wheel,) = index.iterdir()
    link = f'<a href="{urllib.parse.quote(wheel.name)}">{wheel.name}</a>'
    (index / "index.html").write_text(link)
    (folder / "Dockerfile").write_text(f"FROM {BASE}\nCOPY torch /index/torch\n")
    base = f"replayring-test-{uuid.uuid4().hex[:12]}"  # BuildKit looks for an id in a registry
    docker("build", "-q", "-t", base, str(folder), timeout=300)
    try:
        yield ["--build-arg", f"BUILD_IMAGE={base}", "--build-arg", "TORCH_INDEX=file:///index"]
    finally:
        docker("rmi", base)


@pytest.fixture
def run_container(docker_engine: None) -> Iterator[Callable[..., str]]:
    """Starts containers, and removes them and their volumes at the end."""
    started: list[str] = []

    def run(*arguments: str) -> str:
        name = f"replayring-test-{uuid.uuid4().hex[:12]}"
        started.append(name)
        docker("run", "--detach", "--name", name, *arguments)
        return name

    yield run
    for name in started:
        docker("rm", "--force", "--volumes", name)
