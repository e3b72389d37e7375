"""What tests of writers write, and the server that they script."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.client.fake_server import FakeServer
from tests.client.fake_store import FakeStore


def step(value: float = 0.0) -> dict[str, Any]:
    return {"state": [value, value], "reward": value}


def episode(frames: int = 3, value: float = 0.0) -> dict[str, Any]:
    return {"state": np.full((frames, 2), value), "reward": np.arange(frames) + value}


def store(fake: FakeServer, **faults: str) -> FakeStore:
    scripted = FakeStore(**faults)
    fake.script("AddEpisodes", scripted)
    return scripted
