"""The standard health service, whose watchers hold nobody up.

grpcio's own writes to its watchers under a lock: one who takes nothing keeps the others from
hearing anything, and a server from stopping. It never ends a watch, and up to 1.71 it forgets the
others when one leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"

_STATUS = health_pb2.HealthCheckResponse.ServingStatus


MAX_CALLS = 256
REQUEST_SECONDS = 10.0


class _Room:
    """Room for the calls of one method to one address, which any peer may make without a token."""

    def __init__(self) -> None:
        self._calls = 0

    @asynccontextmanager
    async def taken(self, context: Context) -> AsyncIterator[None]:
        """Counts a call while it lasts, and refuses one too many."""
        if self._calls >= MAX_CALLS:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"calls that ask for health: received {self._calls + 1}, the limit is {MAX_CALLS}; "
                "end some",
            )
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1


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
        """Returns what a gRPC server registers. What comes to one keeps nobody from another.

        Nor do watches, which may last for ever, keep anybody from being answered once.
        """
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            # As streams, so that those that send no request are seen, and ended.
            "Check": grpc.stream_unary_rpc_method_handler(partial(self._check, _Room())),
            "Watch": grpc.stream_stream_rpc_method_handler(partial(self._watch, _Room())),
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

    async def _check(self, room: _Room, requests: AsyncIterator[bytes], context: Context) -> bytes:
        async with room.taken(context):
            service = await _service_in(requests, context)
            if service not in self._services:
                await context.abort(grpc.StatusCode.NOT_FOUND, "there is no service of that name")
            return _response(self._status_of(service))

    async def _watch(self, room: _Room, requests: AsyncIterator[bytes], context: Context) -> None:
        async with room.taken(context):
            service = await _service_in(requests, context)
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


async def _service_in(requests: AsyncIterator[bytes], context: Context) -> str:
    try:
        message = await asyncio.wait_for(anext(requests), REQUEST_SECONDS)
        return str(health_pb2.HealthCheckRequest.FromString(message).service)
    except asyncio.TimeoutError:
        await context.abort(
            grpc.StatusCode.UNAVAILABLE, f"no request came within {REQUEST_SECONDS:g} s"
        )
        raise
    except (DecodeError, StopAsyncIteration):
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "this is no HealthCheckRequest")
        raise


def _response(status: int) -> bytes:
    reply: Any = health_pb2.HealthCheckResponse(status=status)
    return bytes(reply.SerializeToString())
