"""A writer that notes what was acknowledged while servers come and go, and looks for it later.

As a program it witnesses several servers from within their network, until it is told to stop:

    python -m tests.docker.witness CERTS ADDRESS...
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from pathlib import Path
from types import TracebackType

import numpy as np

import replayring

SPEC = {"number": {"shape": (), "dtype": "int64"}}
CAPACITY = 200_000
FRAMES = 4
SECONDS_BETWEEN = 0.02
SECONDS_BETWEEN_REPORTS = 0.2
PATIENCE = 120.0


class Witness:
    """Adds episodes of known numbers, one after the other, until it is told to stop.

    A context manager, within which it writes. The client must live as long.

    Attributes:
        acknowledged: how many episodes were.
    """

    def __init__(self, client: replayring.Client) -> None:
        self._buffer = client.create_buffer("witness", SPEC, CAPACITY)
        self.acknowledged = 0
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write, name="witness")

    def __enter__(self) -> Witness:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(2 * PATIENCE)
        assert not self._thread.is_alive()

    def _write(self) -> None:
        try:
            with self._buffer.writer() as writer:
                while not self._stop.wait(SECONDS_BETWEEN):
                    first = self.acknowledged * FRAMES
                    writer.add_episode({"number": np.arange(first, first + FRAMES)})
                    writer.flush(timeout=PATIENCE)
                    self.acknowledged += 1
        except BaseException as error:
            self._error = error

    def check(self) -> None:
        """Finds every episode that was acknowledged, once, in order and whole, and no other."""
        assert self._error is None, repr(self._error)
        assert self.acknowledged > 0
        found = self._buffer.read_columns(["number"])["number"]
        np.testing.assert_array_equal(found, np.arange(self.acknowledged * FRAMES))


def main(certs: str, *addresses: str) -> None:
    """Witnesses until SIGTERM, says now and then how much was acknowledged where, and checks."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    folder = Path(certs)
    tls, token = replayring.TLS(ca=folder / "ca.pem"), folder / "token"
    with contextlib.ExitStack() as stack:
        witnesses = []
        for address in addresses:
            client = replayring.connect(address, timeout=PATIENCE, tls=tls, token_file=token)
            witnesses.append(Witness(stack.enter_context(client)))
        with contextlib.ExitStack() as writing:
            for witness in witnesses:
                writing.enter_context(witness)
            while not stop.wait(SECONDS_BETWEEN_REPORTS):
                print(*(witness.acknowledged for witness in witnesses), flush=True)
        for witness in witnesses:
            witness.check()
    print("all found", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
