"""The server's image: what it holds, as whom it runs, and that it keeps what it acknowledged."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import replayring
from tests.docker.conftest import docker

pytestmark = pytest.mark.timeout(900)

HARDENED = (
    *("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--publish", "127.0.0.1:0:50051"),
)
SPEC = {"observation": {"shape": (3,), "dtype": np.dtype("float32")}}


def connect(container: str) -> replayring.Client:
    address = docker("port", container, "50051/tcp").splitlines()[0]
    return replayring.connect(address, timeout=60)


def test_hardened_container_serves_and_keeps_what_it_acknowledged_over_a_kill(
    server_image: str, run_container: Callable[..., str]
) -> None:
    container = run_container(*HARDENED, server_image)
    frames = np.arange(30, dtype=np.float32).reshape(10, 3)
    with connect(container) as client:
        buffer = client.create_buffer("online", SPEC, capacity=100, fps=10)
        buffer.add_episode({"observation": frames})

    docker("kill", "--signal", "KILL", container)
    docker("start", container)

    with connect(container) as client:
        kept = client.buffer("online").get(np.arange(10))
    np.testing.assert_array_equal(kept["observation"], frames)


def test_health_command_of_the_image_says_serving(
    server_image: str, run_container: Callable[..., str]
) -> None:
    container = run_container(*HARDENED, server_image)
    with connect(container) as client:
        client.buffers()
    said = docker("exec", container, "replayring", "health", "127.0.0.1:50051")
    assert said == "127.0.0.1:50051: SERVING"
    check = docker("inspect", "--format", "{{json .Config.Healthcheck.Test}}", server_image)
    assert check == '["CMD","replayring","health","127.0.0.1:50051"]'


def test_server_stops_cleanly_on_docker_stop(
    server_image: str, run_container: Callable[..., str]
) -> None:
    container = run_container(*HARDENED, server_image)
    with connect(container) as client:
        client.buffers()
    docker("stop", container)
    assert docker("inspect", "--format", "{{.State.ExitCode}}", container) == "0"


def test_image_runs_as_nobody_in_particular_and_has_no_torch(
    server_image: str, run_container: Callable[..., str]
) -> None:
    container = run_container(*HARDENED, server_image)
    assert docker("exec", container, "id", "-u") == "10001"
    packages = docker("exec", container, "pip", "list", "--format", "freeze")
    assert "grpcio==" in packages
    assert "torch==" not in packages
