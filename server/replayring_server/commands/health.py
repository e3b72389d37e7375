"""`replayring health`: asks a server whether it is serving; for container health checks."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from replayring_proto import argument_types
from replayring_proto.address import check_target
from replayring_proto.errors import ReplayRingError
from replayring_proto.tls_arguments import add_tls_arguments, tls_from
from replayring_proto.tls_probe import speaks_tls

# Parts of what gRPC says when a handshake fails.
_REMEDIES = {
    "WRONG_VERSION_NUMBER": "it does not speak TLS: leave out --tls, --tls-ca and the like",
    "certificate has expired": "its certificate has expired: have it renewed",
    "CERTIFICATE_VERIFY_FAILED": "its certificate is of no authority that is trusted here: give "
    "--tls-ca FILE, the certificate of the one that signed it",
}

HELP = "ask a server whether it is serving"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    parser.add_argument("address", metavar="HOST:PORT", help="the server to ask")
    parser.add_argument(
        "--timeout",
        type=argument_types.seconds(0.001),
        default=2.0,
        metavar="SECONDS",
        help="how long to wait for the answer (default: %(default)s)",
    )
    tls = parser.add_argument_group(
        "TLS", "for a server with --tls-cert, unless it is asked at its --health-listen"
    )
    add_tls_arguments(tls)


def run(arguments: argparse.Namespace) -> int:
    """Prints the server's state; returns 0 if it is serving, else 1."""
    try:
        channel = _channel(arguments)
    except ReplayRingError as error:
        print(error, file=sys.stderr)
        return 1
    with channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            response = check(health_pb2.HealthCheckRequest(), timeout=arguments.timeout)
        except grpc.RpcError as error:
            print(f"{arguments.address}: {_reason(arguments, error)}", file=sys.stderr)
            return 1
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
    print(f"{arguments.address}: {status}")
    return 0 if response.status == health_pb2.HealthCheckResponse.SERVING else 1


def _reason(arguments: argparse.Namespace, error: Any) -> str:
    if tls_from(arguments) is None and speaks_tls(arguments.address):
        return "it speaks TLS: give --tls, or --tls-ca FILE for an authority of your own"
    said = f"{error.code().name}: {error.details()}"
    for part, remedy in _REMEDIES.items():
        if part in said:
            return f"{remedy} ({said})"
    return said


def _channel(arguments: argparse.Namespace) -> grpc.Channel:
    address, tls = check_target(arguments.address), tls_from(arguments)
    if tls is None:
        return grpc.insecure_channel(address)
    credentials = grpc.ssl_channel_credentials(*tls.read())
    return grpc.secure_channel(address, credentials, tls.options)
