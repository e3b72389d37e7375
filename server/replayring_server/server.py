"""The process around the service: the gRPC server, its options, health, and a clean end."""

from __future__ import annotations

import logging
import os

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from replayring_proto.errors import StorageError
from replayring_proto.limits import MAX_MESSAGE_BYTES
from replayring_server.engine import Store
from replayring_server.service.boundary import SERVICE
from replayring_server.service.replay_service import ReplayService

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
    # Connections move on now and then, so that a balancer or a new address gets its turn. Clients
    # reconnect by themselves.
    ("grpc.max_connection_age_ms", 12 * 3_600_000),
    ("grpc.max_connection_age_grace_ms", 300_000),
]


def _not_a_vanished_peer(record: logging.LogRecord) -> bool:
    """Says no to what gRPC logs, with a traceback, when a peer left before it had its status.

    That is how any client behaves that has read all it wanted.
    """
    return not (record.exc_info and isinstance(record.exc_info[1], grpc.aio.InternalError))


class Server:
    """A gRPC server over one store. Belongs to one event loop; does not close the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        logging.getLogger("grpc._cython.cygrpc").addFilter(_not_a_vanished_peer)
        self._service = ReplayService(store)
        self._health = health.aio.HealthServicer()  # pyright: ignore[reportAttributeAccessIssue]
        self._grpc = grpc.aio.server(options=_OPTIONS)
        self._grpc.add_generic_rpc_handlers((self._service.handler(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)

    async def start(self, host: str, port: int) -> int:
        """Starts listening and returns the port, which the system chose if `port` is 0.

        Raises:
            StorageError: the address cannot be listened on.
        """
        try:
            bound = self._grpc.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            raise StorageError(
                f"cannot listen on {host}:{port} ({error}); is another server using it?"
            ) from None
        await self._grpc.start()
        self._store.lock.describe(f"pid {os.getpid()}, {host}:{bound}")
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        return bound

    async def stop(self, grace_s: float) -> None:
        """Stops: says so, ends calls that wait, lets those at work finish for `grace_s` seconds."""
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        self._service.stop_waiting()
        await self._grpc.stop(grace_s)
        self._service.close()

    async def wait(self) -> None:
        """Returns when the server has stopped."""
        await self._grpc.wait_for_termination()

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for service in ("", SERVICE):
            await self._health.set(service, status)
