"""`replayring health`: asks a server whether it is serving; for container health checks."""

from __future__ import annotations

import argparse
import sys

import grpc
from grpc_health.v1 import health_pb2

HELP = "ask a server whether it is serving"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    parser.add_argument("address", metavar="HOST:PORT", help="the server to ask")
    parser.add_argument(
        "--timeout",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="how long to wait for the answer (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Prints the server's state; returns 0 if it is serving, else 1."""
    with grpc.insecure_channel(arguments.address) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            response = check(health_pb2.HealthCheckRequest(), timeout=arguments.timeout)
        except grpc.RpcError as error:
            code = error.code().name
            print(f"{arguments.address}: {code}", file=sys.stderr)
            return 1
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
    print(f"{arguments.address}: {status}")
    return 0 if response.status == health_pb2.HealthCheckResponse.SERVING else 1
