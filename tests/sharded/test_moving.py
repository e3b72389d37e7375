"""A writer that may move goes on at another shard when its own is away for too long."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import replayring
from replayring import shard_of
from replayring.sharded._moving import MovingSender, _Movable
from replayring.sharded._part import Part
from tests.sharded.conftest import SPEC, Shards, connect, episode
from tests.support import PATIENCE, eventually

pytestmark = [pytest.mark.usefixtures("no_threads_left"), pytest.mark.timeout(240)]


@contextmanager
def movable(
    shards: Shards, capacity: int = 10_000
) -> Iterator[tuple[replayring.ShardedBuffer, replayring.Writer]]:
    """A buffer, and a writer to it that moves."""
    with connect(shards, timeout=20) as client:
        buffer = client.create_buffer("b", SPEC, capacity)
        with buffer.writer(on_outage="move", move_after_s=0.2) as writer:
            yield buffer, writer


def test_a_writer_that_moves_tells_of_it_and_goes_on_numbering(
    shards: Shards, caplog: pytest.LogCaptureFixture
) -> None:
    with movable(shards) as (buffer, writer):
        assert [writer.add_episode(episode(5, n)) for n in (1, 2)] == [1, 2]
        writer.flush()
        first, identity = home_of(writer), writer.writer_id
        shards.kill(first)
        assert [writer.add_episode(episode(5, n)) for n in (3, 4)] == [3, 4]
        eventually(lambda: writer.acknowledged == 4, "it has moved")
        assert writer.writer_id != identity
        assert writer.pending == []
        assert writer.add_episode(episode(5, 5)) == 5
        writer.flush()
        assert home_of(writer) == 1 - first
        assert "goes on as" in caplog.text
        shards.revive(first)
        eventually(lambda: buffer.info().num_frames == 25, "all are there, once")


def test_episodes_that_are_put_while_a_writer_moves_have_the_next_sequences(
    shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    put: list[int] = []
    with movable(shards) as (buffer, writer):
        first = home_after_one(writer)
        end = _Movable.end

        def put_then_end(sender: _Movable) -> None:
            while sender.writer_id == identity and len(put) < 3:
                put.append(writer.add_episode(episode(5, 3 + len(put))))
            end(sender)

        identity = writer.writer_id
        monkeypatch.setattr(_Movable, "end", put_then_end)
        shards.kill(first)
        assert writer.add_episode(episode(5, 2)) == 2
        eventually(lambda: writer.acknowledged == 5, "it has moved")
        assert put == [3, 4, 5]
        assert writer.add_episode(episode(5, 6)) == 6
        writer.flush()
        assert home_of(writer) == 1 - first
        assert writer.last_acknowledgement.sequence == 6
        stored = buffer.read_columns(["number"])["number"]
        assert stored.tolist() == [n for n in (2, 3, 4, 5, 6) for _ in range(5)]


@pytest.fixture
def may_move(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Writers do not move before it is set."""
    ready, move = threading.Event(), MovingSender._move

    def move_when_ready(sender: MovingSender, old: _Movable) -> None:
        assert ready.wait(PATIENCE)
        move(sender, old)

    monkeypatch.setattr(MovingSender, "_move", move_when_ready)
    return ready


def test_a_writer_that_moves_makes_the_buffer_where_it_never_was(shards: Shards) -> None:
    """It was away when the buffer was opened. What was sent there was told to be lost."""
    shards.kill(1)
    with connect(shards, timeout=20) as client:
        buffer = client.create_buffer("b", SPEC, 10_000)
        shards.revive(1)
        shards.kill(0)
        with pytest.raises(replayring.ServerUnavailableError):
            client._shards[0].hasty.status()
        eventually(lambda: not client._shards[1].lost, "it is back")
        for _ in range(4):  # of half of the identities it is the home
            with buffer.writer(on_outage="move", move_after_s=0.1) as writer:
                writer.add_episode(episode(5, 1))
                writer.flush()
                assert home_of(writer) == 1


