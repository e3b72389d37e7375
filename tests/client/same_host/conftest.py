"""A server, and a buffer whose files its client reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import replayring
from tests.client.conftest import CAPACITY, SPEC
from tests.client.same_host.support import episode
from tests.support import ServerProcess


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "data") as server:
        yield server


@pytest.fixture
def client(server: ServerProcess) -> Iterator[replayring.Client]:
    with replayring.connect(server.address, timeout=20, same_host=True) as client:
        yield client


@pytest.fixture
def buffer(client: replayring.Client) -> replayring.Buffer:
    """A buffer of ten frames, whose reward is their number."""
    buffer = client.create_buffer("ring", SPEC, CAPACITY, fps=10)
    buffer.add_episode(episode(10))
    return buffer
