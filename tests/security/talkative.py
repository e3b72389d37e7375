"""A server and clients in one process that log all they can: `test_secrets` reads what they say.

python -m tests.security.talkative FOLDER RIGHT READ WRONG
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import socket
import struct
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import replayring
from replayring_server import process
from replayring_server.security.tokens import Tokens
from tests.certificates import replace, token_file
from tests.support import PATIENCE, LocalServer, refusal_of
from tests.wire import METHODS, SERVICE, Wire

SPEC = {"x": {"shape": (), "dtype": "float32"}}


def main(folder: Path, right: str, read: str, wrong: str) -> None:
    """Uses tokens in every way, right and wrong, and shows every error whole."""
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    path = token_file(folder / "tokens", f"write {right}", f"read {read}")
    with LocalServer(folder / "data", tokens=Tokens(path)) as server:
        server._loop.set_debug(True)
        use(server, right)
        for token in (read, wrong):
            with showing_errors():
                use(server, token)
        for header in (f"Basic {right}", right, f"Bearer {right}x", f"Bearer {right} {right}"):
            with Wire(server.address, metadata=[("authorization", header)]) as wire:
                for method in METHODS:
                    print(wire.refusal(method, b"\xff"), file=sys.stderr)
        send_with_a_slip(server.address, right)
        token_file(path, f"write {wrong}", f"raed {right}")
        server.run(reload(server))
        token_file(path, f"write {wrong}")
        with (
            replayring.connect(server.address, token=right) as client,
            client.buffer("b").sample_stream(1, in_flight=1) as stream,
        ):
            next(stream)
            server.run(reload(server))
            with showing_errors():
                for _ in stream:
                    pass
    connecting(folder, right)


def use(server: LocalServer, token: str) -> None:
    """Makes calls of every kind."""
    with replayring.connect(server.address, token=token) as client:
        print(repr(client), str(client), file=sys.stderr)
        pickle.loads(pickle.dumps(client)).buffers()
        buffer = client.create_buffer("b", SPEC, 100)
        with buffer.writer() as writer:
            writer.add_episode({"x": [1, 2, 3]})
        buffer.sample(2)
        client.publish("p", {})


def send_with_a_slip(address: str, token: str) -> None:
    """Sends a token and a byte that is no UTF-8, which no gRPC client lets through."""
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": f"/{SERVICE}/GetBuffer".encode(),
        b":authority": b"localhost",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
        b"authorization": b"Bearer %s\xe9" % token.encode(),
    }
    # RFC 9113: a preface, settings, and headers that end their stream; RFC 7541: literal fields.
    block = b"".join(b"\0%c%b%c%b" % (len(k), k, len(v), v) for k, v in fields.items())
    settings = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
    headers = struct.pack(">BHBBI", 0, len(block), 1, 0x5, 1) + block
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + headers)
        answer = b""
        while b"grpc-status" not in answer:
            piece = connection.recv(4096)
            assert piece, f"closed after {answer!r}"
            answer += piece


def connecting(folder: Path, token: str) -> None:
    """Goes wrong before any server is asked."""
    replace(folder / "own", f"write {token}")
    for arguments in (
        {"token": f"{token} "},
        {"token": token, "token_file": folder / "own"},
        {"token_file": folder / "own"},
    ):
        with showing_errors():
            replayring.connect("127.0.0.1:1", **arguments)
    with showing_errors():
        replayring.connect("10.0.0.1:1", token=token)
    with showing_errors(), replayring.connect("127.0.0.1:1", token=token, timeout=0.2) as client:
        client.buffers()
    token_file(folder / "bad", f"write {token}", f"write {token}", token)
    flags = ["--data-dir", str(folder / "other"), "--listen", "127.0.0.1:0"]
    print(refusal_of(*flags, "--token-file", str(folder / "bad")), file=sys.stderr)


async def reload(server: LocalServer) -> None:
    """Does what SIGHUP does."""
    process._reload_tokens(server.server)


@contextlib.contextmanager
def showing_errors() -> Iterator[None]:
    """Shows what fails within, with all that led to it."""
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        print(repr(error), vars(error), pickle.dumps(error), file=sys.stderr)
    else:
        raise AssertionError("this should have failed")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
