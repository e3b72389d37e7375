"""Two hosts for each test. They take root, `ip` and `iptables`.

Without those the tests are skipped, unless REPLAYRING_NETNS=require.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.network.hosts import Hosts
from tests.support import ServerProcess


def _lacking() -> str | None:
    if os.geteuid():
        return "network namespaces take root"
    for tool in ("ip", "iptables"):
        if shutil.which(tool) is None:
            return f"there is no {tool}; install iproute2 and iptables"
    hosts = None
    try:
        hosts = Hosts.make()
        with hosts.losing(0.5):
            return None
    except AssertionError as error:
        return f"this kernel will not do it: {error}"
    finally:
        if hosts:
            hosts.remove()


@pytest.fixture(scope="session")
def namespaces() -> None:
    """Network namespaces, or no test."""
    lacking = _lacking()
    if lacking and os.environ.get("REPLAYRING_NETNS") == "require":
        pytest.fail(f"REPLAYRING_NETNS=require, but {lacking}")
    if lacking:
        pytest.skip(lacking)


@pytest.fixture
def hosts(namespaces: None) -> Iterator[Hosts]:
    """Two hosts with a good cable."""
    hosts = Hosts.make()
    yield hosts
    hosts.remove()


@pytest.fixture
def server(hosts: Hosts, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server on the server's host."""
    with hosts.serve(tmp_path / "data") as server:
        yield server
        assert server.running(), server.log_text()
        assert "Traceback" not in server.log_text(), server.log_text()
