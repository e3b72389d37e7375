"""The server's image: what it holds, as whom it runs, and that it keeps what it acknowledged."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replayring
from tests.certificates import WRITE, Authority, token_file
from tests.docker.engine import docker, docker_log, inspect, size_above_base
from tests.support import eventually

pytestmark = pytest.mark.timeout(900)

HARDENED = (
    *("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--publish", "127.0.0.1:0:50051"),
)
SPEC = {"observation": {"shape": (3,), "dtype": np.dtype("float32")}}


def connect(container: str, **security: Any) -> replayring.Client:
    address = docker("port", container, "50051/tcp").splitlines()[0]
    return replayring.connect(address, timeout=60, **security)


def health_of(container: str) -> str:
    return docker("inspect", "--format", "{{.State.Health.Status}}", container)


def test_hardened_container_serves_and_keeps_what_it_acknowledged_over_a_kill(
    server_image: str, run_container: Callable[..., str]
) -> None:
    container = run_container(*HARDENED, server_image, "--insecure")
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
    container = run_container(*HARDENED, server_image, "--insecure")
    with connect(container) as client:
        client.buffers()
    said = docker("exec", container, "replayring", "health", "127.0.0.1:50051")
    assert said == "127.0.0.1:50051: SERVING"
    eventually(lambda: health_of(container) == "healthy", "the engine says so too")


def test_container_without_flags_says_what_it_wants(
    server_image: str, run_container: Callable[..., str]
) -> None:
    container = run_container(*HARDENED, server_image)
    assert docker("wait", container) == "1"
    said = docker_log(container)
    for words in ("0.0.0.0:50051 can be reached", "--tls-cert", "--token-file", "--insecure"):
        assert words in said


def test_container_with_tls_and_tokens_serves_and_is_healthy(
    server_image: str, run_container: Callable[..., str], tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "authority")
    folder = tmp_path / "secrets"
    folder.mkdir()
    pair, tokens = authority.issue(), token_file(folder / "tokens")
    for path, name in ((pair.cert, "server.pem"), (pair.key, "server.key")):
        shutil.copy(path, folder / name)
    for path in (folder, *folder.iterdir()):  # the container's user is another than this one
        path.chmod(0o755)
    tls = ["--tls-cert", "/secrets/server.pem", "--tls-key", "/secrets/server.key"]
    container = run_container(
        *(*HARDENED, "--volume", f"{folder}:/secrets:ro", server_image),
        *(*tls, "--token-file", f"/secrets/{tokens.name}"),
    )
    with connect(container, tls=authority.tls(), token=WRITE) as client:
        client.create_buffer("online", SPEC, capacity=100)
    with connect(container, tls=authority.tls()) as client, pytest.raises(PermissionError):
        client.buffers()
    eventually(lambda: health_of(container) == "healthy", "the engine says so")


def test_server_stops_cleanly_on_docker_stop(
    server_image: str, run_container: Callable[..., str]
) -> None:
    container = run_container(*HARDENED, server_image, "--insecure")
    with connect(container) as client:
        client.buffers()
    docker("stop", container)
    assert docker("inspect", "--format", "{{.State.ExitCode}}", container) == "0"


def test_image_runs_as_nobody_in_particular_and_has_no_torch(
    server_image: str, run_container: Callable[..., str]
) -> None:
    container = run_container(*HARDENED, server_image, "--insecure")
    assert docker("exec", container, "id", "-u") == "10001"
    code = "from importlib.metadata import distributions as d; print(*(x.name for x in d()))"
    packages = docker("exec", container, "python", "-c", code).split()
    assert "grpcio" in packages
    assert not {"torch", "pip", "gymnasium"} & set(packages)


def test_image_says_what_it_is(server_image: str) -> None:
    labels = inspect(server_image)["Config"]["Labels"]
    prefix = "org.opencontainers.image"
    assert labels[f"{prefix}.version"] == "1.2.3"
    assert labels[f"{prefix}.revision"] == "abc"
    assert labels[f"{prefix}.source"] == "unknown"
    assert labels[f"{prefix}.licenses"] == "Apache-2.0"


def test_image_makes_certificates_for_itself(
    server_image: str, run_container: Callable[..., str]
) -> None:
    volume = "/certs/server"
    maker = run_container(
        *("--volume", volume, "--entrypoint", "replayring", server_image, "certs", "/certs"),
        *("--host", "replay"),
    )
    assert docker("wait", maker) == "0", docker_log(maker)
    pair = ("--tls-cert", f"{volume}/server.pem", "--tls-key", f"{volume}/server.key")
    server = run_container(
        *(*HARDENED, "--volumes-from", f"{maker}:ro", "--tmpfs", "/data:uid=10001"),
        *(server_image, *pair, "--token-file", f"{volume}/tokens"),
    )
    eventually(lambda: health_of(server) == "healthy", docker_log(server))


def test_measurements(
    server_image: str, run_container: Callable[..., str], measured: Callable[[str], None]
) -> None:
    measured(f"server image {size_above_base(server_image)}")
    began = time.monotonic()
    container = run_container(*HARDENED, server_image, "--insecure")
    with connect(container) as client:
        client.buffers()
        measured(f"server: docker run to the first answer {time.monotonic() - began:.1f} s")
