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


def test_health_command_tells_a_server_from_none(server: ServerProcess) -> None:
    def ask(address: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "replayring_server", "health", address]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert (ask(server.address).returncode, ask("127.0.0.1:1").returncode) == (0, 1)
