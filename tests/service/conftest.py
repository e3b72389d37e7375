"""One server process for the tests of this folder, which they share by names of their own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.support import ServerProcess
from tests.wire import SERVING, Wire

_numbers = itertools.count()


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that is never restarted; at the end its log must hold no traceback."""
    data = tmp_path_factory.mktemp("shared") / "data"
    with ServerProcess(data, "--limit", "max_buffers=5000") as server:
        yield server
        assert server.stop() == 0
        log = server.log_text()
        assert "Traceback" not in log, log
        assert "Exception" not in log, log


@pytest.fixture
def server(shared_server: ServerProcess) -> Iterator[ServerProcess]:
    """The shared server, which must serve on after every test."""
    yield shared_server
    assert shared_server.running(), shared_server.log_text()
    with Wire(shared_server.address) as wire:
        assert wire.health() == SERVING


@pytest.fixture
def wire(server: ServerProcess) -> Iterator[Wire]:
    """A connection of this test's own to the shared server."""
    with Wire(server.address) as wire:
        yield wire


@pytest.fixture
def name() -> str:
    """A name that no other test uses, for a buffer, a writer or parameters."""
    return f"n{next(_numbers)}"
