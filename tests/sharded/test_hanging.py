"""A shard that hangs: its connection stands, and nothing comes. Who can do without it does."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import replayring
from replayring import shard_of
from replayring.sharded import _feed, _shard
from replayring.sharded._part import Creation
from tests.sharded.conftest import SPEC, Shards, add_to, connect
from tests.support import eventually

pytestmark = [pytest.mark.usefixtures("no_threads_left"), pytest.mark.timeout(240)]

TIMEOUT = 20.0


def test_what_others_can_answer_does_not_wait_for_it(
    shards: Shards, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Positions took all the time there was, and then failed; publishing took it each time."""
    monkeypatch.setattr(_shard, "ANSWER_SECONDS", 0.1)
    with connect(shards, timeout=TIMEOUT, same_host=False) as client:
        buffer = client.create_buffer("b", SPEC, 10_000)
        add_to(buffer, 0, 3)
        add_to(buffer, 1, 4)
        client.publish("p", {"w": [1]})
        shards.signal(0, signal.SIGSTOP)
        asking = [
            lambda: shard_of(buffer.get([0, -1])["index"]).tolist() == [1, 1],
            lambda: buffer.info().num_frames == 4,
            lambda: len(buffer.read_columns(["index"])["index"]) == 4,
            lambda: client.buffers()[0].num_frames == 4,
            lambda: client.status().shards[shards.addresses[0]] is None,
            lambda: client.publish("p", {"w": [2]}) == 2,
            lambda: client.latest("p").version in (1, 2),
            lambda: client.create_buffer("b", SPEC, 10_000).name == "b",
        ]
        with ThreadPoolExecutor(len(asking)) as pool:
            answers = [pool.submit(ask) for ask in asking]
            assert all(answer.result(TIMEOUT / 2) for answer in answers)
        assert sum("cannot be reached (it is silent" in r.message for r in caplog.records) == 1
        shards.signal(0, signal.SIGCONT)
        eventually(lambda: buffer.info().num_frames == 7, "it is found again")


def test_a_stream_does_not_wait_for_one_that_takes_long_to_give_the_buffer(
    client: replayring.ShardedClient, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one may that was away when it was opened: the first batch took the client's timeout."""
    monkeypatch.setattr(_feed, "SILENT_SECONDS", 0.1)
    buffer = client.create_buffer(name, SPEC, 3000)
    add_to(buffer, 0, 5)
    slow = buffer._parts[1]
    slow.is_open, goes_on, create = False, threading.Event(), Creation.open

    def open_slowly(creation: Creation, through: replayring.Client, timeout: float | None) -> Any:
        if through is slow.shard.hasty:
            goes_on.wait(TIMEOUT)
        return create(creation, through, timeout)

    monkeypatch.setattr(Creation, "open", open_slowly)
    with buffer.sample_stream(4, timeout=3) as stream:
        try:
            assert shard_of(next(stream)["index"]).tolist() == [0] * 4
            assert slow.shard.lost
        finally:
            goes_on.set()
        eventually(lambda: slow.is_open and not slow.shard.lost, "it is taken back")


def test_a_shard_that_is_there_and_slow_is_waited_for(
    client: replayring.ShardedClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked now and then whether it is there, and is not given up."""
    monkeypatch.setattr(_shard, "ANSWER_SECONDS", 0.001)
    looks, looked = threading.Semaphore(0), _shard.Shard.check_answering

    def look(shard: _shard.Shard) -> None:
        looked(shard)
        looks.release()

    def ask(shard: _shard.Shard) -> int:
        patience = shard.hasty._caller.patience("waiting", TIMEOUT)
        for _ in range(3 if shard.number == 1 else 0):
            assert looks.acquire(timeout=TIMEOUT)
        assert not patience.silence  # type: ignore[attr-defined]
        return shard.number

    monkeypatch.setattr(_shard.Shard, "check_answering", look)
    assert list(_shard.ask_hastily(client._shards, ask).values()) == [0, 1, 2]
