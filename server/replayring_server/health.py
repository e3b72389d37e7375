"""The standard health service, whose watchers hold nobody up.

grpcio's own writes to its watchers under a lock: one who takes nothing keeps the others from
hearing anything, and a server from stopping. It never ends a watch, and up to 1.71 it forgets the
others when one leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"

_STATUS = health_pb2.HealthCheckResponse.ServingStatus


class Health:
    """The health of one server: all its services are served, or none.

    Belongs to one event loop.
    """

    def __init__(self, services: Iterable[str]) -> None:
        """Begins with none being served.

        Args:
            services: their full names, to which "" is added, the server as a whole.
        """
        self._services = {"", *services}
        self._serving = False
        self._ending = False
        self._changed = asyncio.Event()

    def handler(self) -> grpc.GenericRpcHandler:
        """Returns what a gRPC server registers."""
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "Check": grpc.unary_unary_rpc_method_handler(self._check),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
        }
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    def set_serving(self, serving: bool) -> None:
        """Says whether the services are served."""
        self._serving = serving
        self._notify()

    def end_watches(self) -> None:
        """Ends all watches, now and from now on, each when it has been told the latest."""
        self._ending = True
        self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _check(self, message: bytes, context: Context) -> bytes:
        service = await _service_in(message, context)
        if service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no service of that name")
        return _response(self._status_of(service))

    async def _watch(self, message: bytes, context: Context) -> None:
        service = await _service_in(message, context)
        told = None
        while True:
            changed = self._changed
            if (status := self._status_of(service)) != told:
                await context.write(_response(status))
                told = status
            elif self._ending:
                return
            else:
                await changed.wait()

    def _status_of(self, service: str) -> int:
        if service not in self._services:
            return int(_STATUS.SERVICE_UNKNOWN)
        return int(_STATUS.SERVING if self._serving else _STATUS.NOT_SERVING)


async def _service_in(message: bytes, context: Context) -> str:
    try:
        return str(health_pb2.HealthCheckRequest.FromString(message).service)
    except DecodeError:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "this is no HealthCheckRequest")
        raise


def _response(status: int) -> bytes:
    reply: Any = health_pb2.HealthCheckResponse(status=status)
    return bytes(reply.SerializeToString())
