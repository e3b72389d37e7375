"""A server and clients in one process that log all they can: `test_secrets` reads what they say.

python -m tests.security.talkative FOLDER RIGHT READ WRONG
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import replayring
from replayring_server import process
from replayring_server.security.tokens import Tokens
from tests.certificates import replace, token_file
from tests.support import LocalServer, refusal_of
from tests.wire import METHODS, Wire

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
