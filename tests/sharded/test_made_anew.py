"""A shard's buffer is made anew at its address: as it was, or with another spec."""

from __future__ import annotations

import itertools
import shutil
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import replayring
from replayring import shard_of
from tests.sharded.conftest import SPEC, Shards, add_to, connect, episode
from tests.support import eventually

pytestmark = [pytest.mark.usefixtures("no_threads_left"), pytest.mark.timeout(240)]


def delete_on_second(shards: Shards) -> None:
    with replayring.connect(shards.addresses[1], timeout=20) as one:
        one.delete_buffer("b")


def lose_the_disk_of_second(shards: Shards) -> None:
    shards.kill(1)
    shutil.rmtree(shards.servers[1].data_dir / "b")
    shards.revive(1)


def make_anew_on_second(shards: Shards, spec: dict[str, Any] = SPEC, capacity: int = 5000) -> None:
    """Makes it and adds 10 frames, by a client of that shard alone."""
    with replayring.connect(shards.addresses[1], timeout=20) as one:
        anew = one.create_buffer("b", spec, capacity)
        anew.add_episode({key: np.full((10, *of["shape"]), 7) for key, of in spec.items()})


@pytest.mark.parametrize("same_host", [False, True], ids=["wire", "files"])
@pytest.mark.parametrize("lose", [delete_on_second, lose_the_disk_of_second])
def test_a_stream_forgets_the_frames_of_the_buffer_before(
    lose: Callable[[Shards], None], same_host: bool, shards: Shards
) -> None:
    """Though no call of it need have met the time between: `index` names other frames now."""
    with connect(shards, timeout=20, same_host=same_host) as client:
        buffer = client.create_buffer("b", SPEC, 10_000)
        add_to(buffer, 0, 100)
        add_to(buffer, 1, 200, number=1)
        with buffer.sample_stream(16, in_flight=8) as stream:
            for _ in range(10):
                next(stream)
            lose(shards)
            make_anew_on_second(shards)
            eventually(lambda: buffer.info().next_index == 110, "it is counted")
            seen: set[int] = set()

            def draw(batches: int) -> set[int]:
                for _ in range(batches):
                    seen.update(next(stream)["number"].tolist())
                    assert stream.next_index is not None
                    assert stream.next_index <= 110
                return seen

            draw(200)
            # The shard may come back to the stream only after so many: nothing waits for it.
            eventually(lambda: 7 in draw(1), "its new frames come")
            assert seen == {0, 7}


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "a shape that broadcasts": ({**SPEC, "state": {"shape": (1,), "dtype": "float32"}}, "state"),
    "a dtype that casts": ({**SPEC, "number": {"shape": (), "dtype": "int32"}}, "number"),
    "a column less": ({"number": SPEC["number"]}, "state"),
}

ASK: dict[str, Callable[[replayring.ShardedBuffer], object]] = {
    "sample": lambda buffer: buffer.sample(64),
    "get": lambda buffer: buffer.get(indices=[0, 1 << 48]),
    "read_columns": lambda buffer: buffer.read_columns(["number", "timestamp"]),
    "info": lambda buffer: buffer.info(),
    "positions": lambda buffer: buffer.get([0, -1]),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_frames_of_another_spec_are_mixed_with_none(
    other: tuple[dict[str, Any], str], shards: Shards
) -> None:
    """They were cast and broadcast silently, or ended in numpy's errors."""
    spec, column = other
    with connect(shards, timeout=20, same_host=False) as client:
        buffers = {name: client.create_buffer("b", SPEC, 10_000) for name in [*ASK, "stream"]}
        add_to(buffers["get"], 0, 100)
        add_to(buffers["get"], 1, 200)
        for buffer in buffers.values():
            buffer.sample(64)
        with buffers["stream"].sample_stream(16, in_flight=2) as stream:
            next(stream)
            delete_on_second(shards)
            make_anew_on_second(shards, spec)
            told = f"{shards.addresses[1]} is not as on the other shards.*{column}"
            for name, ask in ASK.items():
                if name != "read_columns" or column == "number":
                    with pytest.raises(replayring.InvalidSpecError, match=told):
                        ask(buffers[name])
            with pytest.raises(replayring.InvalidSpecError, match=told):
                deque(itertools.islice(stream, 1000), maxlen=0)


def test_a_capacity_of_its_own_is_told_once_the_shard_is_looked_at(shards: Shards) -> None:
    with connect(shards, timeout=20) as client:
        buffer = client.create_buffer("b", SPEC, 10_000)
        add_to(buffer, 0, 100)
        delete_on_second(shards)
        make_anew_on_second(shards, capacity=77)
        with pytest.raises(replayring.InvalidSpecError, match=r"capacity 77 \(elsewhere: 5,000\)"):
            buffer.info()
        delete_on_second(shards)
        client.create_buffer("b", SPEC, 10_000)
        add_to(buffer, 1, 10)
        assert buffer.info().num_frames == 110


def test_episodes_added_meanwhile_are_drawn(shards: Shards) -> None:
    """The control: what is made anew as it was is taken back by every call."""
    with connect(shards, timeout=20, same_host=False) as client:
        buffer = client.create_buffer("b", SPEC, 10_000)
        add_to(buffer, 0, 100)
        delete_on_second(shards)
        make_anew_on_second(shards)
        assert set(shard_of(buffer.sample(1000)["index"])) == {0, 1}
        assert buffer.get(indices=[0, (1 << 48) + 9])["number"].tolist() == [0, 7]
        assert len(buffer.read_columns(["state"])["state"]) == 110
        buffer.add_episode(episode(2))
