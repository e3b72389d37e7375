"""HTTP/2 by hand: streams that are begun and reset at once, which no client library would do."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from tests.support import PATIENCE

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADERS, _RESET, _SETTINGS, _PING = 1, 3, 4, 6
_ACK, _END_STREAM, _END_HEADERS = 1, 1, 4
_CANCEL = (8).to_bytes(4, "big")
_TOGETHER = 100


def reset_streams(address: str, count: int) -> None:
    """Begins and resets so many streams on one connection, and waits for the server's answer."""
    request = _request("/replayring.v1.ReplayService/ListBuffers")
    with _answered(address) as connection:
        for first in range(0, count, _TOGETHER):
            streams = range(2 * first + 1, 2 * (first + _TOGETHER), 2)
            connection.sendall(
                b"".join(
                    _frame(_HEADERS, _END_HEADERS, stream, request)
                    + _frame(_RESET, 0, stream, _CANCEL)
                    for stream in streams
                )
            )


def call_path(address: str, path: str) -> None:
    """Makes a call of a path, a character for each byte, and waits until the server has seen it."""
    with _answered(address) as connection:
        connection.sendall(_frame(_HEADERS, _END_STREAM | _END_HEADERS, 1, _request(path)))


@contextlib.contextmanager
def keeping_up(address: str) -> Iterator[threading.Event]:
    """Keeps a connection open, and answers pings, until the server closes it and that is set."""
    with _connected(address) as connection:
        closed = threading.Event()

        def read() -> None:
            _acknowledge(connection, threading.Event())
            closed.set()

        reader = threading.Thread(target=read)
        reader.start()
        yield closed
        with contextlib.suppress(OSError):  # it is closed
            connection.shutdown(socket.SHUT_RDWR)
        reader.join(PATIENCE)


@contextlib.contextmanager
def _answered(address: str) -> Iterator[socket.socket]:
    """Gives a connection, and waits until the server has seen what was sent there."""
    with _connected(address) as connection:
        answered = threading.Event()
        reader = threading.Thread(target=_acknowledge, args=(connection, answered))
        reader.start()
        yield connection
        connection.sendall(_frame(_PING, 0, 0, b"all sent"))
        assert answered.wait(PATIENCE)
        connection.shutdown(socket.SHUT_RDWR)
        reader.join(PATIENCE)


@contextlib.contextmanager
def _connected(address: str) -> Iterator[socket.socket]:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        connection.sendall(_PREFACE + _frame(_SETTINGS))
        yield connection


def _acknowledge(connection: socket.socket, answered: threading.Event) -> None:
    """Acknowledges settings and pings, as a peer has to that wants to go on."""
    with contextlib.suppress(OSError), connection.makefile("rb") as stream:
        while len(head := stream.read(9)) == 9:
            payload = stream.read(int.from_bytes(head[:3], "big"))
            kind, flags = head[3], head[4]
            if kind == _PING and flags & _ACK and payload == b"all sent":
                answered.set()
            elif kind in (_SETTINGS, _PING) and not flags & _ACK:
                connection.sendall(_frame(kind, _ACK, 0, payload if kind == _PING else b""))


def _frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return (
        len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
    )


def _request(path: str) -> bytes:
    """Encodes headers as literals, which need no table."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "server",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    return b"".join(
        b"\0" + b"".join(bytes([len(text)]) + text.encode("latin-1") for text in field)
        for field in fields.items()
    )
