"""Fixtures of the engine's tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from replayring_server.engine import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An open store in a folder of its own."""
    with Store(tmp_path / "data") as store:
        yield store


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """A folder of its own in memory where there is such, for tests that sync very often."""
    shared_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as name:
        yield Path(name)