def test_a_writer_that_finds_no_shard_that_has_the_buffer_looks_again_and_stays(
    shards: Shards, may_move: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that is sent to one that lacks it is dropped. Its own is back later, or another one."""
    looked = threading.Semaphore(0)
    with movable(shards) as (buffer, writer):
        first = home_after_one(writer)
        with connect_to(shards, 1 - first) as one:
            one.delete_buffer("b")
        buffer.info()
        elsewhere = MovingSender._elsewhere

        def look_elsewhere(sender: MovingSender, away: Part) -> _Movable | None:
            found = elsewhere(sender, away)
            looked.release()
            return found

        monkeypatch.setattr(MovingSender, "_elsewhere", look_elsewhere)
        shards.kill(first)
        assert writer.add_episode(episode(5, 2)) == 2
        may_move.set()
        for _ in range(3):
            assert looked.acquire(timeout=PATIENCE)
        shards.revive(first)
        writer.flush()
        assert (writer.acknowledged, home_of(writer)) == (2, first)


@pytest.mark.parametrize("refused", ["one", "all"])
def test_a_writer_that_moves_survives_what_the_new_shard_refuses(
    refused: str, shards: Shards, may_move: threading.Event
) -> None:
    """So many wait that the refusal would come while they are still put, one after the other."""
    waiting = 5000
    with movable(shards, 20_000) as (_, writer):
        first = home_after_one(writer)
        with connect_to(shards, 1 - first) as one:
            one.delete_buffer("b")
            if refused == "one":  # that of 9,000 frames
                one.create_buffer("b", SPEC, 8000)
        shards.kill(first)
        assert writer.add_episode(episode(9000, 2)) == 2
        for number in range(3, 3 + waiting):
            assert writer.add_episode(episode(1, number)) == number
        may_move.set()
        with pytest.raises(replayring.ReplayRingError, match=r"sequences? 2 .*not stored"):
            writer.flush()
        if refused == "all":
            with connect_to(shards, 1 - first) as one:
                one.create_buffer("b", SPEC, 8000)
        assert writer.add_episode(episode(1, 3 + waiting)) == 3 + waiting
        writer.flush()
        sent = [*(range(3, 3 + waiting) if refused == "one" else ()), 3 + waiting]
        assert writer.acknowledged == 1 + len(sent)
        with connect_to(shards, 1 - first) as one:
            assert one.buffer("b").read_columns(["number"])["number"].tolist() == sent


def test_what_the_old_shard_refused_is_told_after_the_move(
    shards: Shards, may_move: threading.Event
) -> None:
    with movable(shards) as (_, writer):
        first = home_after_one(writer)
        shards.kill(first)
        writer.add_episode(episode(5, 2))
        refusal = replayring.InvalidEpisodeError("sequence 1 of it not stored")
        writer._sender._sender._errors.append(refusal)
        may_move.set()
        eventually(lambda: writer.acknowledged == 2, "it has moved")
        with pytest.raises(replayring.InvalidEpisodeError, match="sequence 1 of it"):
            writer.flush()
        writer.flush()


def ends_when_sent_to(shard: int, shards: Shards) -> None:
    with connect_to(shards, shard) as one:
        eventually(lambda: one.buffer("b").info().num_frames == 5, "it is sent")
    eventually(lambda: not at_work(), "its threads have ended")


def test_a_writer_that_nobody_closed_ends_when_all_is_sent_elsewhere(
    shards: Shards, may_move: threading.Event
) -> None:
    with connect(shards, timeout=20) as client:
        writer = moving(client)
        first = home_after_one(writer)
        shards.kill(first)
        writer.add_episode(episode(5, 2))
        with pytest.warns(ResourceWarning, match="never closed"):
            del writer
        may_move.set()
        ends_when_sent_to(1 - first, shards)


def test_a_writer_that_is_let_go_in_the_middle_of_a_move_ends_as_well(
    shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(shards, timeout=20) as client:
        writer = moving(client)
        first = home_after_one(writer)
        take_over, left = _Movable.take_over, [writer]

        def take_over_what_is_let_go(new: _Movable, old: _Movable) -> None:
            take_over(new, old)
            with pytest.warns(ResourceWarning, match="never closed"):
                left.clear()

        monkeypatch.setattr(_Movable, "take_over", take_over_what_is_let_go)
        shards.kill(first)
        writer.add_episode(episode(5, 2))
        del writer
        ends_when_sent_to(1 - first, shards)


def test_what_a_closed_writer_has_not_got_acknowledged_is_not_sent_later(
    shards: Shards, may_move: threading.Event
) -> None:
    with connect(shards, timeout=20) as client:
        writer = moving(client, timeout=0.5)
        first = home_after_one(writer)
        shards.kill(first)
        writer.add_episode(episode(5, 2))
        eventually(lambda: "replayring mover" in at_work(), "it is about to move")
        with pytest.raises(replayring.ServerUnavailableError, match="sequence 2 may be lost"):
            writer.close()
        may_move.set()
        eventually(lambda: not at_work(), "its threads have ended")
        assert writer.pending == [2]
        with connect_to(shards, 1 - first) as one:
            assert one.buffer("b").info().num_frames == 0


def test_a_move_between_the_end_of_the_time_and_the_error_is_ended(
    shards: Shards, may_move: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(shards, timeout=20) as client:
        writer = moving(client, timeout=0.5)
        shards.kill(home_after_one(writer))
        writer.add_episode(episode(5, 2))
        eventually(lambda: "replayring mover" in at_work(), "it is about to move")
        close = _Movable.close

        def close_then_move(sender: _Movable) -> None:
            try:
                close(sender)
            finally:
                may_move.set()
                eventually(lambda: "replayring mover" not in at_work(), "it has moved")

        monkeypatch.setattr(_Movable, "close", close_then_move)
        with pytest.raises(replayring.ServerUnavailableError, match="sequence 2 may be lost"):
            writer.close()
        assert at_work() == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_client_that_is_closed_as_a_move_begins_ends_it_quietly(
    when: str, shards: Shards, may_move: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the sender at the new shard is made, or after; an error in a thread fails a test."""
    client = connect(shards, timeout=20)
    writer = moving(client)
    shards.kill(home_after_one(writer))
    writer.add_episode(episode(5, 2))
    eventually(lambda: "replayring mover" in at_work(), "it is about to move")
    elsewhere = MovingSender._elsewhere

    def begin_then_close(sender: MovingSender, away: Part) -> _Movable | None:
        begun = elsewhere(sender, away)
        client.close()
        return begun

    if when == "before":
        client.close()
    else:
        monkeypatch.setattr(MovingSender, "_elsewhere", begin_then_close)
    may_move.set()
    eventually(lambda: not at_work(), "its threads have ended")
    with pytest.raises(replayring.ClosedError, match="sequence 2 may be lost"):
        writer.close()


def moving(client: replayring.ShardedClient, timeout: float | None = None) -> replayring.Writer:
    """Returns a writer to a new buffer, which moves soon; nobody closes it."""
    buffer = client.create_buffer("b", SPEC, 10_000)
    return buffer.writer(on_outage="move", move_after_s=0.2, timeout=timeout)


def at_work() -> list[str]:
    """Returns the names of the threads of writers."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name in ("replayring writer", "replayring mover")]


def connect_to(shards: Shards, number: int) -> replayring.Client:
    client = replayring.connect(shards.addresses[number], timeout=60)
    assert isinstance(client, replayring.Client)
    return client


def home_after_one(writer: replayring.Writer) -> int:
    """Returns the shard that a writer writes to, once that has acknowledged a first episode."""
    writer.add_episode(episode(5, 1))
    writer.flush()
    return home_of(writer)


def home_of(writer: replayring.Writer) -> int:
    """Returns the shard that has acknowledged last."""
    last = writer.last_acknowledgement
    assert last is not None
    return int(shard_of(last.index))
