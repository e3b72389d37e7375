"""Where errors become statuses, and handlers become a gRPC service of raw bytes.

Handlers receive and send bytes and parse them themselves: grpcio's own deserialisers turn a
malformed message into a leak or an opaque error.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc

from replayring_proto.errors import ReplayRingError, ServerError
from replayring_proto.status import to_status
from replayring_proto.v1 import replay_pb2
from replayring_server.security.authorisation import Authorisation
from replayring_server.service.drain import Drain, unavailable

logger = logging.getLogger(__name__)

SERVICE = replay_pb2.DESCRIPTOR.services_by_name["ReplayService"].full_name

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Unary: TypeAlias = Callable[[bytes, Context], Awaitable[bytes]]
Requests: TypeAlias = AsyncIterator[bytes]

_STREAMS: dict[tuple[bool, bool], Callable[..., Any]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def generic_handler(
    handlers: dict[str, Callable[..., Any]], drain: Drain, authorisation: Authorisation
) -> grpc.GenericRpcHandler:
    """Returns the service made of these handlers, one per method of ReplayService.

    A handler of a method that answers with a stream writes its messages to the context.
    """
    methods = replay_pb2.DESCRIPTOR.services_by_name["ReplayService"].methods
    handler = grpc.method_handlers_generic_handler(
        SERVICE,
        {
            method.name: _STREAMS[method.client_streaming, method.server_streaming](
                _guarded(method.name, handlers[method.name], drain, authorisation)
            )
            for method in methods
        },
    )
    return authorisation.guard(handler)


def _guarded(
    method: str,
    handler: Callable[..., Awaitable[Any]],
    drain: Drain,
    authorisation: Authorisation,
) -> Callable[..., Awaitable[Any]]:
    """Wraps a handler so that an error ends the call with the status that stands for it."""

    @functools.wraps(handler)
    async def guarded(request: Any, context: Context) -> Any:
        try:
            with authorisation.admitted(method, context) as admitted:
                return await handler(request, admitted)
        except ReplayRingError as error:
            # Its status, and not the error: that would keep this frame and itself alive, and a
            # deleted buffer's files with them, until the garbage collector comes by.
            status = to_status(error)
        except asyncio.CancelledError:
            if not drain.stopping:
                raise  # the caller cancelled, or its deadline passed
            status = to_status(unavailable())
        except grpc.aio.InternalError:
            # What gRPC raises when it cannot write to the peer: it is gone, nobody is to answer.
            logger.info("%s: the caller vanished before it was answered", method)
            raise asyncio.CancelledError from None
        except Exception:
            # What happened is for the log, not for the peer, who gets an id to ask about.
            error_id = uuid.uuid4().hex[:12]
            logger.exception("%s failed, id %s", method, error_id)
            text = f"{method} failed on the server; its log has the details under id {error_id}"
            status = to_status(ServerError(text))
        code, message, metadata = status
        logger.info("%s from %s: %s: %s", method, context.peer(), code.name, message)
        return await context.abort(code, message, metadata)

    return guarded
