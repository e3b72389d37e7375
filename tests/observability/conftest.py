"""A server that answers Prometheus, and certificates as the tests of security have them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.security.conftest import authority, no_token_in_the_environment, pair
from tests.support import ServerProcess
from tests.wire import Wire

__all__ = ["authority", "no_token_in_the_environment", "pair"]


def metrics_address(server: ServerProcess) -> str:
    """Returns where a server answers Prometheus, which its log says."""
    found = re.search(r"metrics on (\S+)/metrics", server.log_text())
    assert found, server.log_text()
    return found[1]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server of this test's own."""
    with ServerProcess(tmp_path / "data", "--metrics-listen", "127.0.0.1:0") as server:
        yield server
        assert "Traceback" not in server.log_text(), server.log_text()


@pytest.fixture
def wire(server: ServerProcess) -> Iterator[Wire]:
    """A connection to it."""
    with Wire(server.address) as wire:
        yield wire
