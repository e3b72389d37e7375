"""One shard lacks the buffer, as one does that was made anew without its files."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

import replayring
from replayring import RemoteDataset, shard_of
from replayring.sharded import _moving, _part
from tests.sharded.conftest import SPEC, Shards, add_to, connect, episode
from tests.sharded.test_loss import identity_of
from tests.support import eventually

pytestmark = [pytest.mark.usefixtures("no_threads_left"), pytest.mark.timeout(240)]


@pytest.fixture(params=[False, True], ids=["wire", "files"])
def same_host(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def lacking_on_second(
    shards: Shards, client: replayring.ShardedClient, *frames: int
) -> replayring.ShardedBuffer:
    """A buffer that the second of two shards does not have any more."""
    buffer = client.create_buffer("b", SPEC, 10_000)
    for shard, count in enumerate(frames):
        add_to(buffer, shard, count)
    delete_on(shards, 1)
    return buffer


def delete_on(shards: Shards, number: int) -> None:
    with replayring.connect(shards.addresses[number], timeout=20) as one:
        one.delete_buffer("b")


def test_calls_are_about_the_shards_that_have_it(shards: Shards, same_host: bool) -> None:
    with connect(shards, timeout=20, same_host=same_host) as client:
        buffer = lacking_on_second(shards, client, 3, 4)
        info = buffer.info()
        assert isinstance(info, replayring.ShardedBufferInfo)
        first, second = shards.addresses
        assert (info.num_frames, info.num_episodes, info.next_index) == (3, 1, 3)
        assert info.shards[first].num_frames == 3
        assert info.shards[second] is None
        assert list(info.missing) == [second]
        assert "no buffer of that name" in info.missing[second]
        assert [listed.missing for listed in client.buffers()] == [info.missing]
        assert len(RemoteDataset(buffer)) == 3
        assert shard_of(buffer.read_columns(["index"])["index"]).tolist() == [0, 0, 0]
        assert shard_of(buffer.get([0, -1])["index"]).tolist() == [0, 0]
        assert len(buffer.sample(5, min_frames=3)["index"]) == 5
        with pytest.raises(replayring.DeadlineError, match=r"holds 3 frames.*waits for 4"):
            buffer.sample(5, min_frames=4, timeout=0.3)
        client.create_buffer("b", SPEC, 10_000)
        assert buffer.info().missing == {}


def test_a_shard_that_is_away_is_said_to_be_that(shards: Shards) -> None:
    with connect(shards, timeout=20) as client:
        buffer = client.create_buffer("b", SPEC, 10_000)
        shards.kill(0)
        info = buffer.info()
        assert isinstance(info, replayring.ShardedBufferInfo)
        assert info.missing == {shards.addresses[0]: "it cannot be reached"}
        assert [listed.missing for listed in client.buffers()] == [info.missing]


@pytest.mark.parametrize("away", [0, 1])
def test_what_a_shard_may_have_that_is_away_is_waited_for(away: int, shards: Shards) -> None:
    """`NotFoundError` would end a learner, though the frames are back with the shard."""
    with connect(shards, timeout=20, same_host=False) as client:
        buffer = client.create_buffer("b", SPEC, 10_000)
        add_to(buffer, away, 3)
        batches = replayring.BatchDataset(buffer, 5, min_frames=3, max_staleness_frames=10)
        shards.kill(away)
        delete_on(shards, 1 - away)
        for ask in asking(buffer, 0.5):
            with pytest.raises(replayring.ServerUnavailableError, match=shards.addresses[away]):
                ask()
        revival = threading.Timer(1, shards.revive, [away])
        revival.start()
        with batches:
            assert len(next(iter(batches))["index"]) == 5
        assert buffer.info().num_frames == 3
        revival.join()
        delete_on(shards, away)
        for ask in asking(buffer, 20):
            with pytest.raises(replayring.NotFoundError, match="no buffer 'b'"):
                ask()


def asking(buffer: replayring.ShardedBuffer, timeout: float) -> list[Callable[[], object]]:
    return [
        lambda: buffer.info(timeout=timeout),
        lambda: buffer.read_columns(["index"], timeout=timeout),
        lambda: buffer.get([0], timeout=timeout),
        lambda: buffer.sample(4, timeout=timeout),
        lambda: buffer.sample(4, min_frames=2, timeout=timeout),
        lambda: a_batch_of_a_stream(buffer, min_frames=1, timeout=timeout),
        lambda: a_batch_of_a_stream(buffer, min_frames=2, timeout=timeout),
    ]


def a_batch_of_a_stream(buffer: replayring.ShardedBuffer, **options: Any) -> object:
    with buffer.sample_stream(4, **options) as stream:
        return next(stream)


def notice_by_adding(buffer: replayring.ShardedBuffer) -> None:
    with pytest.raises(replayring.NotFoundError, match="'b'"):
        buffer.add_episode(episode(2))


def notice_by_a_stream(buffer: replayring.ShardedBuffer) -> None:
    with buffer.sample_stream(4) as stream:
        next(stream)


def notice_by_a_writer(buffer: replayring.ShardedBuffer) -> None:
    """The next writer went there again, and its episodes were dropped as well."""
    lose_an_episode(buffer.writer(writer_id=buffer._identity[1]))


def notice_by_one_that_moves(buffer: replayring.ShardedBuffer) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_moving, "new_writer_id", lambda: buffer._identity[1])
        lose_an_episode(buffer.writer(on_outage="move"))


def lose_an_episode(writer: replayring.Writer) -> None:
    with writer:
        writer.add_episode(episode(2))
        with pytest.raises(replayring.NotFoundError, match="'b'"):
            writer.flush()


NOTICE = {
    "adding": notice_by_adding,
    "a writer": notice_by_a_writer,
    "a writer that moves": notice_by_one_that_moves,
    "info": replayring.ShardedBuffer.info,
    "a batch": lambda buffer: buffer.sample(4),
    "a stream": notice_by_a_stream,
}


@pytest.mark.parametrize("notice", NOTICE.values(), ids=NOTICE)
def test_episodes_go_to_the_shard_that_has_it(
    notice: Callable[[replayring.ShardedBuffer], object], shards: Shards
) -> None:
    with connect(shards, timeout=20) as client:
        buffer = client.create_buffer("b", SPEC, 10_000)
        home = shard_of(buffer.add_episode(episode(2)).index)
        add_to(buffer, 1 - home, 2)
        delete_on(shards, home)
        notice(buffer)
        for _ in range(3):
            assert shard_of(buffer.add_episode(episode(2)).index) == 1 - home
        for options in ({}, {"on_outage": "move"}) * 4:
            with buffer.writer(**options) as writer:
                writer.add_episode(episode(2))
                writer.flush()
                assert writer.last_acknowledgement is not None
                assert shard_of(writer.last_acknowledgement.index) == 1 - home
        assert buffer.info().num_frames == 2 * (1 + 3 + 8)


@pytest.mark.parametrize("how", ["it was deleted there", "it was away"])
def test_who_only_adds_goes_back_to_a_shard_that_has_it_again(
    how: str, shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody asked it any more, so that all went to the others for good."""
    monkeypatch.setattr(_part, "LOOK_SECONDS", 0.2)
    if how == "it was away":
        shards.kill(1)
    with connect(shards, timeout=20) as client:
        buffer = client.create_buffer("b", SPEC, 10_000)
        buffer._identity = (os.getpid(), identity_of(shards, 1))
        if how == "it was away":
            shards.revive(1)
        else:
            delete_on(shards, 1)
            notice_by_adding(buffer)
            with connect(shards, timeout=20) as another:
                another.create_buffer("b", SPEC, 10_000)
        eventually(lambda: shard_of(buffer.add_episode(episode(2)).index) == 1, "it goes there")


