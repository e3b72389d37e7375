"""Who may call which method: one table, asked before a call's first message is read.

The health service is not behind it: orchestrators probe it without a token.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

from replayring_proto.errors import AccessDeniedError, ReplayRingError, UnauthenticatedError
from replayring_proto.status import to_status
from replayring_proto.tokens import SCHEME, TOKEN_KEY
from replayring_server.refusals import RefusalLog
from replayring_server.security.tokens import Scope, Tokens, digest_of

Metadata: TypeAlias = "Iterable[tuple[str, str | bytes]]"
Status: TypeAlias = "tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]"
Refused: TypeAlias = "Callable[[str, grpc.StatusCode], None]"

NEEDED = {
    "CreateBuffer": Scope.WRITE,
    "GetBuffer": Scope.READ,
    "ListBuffers": Scope.READ,
    "DeleteBuffer": Scope.WRITE,
    "AddEpisodes": Scope.WRITE,
    "GetItem": Scope.READ,
    "SampleBatch": Scope.READ,
    "ReadColumn": Scope.READ,
    "PublishParameters": Scope.WRITE,
    "WatchParameters": Scope.READ,
    "GetServerStatus": Scope.READ,
}
"""The scope that each method of ReplayService needs. One that is not here is nobody's."""

DIAGNOSTIC = dict.fromkeys(
    (
        *("ServerReflectionInfo", "GetTopChannels", "GetServers", "GetServer", "GetServerSockets"),
        *("GetChannel", "GetSubchannel", "GetSocket"),
    ),
    Scope.READ,
)
"""The same of reflection and channelz, which hand out no frame and change nothing."""

_SCOPES = {**NEEDED, **DIAGNOSTIC}


@dataclass(eq=False)
class _Call:
    method: str
    digest: bytes
    end: Callable[[ReplayRingError], None]


class Authorisation:
    """Lets calls in, and throws them out when their token is taken away.

    Belongs to one event loop. Without tokens everybody may do everything.
    """

    def __init__(self, tokens: Tokens | None = None, refusals: RefusalLog | None = None) -> None:
        """Lets in whoever has one of `tokens`; logs whom it does not let in to `refusals`."""
        self._tokens = tokens
        self._refusals = refusals or RefusalLog()
        self._calls: set[_Call] = set()

    def guard(
        self, handler: grpc.GenericRpcHandler, refused: Refused = lambda method, code: None
    ) -> grpc.GenericRpcHandler:
        """Returns a handler that refuses before `handler` has read a message, and says so."""
        return _Guard(self, handler, refused, self._refusals)

    def check(self, method: str, metadata: Metadata) -> bytes:
        """Returns the digest of the token that a call came with; empty where none is needed.

        Raises:
            UnauthenticatedError: it has none, or none that is valid.
            AccessDeniedError: it is not good for this method.
        """
        if self._tokens is None:
            return b""
        digest = _digest_in(metadata)
        self._check_digest(self._tokens, method, digest)
        return digest

    @contextmanager
    def admitted(
        self, method: str, metadata: Metadata, end: Callable[[ReplayRingError], None]
    ) -> Iterator[None]:
        """Marks a call as one of this method and this token, for as long as it runs.

        Args:
            method: its method.
            metadata: what it came with.
            end: ends it with an error, when its token is taken away.

        Raises:
            AccessDeniedError: as `check`.
        """
        call = _Call(method, self.check(method, metadata), end)
        self._calls.add(call)
        try:
            yield
        finally:
            self._calls.discard(call)

    def reload(self) -> None:
        """Reads the tokens again and ends the calls of those that are gone.

        Raises:
            StorageError, InvalidRequestError: it cannot be done; nothing has changed.
        """
        if self._tokens is None:
            return
        self._tokens.reload()
        for call in self._calls:
            try:
                self._check_digest(self._tokens, call.method, call.digest)
            except AccessDeniedError as error:
                call.end(error.with_traceback(None))

    @staticmethod
    def _check_digest(tokens: Tokens, method: str, digest: bytes) -> None:
        scope = tokens.scope_of(digest)
        if scope is None:
            raise UnauthenticatedError(
                f"{method}: the server does not know this token (any more); ask whoever runs it "
                "for a valid one"
            )
        needed = _SCOPES.get(method)
        if needed is None or scope < needed:
            raise AccessDeniedError(
                f"{method} needs a token of scope "
                f"{needed.name.lower() if needed else 'that does not exist'}, received one of "
                f"scope {scope.name.lower()}; connect with another, or ask whoever runs the server"
            )


class _Guard(grpc.GenericRpcHandler):
    def __init__(
        self,
        authorisation: Authorisation,
        handler: grpc.GenericRpcHandler,
        refused: Refused,
        refusals: RefusalLog,
    ) -> None:
        self._authorisation = authorisation
        self._handler = handler
        self._refused = refused
        self._refusals = refusals

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        details = handler_call_details
        found = self._handler.service(details)
        if found is None:
            return None
        method = str(details.method).rpartition("/")[2]
        try:
            self._authorisation.check(method, details.invocation_metadata)
        except AccessDeniedError as error:
            status = to_status(error)
            self._refused(method, status[0])
            return grpc.stream_stream_rpc_method_handler(_refusing(method, status, self._refusals))
        return found


def _refusing(method: str, status: Status, refusals: RefusalLog) -> Callable[..., Awaitable[None]]:
    """Returns a handler that reads nothing and answers with a status."""
    code, message, metadata = status

    async def refuse(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        refusals.add(method, context.peer(), code, message)
        await context.abort(code, message, metadata)

    return refuse


def _digest_in(metadata: Metadata) -> bytes:
    values = [value for key, value in metadata if key == TOKEN_KEY]
    if not values:
        raise _unauthenticated("came without one: connect(..., token=...) or token_file=...")
    if len(values) > 1:
        raise _unauthenticated(
            f"came with {len(values)} of them: send one `{TOKEN_KEY}`, also through proxies"
        )
    scheme, _, token = str(values[0]).partition(" ")
    if scheme.lower() != SCHEME.lower():  # and it may be the token, which is not to be shown
        raise _unauthenticated(
            f"came with an `{TOKEN_KEY}` that is not '{SCHEME} TOKEN': send it in that form"
        )
    return digest_of(token)


def _unauthenticated(what: str) -> UnauthenticatedError:
    return UnauthenticatedError(f"this server wants a token and the call {what}")
