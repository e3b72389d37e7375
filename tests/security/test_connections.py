"""Connections that are none, too many calls on one, and messages that grow when unpacked."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

import replayring
from replayring_proto.limits import ServerLimits
from replayring_proto.v1 import replay_pb2
from tests.certificates import Authority, Pair
from tests.security.resets import call_path, reset_streams
from tests.service.frames import SPEC
from tests.support import PATIENCE, LocalServer, ServerProcess, eventually
from tests.wire import METHODS, SERVING, Refused, Stream, Wire

DESCRIPTORS = 160
JUNK = 240

BEGINNINGS = [
    b"",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # of a TLS handshake
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",  # of HTTP/2, without its settings
]


@contextmanager
def junk(address: str) -> Iterator[list[socket.socket]]:
    """Connections that begin something, or nothing, and then are silent."""
    host, port = address.split(":")
    with contextlib.ExitStack() as stack:
        sockets = []
        for number in range(JUNK):
            sockets.append(stack.enter_context(socket.create_connection((host, int(port)))))
            with contextlib.suppress(OSError):  # it may be closed already
                sockets[-1].sendall(BEGINNINGS[number % len(BEGINNINGS)])
        yield sockets


def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        while connection.recv(4096):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def crowd(server: ServerProcess, wire: Wire, sockets: list[socket.socket]) -> None:
    """Checks that a server with all these connections has descriptors left, and uses them."""
    allowed = DESCRIPTORS // 2

    def most_are_closed() -> bool:
        assert server.stats.num_fds() < DESCRIPTORS - 30
        return sum(map(is_closed, sockets)) >= JUNK - allowed

    eventually(most_are_closed, "most are closed")
    wire.create("b", SPEC)
    assert f"taking {allowed} connections at most, not 4096" in server.log_text()


def test_silent_connections_are_bounded_and_end_and_others_get_in(
    tmp_path: Path, authority: Authority, pair: Pair
) -> None:
    """Both kinds of server at once, since it takes as long as a handshake may."""
    prefix = ["prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}"]
    credentials = grpc.ssl_channel_credentials(authority.cert.read_bytes())
    with (
        ServerProcess(tmp_path / "plain", prefix=prefix) as plain,
        ServerProcess(tmp_path / "safe", *pair.flags, prefix=prefix) as safe,
        Wire(plain.address) as wire,
        Wire(safe.address, credentials=credentials) as safe_wire,
    ):
        assert wire.health() == safe_wire.health() == SERVING  # both are connected
        with junk(plain.address) as sockets, junk(safe.address) as safe_sockets:
            crowd(plain, wire, sockets)
            crowd(safe, safe_wire, safe_sockets)
            for address, tls in ((plain.address, False), (safe.address, authority.tls())):
                with replayring.connect(address, tls=tls, timeout=60) as client:
                    client.buffers()
            eventually(lambda: all(map(is_closed, sockets + safe_sockets)), "all are closed")


def test_calls_beyond_the_limit_of_a_connection_wait_in_their_client(tmp_path: Path) -> None:
    limits = ServerLimits(max_streams_per_connection=3)
    with LocalServer(tmp_path / "data", limits) as server, Wire(server.address) as wire:
        wire.create("b", SPEC)
        waiting = [waiting_call(wire) for _ in range(3)]
        with pytest.raises(Refused, match="DEADLINE_EXCEEDED"):
            wire.call("ListBuffers", b"", timeout=0.5)
        with Wire(server.address) as other:
            other.call("ListBuffers", b"")
        waiting.pop().cancel()
        wire.call("ListBuffers", b"")


def test_streams_that_are_reset_at_once_are_bounded_in_memory(tmp_path: Path) -> None:
    """A thousand or so wait for a handler, however many come; clients beyond that try again."""
    with (
        ServerProcess(tmp_path / "data") as server,
        replayring.connect(server.address, timeout=PATIENCE) as client,
    ):
        assert client.buffers() == []
        reset_on_many_connections(server.address, 20_000)
        with server.memory_peak() as peak:
            reset_on_many_connections(server.address, 160_000)
            assert client.buffers() == []
        assert peak.growth < 40 << 20
        assert server.stop() == 0
        assert "Traceback" not in server.log_text()


def reset_on_many_connections(address: str, count: int, connections: int = 8) -> None:
    with ThreadPoolExecutor(connections) as pool:
        each = count // connections
        done = [pool.submit(reset_streams, address, each) for _ in range(connections)]
        for one in done:
            one.result(PATIENCE)


def waiting_call(wire: Wire) -> Stream:
    """A call that has begun and waits."""
    call = wire.stream("SampleBatch", timeout=None)
    spec = replay_pb2.SampleSpec(buffer="b", batch_size=1)
    call.send(replay_pb2.SampleBatchRequest(spec=spec))
    return call


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_message_costs_no_memory(tmp_path: Path, algorithm: grpc.Compression) -> None:
    bomb = bytes(60 << 20)  # a few ten KB when packed
    with ServerProcess(tmp_path / "data") as server, Wire(server.address) as wire:
        wire.refusal("ListBuffers", bytes(5000))
        with server.memory_peak() as peak:
            for method in METHODS:
                with pytest.raises(Refused, match="UNIMPLEMENTED"):
                    wire.call(method, bomb, compression=algorithm)
        assert peak.growth < 20 << 20


@pytest.mark.parametrize("path", ["/\xff", "\xff\xfe", "/replayring.v1.ReplayService/\xc3"])
def test_a_path_that_is_no_text_ends_nothing(tmp_path: Path, path: str) -> None:
    """From some version on it ends the loop of gRPC's server, which no request may."""
    with ServerProcess(tmp_path / "data", "--health-listen", "127.0.0.1:0") as server:
        health = re.search(r"health on (\S+)", server.log_text())
        assert health
        for address in (server.address, health[1]):
            call_path(address, path)
            with Wire(address) as wire:
                assert wire.health() == SERVING
