"""Buffers for the dataset tests: the naive model, and a real server behind a real client.

A pytest plugin, which test modules ask for by name. `make_buffer` runs a test over both kinds,
`make_real` over the server alone.
"""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

import replayring
from replayring._signals import WORKERS
from tests.client.torch_buffers import DATA_SPEC, FPS, MakeBuffer, make_naive
from tests.support import ServerProcess, eventually

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def dataset_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server process that lives as long as the test session."""
    with ServerProcess(tmp_path_factory.mktemp("datasets") / "data") as server:
        yield server.address
        assert server.running(), server.log_text()
        assert "Traceback" not in server.log_text(), server.log_text()


@pytest.fixture
def make_real(dataset_server: str) -> Iterator[MakeBuffer]:
    """Makes new buffers on a real server."""
    with replayring.connect(dataset_server) as client:
        made: list[replayring.Buffer] = []

        def make(
            capacity: int = 100, fps: float | None = FPS, data_spec: dict[str, Any] = DATA_SPEC
        ) -> replayring.Buffer:
            name = f"test-{next(_NUMBERS)}"
            buffer = client.create_buffer(name, data_spec=data_spec, capacity=capacity, fps=fps)
            made.append(buffer)
            return buffer

        yield make
        for buffer in made:
            with suppress(replayring.NotFoundError):
                buffer.delete()


@pytest.fixture(params=["naive", "server"])
def make_buffer(request: pytest.FixtureRequest) -> MakeBuffer:
    """Makes new buffers, once of the naive and once of the real kind."""
    make: MakeBuffer = make_naive
    if request.param == "server":
        make = request.getfixturevalue("make_real")
    return make


@pytest.fixture
def no_threads_stay() -> Iterator[None]:
    """Fails a test that leaves a thread of ours behind."""

    def ours() -> set[threading.Thread]:
        threads = threading.enumerate()
        return {thread for thread in threads if thread.name.startswith("replayring")}

    before = ours()
    yield
    gc.collect()

    def gone() -> bool:
        WORKERS.dismiss()  # which would otherwise stay for a while, for what is to be done next
        return not ours() - before

    eventually(gone, "threads end", 5)  # they may be on their way out
