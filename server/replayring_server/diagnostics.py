"""Services for whoever debugs, reflection and channelz: each an extra, and off unless asked for."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from typing import Any, TypeAlias

import grpc

from replayring_proto.errors import ReplayRingError
from replayring_proto.status import to_status
from replayring_server.extras import needs_extra
from replayring_server.health import SERVICE as HEALTH
from replayring_server.refusals import RefusalLog
from replayring_server.security.authorisation import Authorisation
from replayring_server.service.boundary import SERVICE
from replayring_server.service.calls import stopping
from replayring_server.service.ending import Ending

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Answering: TypeAlias = "Callable[[AsyncIterator[Any], Context], AsyncIterator[Any]]"


def handlers_of(*, reflection: bool, channelz: bool) -> list[grpc.GenericRpcHandler]:
    """Returns what a server has to guard and register, of the services that are wanted.

    Raises:
        InvalidRequestError: the package of one is not installed.
    """
    handlers = []
    services = [SERVICE, HEALTH]
    if channelz:
        services.append("grpc.channelz.v1.Channelz")
        handlers += _channelz()
    if reflection:
        handlers += _reflection(services)
    return handlers


def _reflection(services: Iterable[str]) -> list[grpc.GenericRpcHandler]:
    module = _extra("reflection", "grpc_reflection.v1alpha.reflection")
    stubs = _extra("reflection", "grpc_reflection.v1alpha.reflection_pb2_grpc")
    catcher = _Catcher()
    servicer = module.aio.ReflectionServicer([*services, module.SERVICE_NAME])
    stubs.add_ServerReflectionServicer_to_server(servicer, catcher)
    return catcher.handlers


def _channelz() -> list[grpc.GenericRpcHandler]:
    module = _extra("channelz", "grpc_channelz.v1.channelz")
    stubs = _extra("channelz", "grpc_channelz.v1.channelz_pb2_grpc")
    catcher = _Catcher()
    stubs.add_ChannelzServicer_to_server(module.aio.ChannelzServicer(), catcher)
    return catcher.handlers


def _extra(name: str, module: str) -> Any:
    """Imports a module of an extra, which has the name of its flag."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise needs_extra(f"--{name}", name, error) from None


class Diagnostics:
    """These services as one server has them. Belongs to one event loop.

    They come from libraries, which know of no token that is taken away and of no server that
    stops: a stream of reflection lasts until its peer ends it. So here it can be ended.
    """

    def __init__(
        self,
        handlers: Iterable[grpc.GenericRpcHandler],
        authorisation: Authorisation,
        refusals: RefusalLog,
    ) -> None:
        """Prepares the services.

        Args:
            handlers: what `handlers_of` returned.
            authorisation: decides who is answered, and for how long.
            refusals: logs what is not answered.
        """
        self._handlers = list(handlers)
        self._authorisation = authorisation
        self._refusals = refusals
        self._streams: set[Ending] = set()
        self._stopping = False

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """Returns what a gRPC server registers."""
        guard = self._authorisation.guard
        return [guard(_Lasting(handler, self._answer)) for handler in self._handlers]

    def stop(self) -> None:
        """Ends all streams, now and from now on."""
        self._stopping = True
        for stream in self._streams:
            stream.gently(stopping())

    async def _answer(
        self, method: str, answering: Answering, requests: AsyncIterator[Any], context: Context
    ) -> None:
        stream = Ending()
        self._streams.add(stream)
        metadata = context.invocation_metadata() or ()
        try:
            with self._authorisation.admitted(method, metadata, stream.gently):
                if self._stopping:
                    raise stopping()
                async for reply in answering(requests, context):
                    await stream.write(context, reply)
                    stream.check()
            return
        except ReplayRingError as error:
            status = to_status(error)
        except asyncio.CancelledError:
            if stream.reason is None:
                raise  # the caller cancelled, or its deadline passed
            status = to_status(stream.reason)
        finally:
            self._streams.discard(stream)
        code, message, trailing = status
        self._refusals.add(method, context.peer(), code, message)
        await context.abort(code, message, trailing)


class _Lasting(grpc.GenericRpcHandler):
    """A library's service, whose streams are answered by way of `answer`."""

    def __init__(self, handler: grpc.GenericRpcHandler, answer: Callable[..., Any]) -> None:
        self._handler = handler
        self._answer = answer

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        found = self._handler.service(handler_call_details)
        if found is None or not found.response_streaming:
            return found
        method = str(handler_call_details.method).rpartition("/")[2]
        return grpc.stream_stream_rpc_method_handler(
            partial(self._answer, method, found.stream_stream),
            found.request_deserializer,
            found.response_serializer,
        )


class _Catcher:
    """What generated code takes for a server: keeps the handlers that it is given.

    Newer generated code registers each method a second time, and a newer grpcio would ask that
    handler first, past the guard around these. So that is not passed on.
    """

    def __init__(self) -> None:
        self.handlers: list[grpc.GenericRpcHandler] = []

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        self.handlers += handlers

    def add_registered_method_handlers(self, *_: object) -> None:
        pass
