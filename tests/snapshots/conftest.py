"""A served data directory to take snapshots of, and small parts, so that there are many."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from replayring_proto.pack import Pack
from replayring_server.engine import Buffer, Origin, Store
from replayring_server.snapshots import parts
from tests.engine.frames import checked_episode, checked_spec

SPEC = checked_spec(300, width=16)
"""A ring of 364 rows."""


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 40 frames, one of which has 104 bytes."""
    frame_bytes = parts.part_layout(SPEC, 1000).nbytes // 1000
    monkeypatch.setattr(parts, "PART_BYTES", 40 * (frame_bytes + 1))
    monkeypatch.setattr(parts, "TAIL_FRAMES", 2)
    assert parts.frames_per_part(SPEC) == 40


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store with a ring that has turned, an empty one, and parameters."""
    with Store(tmp_path / "data") as store:
        ring, _ = store.create("ring", SPEC)
        fill(ring, 1, 60)
        store.create("empty", SPEC)
        store.parameters.publish("policy", Pack.of(episode(1, 3)))
        yield store


def episode(tag: int, frames: int) -> dict:
    return checked_episode(SPEC, tag, frames)


def fill(buffer: Buffer, first: int, episodes: int) -> None:
    """Appends episodes with these tags and 1 to 23 frames, of three writers."""
    for tag in range(first, first + episodes):
        buffer.append(episode(tag, 1 + tag * 7 % 23), Origin(f"w{tag % 3}", tag))


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """A folder of its own in memory where there is such."""
    shared_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as name:
        yield Path(name)
