"""The process around the service: the gRPC server, its options, health, and a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import grpc

from replayring_proto.limits import (
    HANDSHAKE_SECONDS,
    IDLE_CONNECTION_SECONDS,
    MAX_MESSAGE_BYTES,
)
from replayring_proto.server_status import ServerStatus
from replayring_server.descriptors import descriptor_limit
from replayring_server.diagnostics import Diagnostics
from replayring_server.engine import Store
from replayring_server.extras import needs_extra
from replayring_server.health import Health
from replayring_server.listening import cannot_listen, check_alone
from replayring_server.refusals import RefusalLog
from replayring_server.security.authorisation import Authorisation
from replayring_server.security.certificates import Certificates
from replayring_server.security.tokens import Tokens
from replayring_server.service.boundary import SERVICE
from replayring_server.service.replay_service import ReplayService
from replayring_server.telemetry import from_other_threads

if TYPE_CHECKING:
    from replayring_server.telemetry.prometheus import MetricsServer

logger = logging.getLogger(__name__)

_OPTIONS: list[tuple[str, int]] = [
    # On by default, it would let a second server take half of the connections, unseen.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Only identity: 59 KB of gzip can stand for 60 MiB. Compressed messages are UNIMPLEMENTED.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    # Peers that vanished without a word are noticed in half a minute.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    # Whoever connects and says nothing, or not enough, is not waited for.
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
    # Streams that are reset as soon as they are begun wait for a handler all the same, and hold
    # memory: beyond the first number some are refused, beyond the second all.
    ("grpc.server.max_pending_requests", 1_000),
    ("grpc.server.max_pending_requests_hard_limit", 3_000),
    # Connections move on now and then, so that a balancer or a new address gets its turn. Clients
    # reconnect by themselves.
    ("grpc.max_connection_age_ms", 12 * 3_600_000),
    ("grpc.max_connection_age_grace_ms", 300_000),
]

_AT_ONCE_S = 0.001  # 0 would mean that nothing is looked at

_MAX_PROBES = 64
_PROBE_IDLE_SECONDS = 10
"""Connections of the health address, which anybody may open: none keeps others away for long."""


def _max_connections(limit: int) -> int:
    """Returns how many connections to take: each holds a descriptor, as each mapped column does."""
    allowed = descriptor_limit() // 2
    if allowed < limit:
        logger.warning(
            "taking %d connections at most, not %d: that is half of the descriptors that the "
            "system allows (ulimit -n)",
            allowed,
            limit,
        )
    return min(limit, allowed)


def _is_news(record: logging.LogRecord) -> bool:
    """Says no to what gRPC logs, with a traceback, of things that any peer may do.

    It may leave before it has its status, as a client does that has read all it wanted. And it may
    send metadata that are no UTF-8, which gRPC logs whole: a token with a slip in it, say.
    """
    expected = (grpc.aio.InternalError, UnicodeDecodeError)
    return not (record.exc_info and isinstance(record.exc_info[1], expected))


class Server:
    """A gRPC server over one store. Belongs to one event loop; does not close the store."""

    def __init__(
        self,
        store: Store,
        certificates: Certificates | None = None,
        tokens: Tokens | None = None,
        diagnostics: Iterable[grpc.GenericRpcHandler] = (),
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    ) -> None:
        """Prepares a server.

        Args:
            store: what it serves.
            certificates: makes it speak TLS, and nothing else.
            tokens: makes it ask its callers for one, except for its health.
            diagnostics: more services, for which any token will do.
            interceptors: see every call before its service does.
        """
        self._store = store
        self._certificates = certificates
        self._refusals = RefusalLog()
        self._authorisation = Authorisation(tokens, self._refusals)
        logging.getLogger("grpc._cython.cygrpc").addFilter(_is_news)
        self._service = ReplayService(store, self._authorisation, self._refusals)
        self._health = Health([SERVICE])
        self._diagnostics = Diagnostics(diagnostics, self._authorisation, self._refusals)
        self._grpc = _grpc_server(
            max_connections=_max_connections(store.limits.max_connections),
            max_streams=store.limits.max_streams_per_connection,
            interceptors=interceptors,
        )
        self._grpc.add_generic_rpc_handlers(
            (
                self._service.handler(),
                self._health.handler(),
                *self._diagnostics.handlers(),
            )
        )
        self._probes: grpc.aio.Server | None = None
        self._metrics: MetricsServer | None = None

    async def start(
        self,
        host: str,
        port: int,
        probes: tuple[str, int] | None = None,
        metrics: tuple[str, int] | None = None,
    ) -> int:
        """Starts listening and returns the port, which the system chose if `port` is 0.

        Args:
            host: where to listen.
            port: where to listen.
            probes: host and port of another address, which answers the health service alone and
                without TLS: orchestrators' probes speak none.
            metrics: host and port of another address, which answers Prometheus as carefully as
                this one answers its callers: over TLS, and for a token, where this one does.

        Raises:
            StorageError: an address cannot be listened on.
            InvalidRequestError: `metrics` needs a library that is not installed.
        """
        credentials = self._certificates.credentials() if self._certificates else None
        bound = _listen(self._grpc, "--listen", host, port, credentials)
        if probes is not None:
            self._probes = _grpc_server(
                max_connections=_MAX_PROBES,
                max_streams=_MAX_PROBES,
                idle_seconds=_PROBE_IDLE_SECONDS,
            )
            self._probes.add_generic_rpc_handlers((self._health.handler(),))
            at = _listen(self._probes, "--health-listen", *probes)
            logger.info("health on %s:%d", probes[0], at)
        if metrics is not None:
            self._metrics = self._serve_metrics(*metrics)
        # When all addresses are there: what was started would have to be stopped.
        if self._probes is not None:
            await self._probes.start()
        await self._grpc.start()
        self._store.lock.describe(f"pid {os.getpid()}, {host}:{bound}")
        self._health.set_serving(True)
        return bound

    def reload_tokens(self) -> None:
        """Reads the tokens again, and ends calls whose token is gone or worth less now.

        Raises:
            StorageError, InvalidRequestError: it cannot be done; all stays as it was.
        """
        self._authorisation.reload()

    def announce_stop(self) -> None:
        """Says NOT_SERVING to whoever asks for its health or watches it, and serves on."""
        self._health.set_serving(False)

    async def stop(self, grace_s: float) -> None:
        """Stops: says so, ends calls that wait, lets those at work finish for `grace_s` seconds.

        Then it ends them, and waits for what is already in the engine. Another call of this with
        less grace, meanwhile, ends them sooner.
        """
        self.announce_stop()
        self._health.end_watches()
        self._service.stop_waiting()
        self._diagnostics.stop()
        await self._grpc.stop(grace_s)
        if self._probes is not None:
            await self._probes.stop(0)
        if self._metrics is not None:
            await asyncio.to_thread(self._metrics.close)
        self._service.close()
        self._refusals.close()

    async def check(self) -> None:
        """Checks that it takes connections, as gRPC's own loop may have died without a word.

        Raises:
            Exception: what that died of.
        """
        for server in (self._grpc, self._probes):
            if server is not None:
                await server.wait_for_termination(_AT_ONCE_S)

    async def wait(self) -> None:
        """Returns when the server has stopped."""
        await self._grpc.wait_for_termination()

    def status(self) -> ServerStatus:
        """Returns how the server is doing."""
        return self._service.status()

    def _serve_metrics(self, host: str, port: int) -> MetricsServer:
        try:
            from replayring_server.telemetry.prometheus import PATH, MetricsServer
        except ModuleNotFoundError as error:
            raise needs_extra("--metrics-listen", "metrics", error) from None
        check = partial(self._authorisation.check, "GetServerStatus")
        status = from_other_threads(self.status)
        from_any_thread = asyncio.get_running_loop().call_soon_threadsafe

        def unanswered(peer: str, reason: str) -> None:
            refused = "metrics", peer, grpc.StatusCode.UNAVAILABLE, reason
            with contextlib.suppress(RuntimeError):  # the loop has ended, and the server with it
                from_any_thread(self._refusals.add, *refused)

        server = MetricsServer(host, port, status, self._certificates, check, unanswered)
        logger.info("metrics on %s:%d%s", host, server.server_port, PATH)
        return server


def _grpc_server(
    *,
    max_connections: int,
    max_streams: int,
    idle_seconds: int = IDLE_CONNECTION_SECONDS,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
) -> grpc.aio.Server:
    return grpc.aio.server(
        interceptors=interceptors,
        options=[
            *_OPTIONS,
            ("grpc.max_allowed_incoming_connections", max_connections),
            ("grpc.max_concurrent_streams", max_streams),
            ("grpc.max_connection_idle_ms", idle_seconds * 1000),
        ],
    )


def _listen(
    server: grpc.aio.Server,
    flag: str,
    host: str,
    port: int,
    credentials: grpc.ServerCredentials | None = None,
) -> int:
    """Makes a server listen on the address that a flag gives, and returns the port."""
    address = f"{host}:{port}"
    try:
        if credentials is None:
            bound = server.add_insecure_port(address)
        else:
            bound = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise cannot_listen(flag, host, port, error) from None
    check_alone(flag, host, bound)
    return bound
