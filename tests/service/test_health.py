"""The standard health service."""

from __future__ import annotations

import subprocess
import sys

import pytest
from grpc_health.v1 import health_pb2

from tests.service.frames import refused
from tests.support import ServerProcess
from tests.wire import SERVICE, SERVING, Wire


@pytest.mark.parametrize("service", ["", SERVICE])
def test_health_is_serving(wire: Wire, service: str) -> None:
    assert wire.health(service) == SERVING


@pytest.mark.parametrize("service", ["", SERVICE])
def test_health_can_be_watched(wire: Wire, service: str) -> None:
    stream = wire.stream("/grpc.health.v1.Health/Watch")
    stream.send(health_pb2.HealthCheckRequest(service=service))
    assert health_pb2.HealthCheckResponse.FromString(stream.receive()).status == SERVING


def test_health_of_an_unknown_service_is_not_found(wire: Wire) -> None:
    with refused("NOT_FOUND", None):
        wire.health("replayring.v1.Nope")


def test_watching_an_unknown_service_says_so(wire: Wire) -> None:
    stream = wire.stream("/grpc.health.v1.Health/Watch")
    stream.send(health_pb2.HealthCheckRequest(service="nope"))
    response = health_pb2.HealthCheckResponse.FromString(stream.receive())
    assert response.status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "replayring_server", "health", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_health_command_tells_a_server_from_none(server: ServerProcess) -> None:
    assert (ask(server.address).returncode, ask("127.0.0.1:1").returncode) == (0, 1)


def test_health_command_refuses_a_port_of_which_grpc_makes_another(server: ServerProcess) -> None:
    host, _, port = server.address.rpartition(":")
    told = ask(f"{host}:{int(port) + 65_536}")
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr.endswith("it must be 'HOST:PORT', with a port from 1 to 65535\n")


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "inf", "soon"])
def test_health_command_refuses_a_timeout_that_no_answer_could_meet(timeout: str) -> None:
    told = ask("127.0.0.1:1", f"--timeout={timeout}")
    assert told.returncode == 2
    assert f"{timeout!r} is not a number of seconds from 0.001 to 3600" in told.stderr
