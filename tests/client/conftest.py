"""Servers and clients for the tests of the client core."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import grpc
import pytest

import replayring
from tests.client.fake_server import FakeServer, status
from tests.support import ServerProcess, eventually

_numbers = itertools.count()

SPEC = {"state": {"shape": (2,), "dtype": "float32"}, "reward": {"shape": (), "dtype": "float32"}}
CAPACITY = 1000


@pytest.fixture(scope="session")
def core_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server process that lives as long as the test session."""
    data = tmp_path_factory.mktemp("core") / "data"
    with ServerProcess(data, "--limit", "max_buffers=5000") as server:
        yield server.address
        assert server.running(), server.log_text()
        assert "Traceback" not in server.log_text(), server.log_text()


@pytest.fixture
def no_threads_left() -> Iterator[None]:
    """Fails a test that leaves a thread of the client behind."""
    before = set(threading.enumerate())
    yield
    eventually(
        lambda: (
            not [
                thread
                for thread in set(threading.enumerate()) - before
                if thread.name.startswith("replayring")
            ]
        ),
        "the client's threads have ended",
        patience=10,
    )


@pytest.fixture
def client(core_server: str, no_threads_left: None) -> Iterator[replayring.Client]:
    """A client of the real server."""
    with replayring.connect(core_server, timeout=20) as client:
        yield client


@pytest.fixture
def name() -> str:
    """A name that no other test uses, for a buffer or parameters."""
    return f"core-{next(_numbers)}"


@pytest.fixture
def buffer(client: replayring.Client, name: str) -> replayring.Buffer:
    """An empty buffer on the real server."""
    return client.create_buffer(name, SPEC, CAPACITY, fps=10)


@pytest.fixture
def fake(no_threads_left: None) -> Iterator[FakeServer]:
    """A server that does as it is told."""
    with FakeServer() as server:
        yield server


@pytest.fixture
def fake_client(fake: FakeServer) -> Iterator[replayring.Client]:
    """A client of that server."""
    with replayring.connect(fake.address, timeout=20) as client:
        yield client


@pytest.fixture
def fake_buffer(fake: FakeServer, fake_client: replayring.Client) -> replayring.Buffer:
    """A buffer of a server that does what a test says."""
    return fake_client.buffer("fake")


@pytest.fixture
def impatient(fake: FakeServer, no_threads_left: None) -> Iterator[replayring.Buffer]:
    """A buffer of a client that waits half a second."""
    fake.script("AddEpisodes", status(grpc.StatusCode.UNAVAILABLE))
    with replayring.connect(fake.address, timeout=0.5) as client:
        yield client.buffer("fake")
