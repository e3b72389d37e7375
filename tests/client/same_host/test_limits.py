"""What is too large to be read from the server's files: the same as over the wire."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replayring
from tests.client.conftest import CAPACITY, SPEC
from tests.client.same_host.support import episode, stopped
from tests.support import ServerProcess


def test_a_read_that_is_too_large_is_refused_before_memory_is_taken(
    server: ServerProcess, buffer: replayring.Buffer
) -> None:
    with replayring.connect(server.address, same_host=True, max_reply_bytes=4096) as client:
        small = client.buffer("ring")
        for read in (
            lambda: small.sample(1000),
            lambda: small.get([0] * 1000),
            lambda: next(small.sample_stream(1000)),
        ):
            with pytest.raises(replayring.LimitExceededError, match="raise max_reply_bytes"):
                read()


LONG = {"delta_indices": {"reward": range(4096)}}
BEYOND = {
    "max_batch_size": (
        lambda buffer, kind: READS[kind](buffer, 65_537),
        "frames asked for at once: received 65,537, the limit is 65,536",
    ),
    "max_window_entries": (
        lambda buffer, kind: READS[kind](buffer, 1025, **LONG),
        "offsets of its longest window: received 4,198,400, the limit is 4,194,304",
    ),
}
READS: dict[str, Callable[..., Any]] = {
    "sample": lambda buffer, frames, **view: buffer.sample(frames, **view),
    "get": lambda buffer, frames, **view: buffer.get([0] * frames, **view),
    "stream": lambda buffer, frames, **view: first_of(buffer.sample_stream(frames, **view)),
}


def first_of(stream: replayring.SampleStream) -> dict[str, np.ndarray]:
    with stream:
        return next(stream)


@pytest.mark.parametrize("limit", BEYOND)
@pytest.mark.parametrize("kind", READS)
def test_what_the_wire_refuses_is_refused_in_the_same_words(
    server: ServerProcess, buffer: replayring.Buffer, kind: str, limit: str
) -> None:
    read, words = BEYOND[limit]
    said = []
    with replayring.connect(server.address, same_host=False) as wire:
        for one in (wire.buffer("ring"), buffer):
            with pytest.raises(replayring.LimitExceededError, match=words) as refused:
                read(one, kind)
            said.append(str(refused.value))
    assert said[0] == said[1]
    assert buffer.info().same_host
    with stopped(server):  # what fits is still the files'
        assert len(READS["get"](buffer, 65_536)["reward"]) == 65_536


@pytest.mark.parametrize("kind", READS)
def test_what_an_owner_allows_can_be_had_on_the_servers_machine_too(
    tmp_path: Path, kind: str
) -> None:
    raised = ["--limit", "max_batch_size=70000", "--limit", "max_window_entries=5000000"]
    with (
        ServerProcess(tmp_path / "data", *raised) as server,
        replayring.connect(server.address, same_host=True) as client,
    ):
        ring = client.create_buffer("ring", SPEC, CAPACITY, fps=10)
        ring.add_episode(episode(10))
        for read, _ in BEYOND.values():
            assert len(read(ring, kind)["reward"])
        assert ring.info().same_host
