"""Every limit that a server's owner may change: what reaches it is served, more is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from replayring_proto.limits import ServerLimits
from tests.service.frames import refused
from tests.support import LocalServer
from tests.wire import Wire, spec_message, view_message

SPEC = spec_message({"x": ("uint8", (10,))}, capacity=100)
LIMITS = ServerLimits(
    max_buffers=2,
    max_parameter_sets=1,
    max_batch_size=20,
    max_window_entries=60,
    max_reply_bytes=2000,
    max_column_bytes=1000,
    max_episode_bytes=500,
    max_parameters_bytes=100,
    max_batches_in_flight=3,
)
WINDOWS = {key: range(10) for key in ("x", "index", "frame_index", "episode_index", "timestamp")}


class Case(NamedTuple):
    """A use that reaches a limit, one that goes beyond it, and words of the refusal."""

    fits: Callable[[Wire], Any]
    exceeds: Callable[[Wire], Any]
    words: str


def frames(count: int) -> dict[str, np.ndarray]:
    return {"x": np.ones((count, 10), np.uint8)}


def tensor(size: int) -> dict[str, np.ndarray]:
    return {"w": np.zeros(size, np.uint8)}


CASES = {
    "max_buffers": Case(
        lambda wire: wire.create("b2", SPEC),
        lambda wire: wire.create("b3", SPEC),
        "buffers in one data directory: received 3, the limit is 2; delete one",
    ),
    "max_parameter_sets": Case(
        lambda wire: wire.publish("p", {}),
        lambda wire: wire.publish("q", {}),
        "names of parameters: received 2, the limit is 1; reuse a name",
    ),
    "max_batch_size": Case(
        lambda wire: (wire.get("b", [0] * 20), wire.sample("b", 20)),
        lambda wire: wire.get("b", [0] * 21),
        "frames asked for at once: received 21, the limit is 20; ask for fewer",
    ),
    "max_window_entries": Case(
        lambda wire: wire.get("b", [0, 1], view=view_message(frames={"x": range(30)})),
        lambda wire: wire.get("b", [0, 1], view=view_message(frames={"x": range(31)})),
        "offsets of its longest window: received 62, the limit is 60; ask for fewer",
    ),
    "max_reply_bytes": Case(
        lambda wire: wire.get("b", [0] * 3, view=view_message(frames=WINDOWS)),
        lambda wire: wire.get("b", [0] * 6, view=view_message(frames=WINDOWS)),
        "bytes of one reply: received",
    ),
    "max_column_bytes": Case(
        lambda wire: wire.columns("b", "x"),
        lambda wire: wire.columns("b", "x", "timestamp"),
        "bytes of these columns: received 1,824, the limit is 1,000; read fewer",
    ),
    "max_episode_bytes": Case(
        lambda wire: wire.add("b", frames(50), sequence=3),
        lambda wire: wire.add("b", frames(51), sequence=4),
        "bytes of an episode: received 510, the limit is 500; split it",
    ),
    "max_parameters_bytes": Case(
        lambda wire: wire.publish("p", tensor(100)),
        lambda wire: wire.publish("p", tensor(101)),
        "bytes of parameters: received 101, the limit is 100; split it",
    ),
    "max_batches_in_flight": Case(
        lambda wire: wire.sample("b", 1, batches=3),
        lambda wire: wire.sample("b", 1, batches=4),
        "batches asked for at once: received 4, the limit is 3; ask for more when",
    ),
}


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    with LocalServer(tmp_path / "data", LIMITS) as server, Wire(server.address) as wire:
        wire.create("b", SPEC)
        wire.add("b", frames(50), frames(50))
        yield wire


@pytest.mark.parametrize("limit", CASES)
def test_limit_can_be_reached_and_not_passed(wire: Wire, limit: str) -> None:
    case = CASES[limit]
    case.fits(wire)
    with refused("RESOURCE_EXHAUSTED", "LimitExceededError", case.words):
        case.exceeds(wire)
    case.fits(wire)


# Limits that are no answer to a call; `test_connections` reaches them.
ELSEWHERE = {"max_connections", "max_streams_per_connection"}


def test_every_limit_is_tested() -> None:
    assert set(CASES) | ELSEWHERE == {field.name for field in dataclasses.fields(ServerLimits)}
