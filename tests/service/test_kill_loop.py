"""Sixteen actors push while the server is killed again and again, and junk comes in between."""

from __future__ import annotations

import random
import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import replayring
from tests.service.told_apart import COLUMNS, DATA_SPEC, check, episode
from tests.support import PATIENCE, ServerProcess, eventually

ACTORS, KILLS, PROGRESS = 16, 5, 60
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Actors:
    """Writers on threads of their own, which write until they are told to stop."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.written: dict[int, int] = {}
        self.acknowledged: dict[int, int] = {}
        self.errors: list[str] = []
        self._threads = [
            threading.Thread(target=self._write, args=(number,)) for number in range(1, ACTORS + 1)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def progress(self) -> int:
        with self._lock:
            return sum(self.acknowledged.values())

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * PATIENCE)
            assert not thread.is_alive()

    def _write(self, number: int) -> None:
        try:
            with replayring.connect(self._address, timeout=2 * PATIENCE) as client:
                writer = client.buffer("b").writer(max_in_flight_bytes=1 << 16)
                sequence = 0
                while not self._stop.is_set():
                    sequence += 1
                    writer.add_episode(episode(number, sequence))
                    with self._lock:
                        self.acknowledged[number] = writer.acknowledged
                writer.close()
                with self._lock:
                    self.written[number], self.acknowledged[number] = sequence, writer.acknowledged
        except Exception as error:
            self.errors.append(f"actor {number}: {error!r}")


@contextmanager
def junk(address: str) -> Iterator[None]:
    """Has a thread open connections, some half-open, others full of junk, until the end."""
    host, _, port = address.rpartition(":")
    rng, stop = random.Random(0), threading.Event()
    sent = [0]

    def pour() -> None:
        half_open: deque[socket.socket] = deque()
        while not stop.wait(0.02):
            try:
                connection = socket.create_connection((host, int(port)), timeout=1)
            except OSError:
                continue  # there is no server at the moment
            half_open.append(connection)
            start = rng.choice((b"", PREFACE, b"GET / HTTP/1.1\r\n\r\n"))
            with suppress(OSError):  # it has had enough
                connection.sendall(start + rng.randbytes(rng.randrange(1, 200)))
                sent[0] += 1
            if len(half_open) > 50:
                half_open.popleft().close()
        while half_open:
            half_open.pop().close()

    thread = threading.Thread(target=pour)
    thread.start()
    try:
        yield
        assert sent[0], "no junk was sent"
    finally:
        stop.set()
        thread.join(PATIENCE)


@pytest.mark.timeout(300)
def test_kills_lose_nothing_double_nothing_and_tear_nothing(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "data")
    address = server.address
    try:
        with replayring.connect(address, timeout=PATIENCE) as client:
            buffer = client.create_buffer("b", DATA_SPEC, 2_000_000, fps=10)
            actors = Actors(address)
            try:
                with junk(address):
                    for _ in range(KILLS):
                        goal = actors.progress + PROGRESS
                        eventually(
                            lambda: actors.progress > goal or actors.errors,  # noqa: B023
                            "the actors get on",
                        )
                        server.kill()
                        server.close()
                        server = ServerProcess(tmp_path / "data", listen=address)
                    goal = actors.progress + PROGRESS
                    eventually(lambda: actors.progress > goal or actors.errors, "and once more")
            finally:
                actors.stop()
            assert not actors.errors
            assert actors.acknowledged == actors.written
            assert len(actors.written) == ACTORS
            check(buffer.read_columns(COLUMNS), actors.acknowledged)
            assert buffer.info().next_episode_index == sum(actors.written.values())
        assert server.stop() == 0
        assert "Traceback" not in server.log_text()
    finally:
        server.close()
