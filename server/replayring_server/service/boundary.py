"""Where errors become statuses, and handlers become a gRPC service of raw bytes.

Handlers receive and send bytes and parse them themselves: grpcio's own deserialisers turn a
malformed message into a leak or an opaque error.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import os
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc

from replayring_proto.errors import ReplayRingError, ServerError, ServerUnavailableError
from replayring_proto.status import to_status
from replayring_proto.v1 import replay_pb2
from replayring_server.refusals import RefusalLog
from replayring_server.security.authorisation import Authorisation
from replayring_server.service.calls import Call, Calls, Context

logger = logging.getLogger(__name__)

SERVICE = replay_pb2.DESCRIPTOR.services_by_name["ReplayService"].full_name

METHODS = tuple(
    method.name for method in replay_pb2.DESCRIPTOR.services_by_name["ReplayService"].methods
)

_SHORTAGES = {
    errno.ENOMEM: "memory",
    errno.EMFILE: "file descriptors (ulimit -n)",
    errno.ENFILE: "file descriptors",
}

Handler: TypeAlias = Callable[[Call], Awaitable[Any]]


def generic_handler(
    handlers: dict[str, Handler],
    calls: Calls,
    authorisation: Authorisation,
    refusals: RefusalLog,
) -> grpc.GenericRpcHandler:
    """Returns the service made of these handlers, one per method of ReplayService.

    A handler reads its requests from the call. It returns its reply; that of a method that answers
    with a stream writes its replies to the call.

    To gRPC every method takes a stream of requests, which on the wire is the same. It would hold
    back calls of those that take one request, uncounted and for ever, until that came.
    """
    methods = replay_pb2.DESCRIPTOR.services_by_name["ReplayService"].methods
    handler = grpc.method_handlers_generic_handler(
        SERVICE,
        {
            method.name: (
                grpc.stream_stream_rpc_method_handler
                if method.server_streaming
                else grpc.stream_unary_rpc_method_handler
            )(
                _guarded(
                    method.name,
                    handlers[method.name],
                    calls,
                    authorisation,
                    refusals,
                    unary=not (method.client_streaming or method.server_streaming),
                )
            )
            for method in methods
        },
    )

    def refused(method: str, code: grpc.StatusCode) -> None:
        calls.tally.finished[method, code.name] += 1

    return authorisation.guard(handler, refused)


def _shortage(error: Exception) -> ServerUnavailableError | None:
    """Returns what the peer is told of an error that is but a shortage, which may pass."""
    code = errno.ENOMEM if isinstance(error, MemoryError) else getattr(error, "errno", None)
    if code not in _SHORTAGES:
        return None
    return ServerUnavailableError(
        f"the server is short of {_SHORTAGES[code]} ({os.strerror(code)}); try again, and let it "
        "have more if this goes on"
    )


def _defect(method: str) -> ServerError:
    """Logs the error being handled, and returns what the peer is told: an id to ask about."""
    error_id = uuid.uuid4().hex[:12]
    fields = {"method": method, "error_id": error_id}
    logger.exception("%s failed, id %s", method, error_id, extra=fields)
    return ServerError(
        f"{method} failed on the server; its log has the details under id {error_id}"
    )


def _guarded(
    method: str,
    handler: Handler,
    calls: Calls,
    authorisation: Authorisation,
    refusals: RefusalLog,
    *,
    unary: bool,
) -> Callable[..., Awaitable[Any]]:
    """Wraps a handler so that an error ends the call with the status that stands for it."""

    @functools.wraps(handler)
    async def guarded(_: Any, context: Context) -> Any:
        with calls.entered(context, method, unary=unary) as call:
            try:
                with authorisation.admitted(
                    method, context.invocation_metadata() or (), call.end_gently
                ):
                    calls.check_room()
                    reply = await handler(call)
                    calls.tally.sent_bytes += len(reply or b"")
                call.outcome = grpc.StatusCode.OK.name
                return reply
            except ReplayRingError as error:
                # Its status, and not the error: that would keep this frame and itself alive, and a
                # deleted buffer's files with them, until the garbage collector comes by.
                status = to_status(error)
            except asyncio.CancelledError:
                if call.ended_with is None:
                    raise  # the caller cancelled, or its deadline passed
                status = to_status(call.ended_with)
            except grpc.aio.InternalError:
                # What gRPC raises when it cannot write to the peer: nobody is there to answer.
                said = method, context.peer(), grpc.StatusCode.CANCELLED
                refusals.add(*said, "the caller vanished before it was answered")
                raise asyncio.CancelledError from None
            except Exception as error:
                status = to_status(_shortage(error) or _defect(method))
            # A peer that takes nothing takes no status either. Until it does, or is gone, the call
            # counts as one; what it held does not stay.
            call.release()
            code, message, trailing = status
            call.outcome = code.name
            refusals.add(method, context.peer(), code, message)
            return await context.abort(code, message, trailing)

    return guarded
