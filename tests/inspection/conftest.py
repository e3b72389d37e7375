"""A data directory to inspect, and copies of it to spoil."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from replayring_proto.pack import Pack
from replayring_server.engine import Origin, Store
from tests.inspection.spoiling import SPEC, episode


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory, closed. All episodes of "ring" that live are known to the log.

    "ring" has turned, "other" has not; both have the same spec.
    """
    data_dir = tmp_path_factory.mktemp("made") / "data"
    with Store(data_dir) as store:
        for name, episodes in (("ring", 40), ("other", 9)):
            buffer, _ = store.create(name, SPEC)
            for tag in range(1, episodes + 1):
                origin = Origin(f"{name}-{tag % 3}", tag)
                buffer.append(episode(tag, 1 + tag % 7), origin)
        store.parameters.publish("policy", Pack.of({"w": episode(1, 3)["b.bytes"]}))
        store.parameters.publish("critic", Pack.of({"w": episode(2, 3)["b.bytes"]}))
    return data_dir


@pytest.fixture
def data_dir(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "data"))
