"""Shards for tests: servers that can be killed, and come back at their addresses."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replayring
from tests.client.conftest import no_threads_left
from tests.support import ServerProcess

__all__ = ["no_threads_left"]

SPEC = {"state": {"shape": (2,), "dtype": "float32"}, "number": {"shape": (), "dtype": "int64"}}


def episode(frames: int, number: int = 0) -> dict[str, Any]:
    """Returns an episode whose frames all have a number."""
    return {"state": np.zeros((frames, 2)), "number": np.full(frames, number)}


Draws = Callable[..., AbstractContextManager[Iterator[dict[str, Any]]]]
"""One of the ways to draw batches, given a buffer and what `sample` takes."""


def in_a_stream(
    buffer: replayring.ShardedBuffer, batch_size: int, **options: Any
) -> replayring.SampleStream:
    return buffer.sample_stream(batch_size, **options)


def one_by_one(
    buffer: replayring.ShardedBuffer, batch_size: int, **options: Any
) -> AbstractContextManager[Iterator[dict[str, Any]]]:
    return nullcontext(iter(lambda: buffer.sample(batch_size, **options), None))


class Shards:
    """Servers, in the order of their numbers."""

    def __init__(self, folder: Path, count: int) -> None:
        servers = [ServerProcess(folder / f"shard-{i}") for i in range(count)]
        self.servers = sorted(servers, key=lambda server: server.address)
        self.addresses = [server.address for server in self.servers]

    @property
    def address(self) -> str:
        return ",".join(self.addresses)

    def kill(self, number: int) -> None:
        self.servers[number].kill()
        self.servers[number].close()

    def revive(self, number: int) -> None:
        old = self.servers[number]
        self.servers[number] = ServerProcess(old.data_dir, listen=old.address)

    def signal(self, number: int, what: signal.Signals) -> None:
        self.servers[number].signal(what)

    def close(self) -> None:
        for server in self.servers:
            server.close()


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[Shards]:
    """Two servers of their own."""
    made = Shards(tmp_path, 2)
    yield made
    made.close()


@pytest.fixture(scope="package")
def calm_shards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shards]:
    """Three servers that nobody kills."""
    made = Shards(tmp_path_factory.mktemp("calm"), 3)
    yield made
    for server in made.servers:
        assert server.stop() == 0
        assert "Traceback" not in server.log_text(), server.log_text()
    made.close()


@pytest.fixture
def client(calm_shards: Shards, no_threads_left: None) -> Iterator[replayring.ShardedClient]:
    """A client of three shards."""
    with replayring.connect(calm_shards.address, timeout=20) as connected:
        assert isinstance(connected, replayring.ShardedClient)
        yield connected


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name that no other test uses."""
    return f"b{abs(hash(request.node.nodeid)):x}"[:60]


@pytest.fixture
def buffer(client: replayring.ShardedClient, name: str) -> replayring.ShardedBuffer:
    """An empty buffer on three shards, with room for 1,000 frames each."""
    return client.create_buffer(name, SPEC, 3000, fps=10)


def add_to(
    buffer: replayring.ShardedBuffer, shard: int, frames: int, number: int = 0
) -> replayring.Acknowledgement:
    """Adds an episode to one shard of a buffer."""
    return buffer._parts[shard].buffer.add_episode(episode(frames, number))


def connect(shards: Shards, **options: object) -> replayring.ShardedClient:
    """Returns a client of all of them."""
    client = replayring.connect(shards.address, **{"timeout": 60, **options})
    assert isinstance(client, replayring.ShardedClient)
    return client
