"""Any byte that changes, anywhere in a data directory, is found or does no harm."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replayring_proto.errors import ReplayRingError
from replayring_proto.query import View
from replayring_proto.ring import Plan
from replayring_server.engine import Buffer, Origin, Store
from replayring_server.inspection import verify
from tests.inspection.spoiling import SPEC, episode, flip


def seen(data_dir: Path) -> dict[str, Any]:
    """All that callers could see of a data directory. Opens a copy, as opening may change it."""
    copy = data_dir.with_name("opened")
    shutil.copytree(data_dir, copy)
    try:
        with Store(copy) as store:
            state: dict[str, Any] = {b.name: state_of(b) for b in store.buffers()}
            for name in ("policy", "critic"):
                parameters = store.parameters.get(name)
                state[name] = parameters.version, parameters.pack.body.tobytes()
            return state
    finally:
        shutil.rmtree(copy)


@cache
def seen_before(data_dir: Path) -> dict[str, Any]:
    """What `seen` says of a directory that nobody changes."""
    return seen(data_dir)


def state_of(buffer: Buffer) -> list[Any]:
    """The spec, every live frame, and whether retries of all episodes are recognised."""
    info = buffer.info()
    live = buffer.reader.live
    plan = Plan(buffer.spec, View())
    frames = buffer.reader.at_indices(plan, np.arange(live.start, live.end))
    retries = [
        buffer.append(episode(tag, 1 + tag % 7), Origin(f"{buffer.name}-{tag % 3}", tag))
        for tag in range(1, info.next_episode_index + 1)
    ]
    return [buffer.buffer_id, info.spec, info.oldest_index, frames.body.tobytes(), retries]


@settings(
    max_examples=80,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_a_changed_byte_is_found_or_harmless(
    made: Path, tmp_path: Path, data: st.DataObject
) -> None:
    shutil.rmtree(tmp_path / "data", ignore_errors=True)
    data_dir = Path(shutil.copytree(made, tmp_path / "data"))
    files = sorted(p for p in data_dir.rglob("*") if p.is_file() and p.name != "lock")
    path = data.draw(st.sampled_from(files), label="file")
    at = data.draw(st.integers(0, path.stat().st_size - 1), label="byte")
    flip(path, at, data.draw(st.integers(1, 255), label="bits"))
    if not verify(data_dir).findings:
        assert seen(data_dir) == seen_before(made)


def test_every_byte_of_the_cursor_that_means_something_is_found_or_harmless(
    made: Path, data_dir: Path
) -> None:
    """The counters, of which no checksum tells: each bit of each."""
    expected = seen_before(made)
    found = 0
    for word in (0, 64, 128):
        for bit in range(64):
            flip(data_dir / "ring" / "cursor", word + bit // 8, 1 << bit % 8)
            if verify(data_dir, contents=False).findings:
                found += 1
            else:
                assert seen(data_dir) == expected, (word, bit)
            flip(data_dir / "ring" / "cursor", word + bit // 8, 1 << bit % 8)
    assert found > 150


def test_what_verify_calls_damage_never_keeps_a_server_from_starting(data_dir: Path) -> None:
    """It would rather refuse the buffer. Here every 97th byte of each file is changed."""
    for path in sorted(p for p in data_dir.rglob("*") if p.is_file()):
        for at in range(0, path.stat().st_size, 97):
            flip(path, at, 0xFF)
    assert verify(data_dir).damaged
    with Store(data_dir) as store:
        for name in ("ring", "other"):
            try:
                store.get(name)
            except ReplayRingError:
                store.delete(name)
        assert store.create("new", SPEC)[1]
