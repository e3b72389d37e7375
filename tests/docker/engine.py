"""The docker command line, compose included, and what containers say about themselves."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import replayring

ROOT = Path(__file__).parents[2]
BASE = "python:3.11-slim-bookworm"


def run(command: list[str], timeout: float, environment: Mapping[str, str] | None = None) -> str:
    """Runs a command, which must succeed, and returns what it printed."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=None if environment is None else {**os.environ, **environment},
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def docker(*arguments: str, timeout: float = 60) -> str:
    """Runs the docker command line and returns what it printed."""
    return run(["docker", *arguments], timeout)


def quiet(*arguments: str, timeout: float = 60) -> bool:
    """Runs the docker command line and returns whether it succeeded."""
    command = ["docker", *arguments]
    return not subprocess.run(command, capture_output=True, timeout=timeout, check=False).returncode


def docker_log(container: str) -> str:
    """Returns all that a container has written."""
    done = subprocess.run(["docker", "logs", container], capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def inspect(name: str) -> dict[str, Any]:
    """Returns all that docker knows of a container, image or network."""
    (known,) = json.loads(docker("inspect", name))
    assert isinstance(known, dict)
    return known


def size_above_base(image: str) -> str:
    """Returns an image's size, and how much of it the base makes up, in words."""
    size, base = (inspect(each)["Size"] // 1_000_000 for each in (image, BASE))
    return f"{size} MB, of which the base is {base} MB"


def crash(container: str) -> None:
    """Kills a container's own process from within, which docker takes for a crash.

    `docker kill` it takes for its user's wish, and does not start the container again.
    """
    docker("exec", container, "sh", "-c", "kill -9 $(cat /proc/1/task/1/children)")


def connect(container: str, port: int, folder: Path, timeout: float) -> replayring.Client:
    """Connects from this machine as README says, with what an actor is given.

    Args:
        container: one that sees that: /certs/client.
        port: the server's, here.
        folder: where it is copied to; not there yet.
        timeout: seconds for a call.
    """
    docker("cp", f"{container}:/certs/client", str(folder))
    return replayring.connect(
        f"127.0.0.1:{port}",
        timeout=timeout,
        tls=replayring.TLS(ca=folder / "ca.pem"),
        token_file=folder / "token",
        same_host=False,
    )


def free_port() -> int:
    """Returns a port that is free now: docker would give another one after each restart.

    Below those that Linux gives to connections: one might have it when a server comes back for it.
    """
    for port in random.sample(range(20_000, 32_768), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


class Compose:
    """A compose project of its own, taken away at the end with all it has.

    A context manager.

    Attributes:
        project: what the names of all it has begin with.
    """

    def __init__(self, file: Path, environment: Mapping[str, str]) -> None:
        # The plugin where there is one, else the program of old; the file suits both.
        program = ["docker", "compose"] if quiet("compose", "version") else ["docker-compose"]
        assert len(program) == 2 or shutil.which(program[0]), "there is no docker compose"
        self.project = f"replayring-test-{uuid.uuid4().hex[:12]}"
        self._command = [*program, "--project-name", self.project, "--file", str(file)]
        self._environment = environment

    def __call__(self, *arguments: str, timeout: float = 120) -> str:
        """Runs a command of compose and returns what it printed."""
        return run([*self._command, *arguments], timeout, self._environment)

    def containers(self, service: str) -> list[str]:
        """Returns the containers of a service, stopped ones too."""
        labels = (
            *("--filter", f"label=com.docker.compose.project={self.project}"),
            *("--filter", f"label=com.docker.compose.service={service}"),
        )
        return docker("ps", "--all", "--quiet", *labels).split()

    def __enter__(self) -> Compose:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            print(self("logs", "--no-color"))
        self("down", "--volumes", "--remove-orphans", "--timeout", "2")
