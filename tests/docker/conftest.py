"""A real docker engine for the tests in this folder, and the images built from this tree.

Without an engine the tests are skipped, unless REPLAYRING_DOCKER=require (as in CI): then that is
a failure.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def docker(*arguments: str, timeout: float = 60) -> str:
    """Runs the docker command line and returns what it printed."""
    done = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
    return done.stdout.strip()


def docker_log(container: str) -> str:
    """Returns all that a container has written."""
    done = subprocess.run(["docker", "logs", container], capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def docker_engine() -> None:
    """Makes sure that an engine answers."""
    missing = (
        shutil.which("docker") is None
        or subprocess.run(
            ["docker", "info"], capture_output=True, timeout=30, check=False
        ).returncode
    )
    if missing and os.environ.get("REPLAYRING_DOCKER") == "require":
        pytest.fail("no docker engine answers, but REPLAYRING_DOCKER=require")
    if missing:
        pytest.skip("no docker engine answers")


@pytest.fixture(scope="session")
def server_image(docker_engine: None) -> str:
    """Builds the server's image."""
    dockerfile, tag = str(ROOT / "docker" / "server.Dockerfile"), "replayring-server:test"
    # Its id, and not the tag: another tree's tests may build at the same time.
    return docker("build", "-q", "-f", dockerfile, "-t", tag, str(ROOT), timeout=600)


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
