"""Every test that asks for a `transport` runs over each of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.contract.transports import TRANSPORTS, Transport
from tests.support import ServerProcess

_numbers = itertools.count()


@pytest.fixture(scope="package")
def contract_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server for those transports that need one."""
    data = tmp_path_factory.mktemp("contract") / "data"
    with ServerProcess(data, "--limit", "max_buffers=5000") as server:
        yield server
        assert server.stop() == 0
        assert "Traceback" not in server.log_text(), server.log_text()


@pytest.fixture(scope="package", params=TRANSPORTS)
def transport(
    request: pytest.FixtureRequest,
    contract_server: ServerProcess,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Transport]:
    """One way to buffers."""
    folder = tmp_path_factory.mktemp(request.param) / "data"
    with TRANSPORTS[request.param](contract_server.address, folder) as transport:
        yield transport


@pytest.fixture
def name() -> str:
    """A name that no other test uses."""
    return f"c{next(_numbers)}"