def test_no_batch_seems_fresher_than_it_is(shards: Shards, same_host: bool) -> None:
    """Info counts a shard that lacks the buffer no more, nor what it held once it has another."""
    with connect(shards, timeout=20, same_host=same_host) as client:
        buffer = client.create_buffer("b", SPEC, 10_000)
        add_to(buffer, 0, 100)
        add_to(buffer, 1, 200)
        with buffer.sample_stream(16, in_flight=4) as stream:
            eventually(lambda: shown_by(stream, 300) == 300, "batches of both")
            delete_on(shards, 1)
            assert buffer.info().next_index == 100
            eventually(lambda: shown_by(stream, 100) == 100, "batches of the first")
            eventually(lambda: 1 not in shard_of(next(stream)["index"]), "its frames are gone")
            client.create_buffer("b", SPEC, 10_000)
            add_to(buffer, 1, 10, number=7)
            assert buffer.info().next_index == 110
            eventually(lambda: shown_by(stream, 110) == 110, "batches of both again")


def test_a_stream_that_takes_it_back_counts_it(shards: Shards) -> None:
    with connect(shards, timeout=20) as client:
        buffer = lacking_on_second(shards, client, 100, 200)
        assert buffer.info().next_index == 100
        client.create_buffer("b", SPEC, 10_000)
        add_to(buffer, 1, 10)
        with buffer.sample_stream(16) as stream:
            eventually(lambda: shown_by(stream, 110) == 110, "batches of both")


def shown_by(stream: replayring.SampleStream, most: int) -> int:
    """Takes a batch; returns how many frames it says it was drawn from, at most so many."""
    next(stream)
    assert stream.next_index is not None
    assert stream.next_index <= most
    return stream.next_index
