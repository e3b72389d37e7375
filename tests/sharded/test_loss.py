"""A shard dies under load and returns: the others carry on, and nothing acknowledged is lost."""

from __future__ import annotations

import itertools
import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import pytest

import replayring
from replayring import shard_of
from replayring.sharded._names import ranking
from tests.sharded.conftest import (
    SPEC,
    Draws,
    Shards,
    add_to,
    connect,
    episode,
    in_a_stream,
    one_by_one,
)
from tests.support import eventually

pytestmark = [pytest.mark.usefixtures("no_threads_left"), pytest.mark.timeout(240)]


def identity_of(shards: Shards, number: int) -> str:
    """Returns a writer's identity that belongs to a shard."""
    return next(f"w{i}" for i in count() if ranking(f"w{i}", shards.addresses)[0] == number)


@pytest.mark.parametrize("draws", [in_a_stream, one_by_one])
@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_the_learner_goes_on_within_two_seconds_and_takes_the_shard_back(
    how: str, draws: Draws, shards: Shards, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(shards) as client:
        buffer = client.create_buffer("b", SPEC, 10_000)
        add_to(buffer, 0, 100)
        add_to(buffer, 1, 100)
        with draws(buffer, 32) as stream:
            eventually(lambda: both_in(stream), "both shards are drawn from")
            shards.kill(0) if how == "kill" else shards.signal(0, signal.SIGSTOP)
            longest, until = 0.0, time.monotonic() + 4
            while time.monotonic() < until:
                begun = time.monotonic()
                batch = next(stream)
                longest = max(longest, time.monotonic() - begun)
            assert set(shard_of(batch["index"])) == {1}
            assert longest < 2
            shards.revive(0) if how == "kill" else shards.signal(0, signal.SIGCONT)
            eventually(lambda: both_in(stream), "it is taken back")
    away = [r.message for r in caplog.records if "cannot be reached" in r.message]
    back = [r.message for r in caplog.records if "is back after" in r.message]
    assert len(away) == len(back) == 1, caplog.text
    assert shards.addresses[0] in away[0]


def both_in(stream: Iterator[dict[str, np.ndarray]]) -> bool:
    return len(set(shard_of(next(stream)["index"]))) == 2


@pytest.mark.parametrize("on_outage", ["wait", "move"])
def test_everything_goes_on_while_one_is_killed_again_and_again(
    on_outage: str, shards: Shards
) -> None:
    """Writers to both shards, a learner, an adder; every episode tells its number."""
    client = connect(shards)
    buffer = client.create_buffer("b", SPEC, 2_000_000)  # nothing is to be overwritten
    stop, errors, numbers = threading.Event(), [], count()
    written: list[list[int]] = [[], [], []]
    batches = [0]

    def write(place: int) -> None:
        options = (
            {"writer_id": identity_of(shards, place)}
            if on_outage == "wait"
            else {"on_outage": "move", "move_after_s": 0.3}
        )
        with buffer.writer(max_in_flight_bytes=1 << 16, timeout=60, **options) as writer:
            while not stop.is_set():
                number = next(numbers)
                writer.add_episode(episode(20, number))
                written[place].append(number)
                time.sleep(0.001)  # an actor's pace
            writer.flush()
            assert writer.acknowledged == len(written[place])

    def add() -> None:
        while not stop.is_set():
            number = next(numbers)
            buffer.add_episode(episode(20, number), timeout=60)
            written[2].append(number)

    def learn() -> None:
        with buffer.sample_stream(32) as stream:
            while not stop.is_set():
                next(stream)
                batches[0] += 1

    def guarded(use: Callable[[], None]) -> None:
        try:
            use()
        except BaseException as error:
            errors.append(repr(error))

    uses = [lambda: write(0), lambda: write(1), add, learn]
    threads = [threading.Thread(target=guarded, args=(use,)) for use in uses]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            for victim in (0, 1):
                before = batches[0], len(written[2])
                go_on = partial(gone_on, errors, batches, written, before)
                eventually(go_on, "all carry on")
                shards.kill(victim)
                time.sleep(0.6)  # long enough to be away, and to move
                shards.revive(victim)
    finally:
        stop.set()
        for thread in threads:
            thread.join(120)
    assert errors == []
    eventually(partial(both_listed, buffer), "both are there")
    stored = buffer.read_columns(["number", "frame_index"])
    seen, times = np.unique(stored["number"], return_counts=True)
    assert set(seen.tolist()) >= {number for part in written for number in part}
    assert (times % 20 == 0).all(), "whole episodes"
    if on_outage == "wait":
        kept = np.isin(seen, [number for part in written[:2] for number in part])
        assert (times[kept] == 20).all(), "a writer's are there exactly once"
    client.close()


def gone_on(
    errors: list[str], batches: list[int], written: list[list[int]], before: tuple[int, int]
) -> bool:
    return bool(errors) or (batches[0] > before[0] + 5 and len(written[2]) > before[1])


def test_a_writer_that_waits_has_its_episodes_stored_once(shards: Shards) -> None:
    with connect(shards, timeout=20) as client:
        buffer = client.create_buffer("b", SPEC, 10_000)
        with buffer.writer(writer_id=identity_of(shards, 1)) as writer:
            writer.add_episode(episode(5, 1))
            writer.flush()
            shards.kill(1)
            writer.add_episode(episode(5, 2))
            assert writer.pending == [2]
            assert buffer.info().num_frames == 0, "of what can be reached"
            shards.revive(1)
        assert buffer._parts[1].buffer.info().num_frames == 10
        eventually(lambda: buffer.info().num_frames == 10, "and it is listed again")


def test_a_spill_directory_knows_its_shard(shards: Shards, tmp_path: Path) -> None:
    spill = tmp_path / "spill"
    with connect(shards, timeout=2) as client:
        buffer = client.create_buffer("b", SPEC, 10_000)
        writer = buffer.writer(
            writer_id=identity_of(shards, 1), spill_dir=spill, max_in_flight_bytes=1
        )
        writer.add_episode(episode(5, 1))
        writer.flush(20)
        shards.kill(1)
        for number in (2, 3):
            writer.add_episode(episode(5, number))
        with pytest.raises(replayring.ServerUnavailableError):
            writer.close()
    with replayring.connect([shards.addresses[0], "127.0.0.1:1"], timeout=2) as other:
        elsewhere = other.buffer("b")
        with pytest.raises(replayring.InvalidRequestError, match=shards.addresses[1]):
            elsewhere.writer(spill_dir=spill)
    shards.revive(1)
    with connect(shards) as client, client.buffer("b").writer(spill_dir=spill) as writer:
        writer.flush()
        last = writer.last_acknowledgement
        assert last is not None
        assert (shard_of(last.index), last.sequence) == (1, 3)


def test_new_writers_belong_to_shards_that_can_be_reached(shards: Shards) -> None:
    with connect(shards, timeout=20) as client:
        buffer = client.create_buffer("b", SPEC, 10_000)
        shards.kill(0)
        eventually(lambda: buffer.info().shards[shards.addresses[0]] is None, "it is missed")
        for _ in range(5):
            with buffer.writer() as writer:
                writer.add_episode(episode(2))
        buffer.add_episode(episode(2))
        assert buffer.info().num_frames == 12


def test_who_only_adds_goes_back_to_a_shard_that_is_back(shards: Shards) -> None:
    with connect(shards, timeout=20) as client:
        buffer = client.create_buffer("b", SPEC, 10_000)
        home = shard_of(buffer.add_episode(episode(2)).index)
        shards.kill(home)
        with pytest.raises(replayring.ServerUnavailableError):
            buffer.add_episode(episode(2), timeout=1)
        assert shard_of(buffer.add_episode(episode(2)).index) == 1 - home
        shards.revive(home)
        eventually(
            lambda: shard_of(buffer.add_episode(episode(2)).index) == home, "it is added to again"
        )


def test_while_one_is_away_calls_are_about_the_other(shards: Shards) -> None:
    with connect(shards, timeout=20) as client:
        buffer = client.create_buffer("b", SPEC, 10_000)
        add_to(buffer, 0, 3)
        add_to(buffer, 1, 4)
        shards.kill(0)
        begun = time.monotonic()
        info = buffer.info()
        assert (info.num_frames, info.shards[shards.addresses[0]]) == (4, None)
        assert len(buffer.read_columns(["index"])["index"]) == 4
        assert shard_of(buffer.get([0, -1])["index"]).tolist() == [1, 1]
        assert [one.num_frames for one in client.buffers()] == [4]
        assert len(buffer.sample(5)["index"]) == 5
        assert time.monotonic() - begun < 4
        with pytest.raises(replayring.ServerUnavailableError, match=shards.addresses[0]):
            buffer.get(indices=[0], timeout=0.5)
        shards.revive(0)
        eventually(lambda: buffer.info().num_frames == 7, "it is found again")


@pytest.mark.parametrize("same_host", [False, True], ids=["wire", "files"])
def test_a_batch_counts_the_shards_that_info_counts(same_host: bool, shards: Shards) -> None:
    """Or it would seem too fresh: the files of a shard that is away are still read."""
    with connect(shards, timeout=20, same_host=same_host) as client:
        buffer = client.create_buffer("b", SPEC, 10_000)
        add_to(buffer, 0, 100)
        add_to(buffer, 1, 200)
        with buffer.sample_stream(16, in_flight=2) as stream:
            assert shown_after(stream, 300)
            shards.kill(1)
            eventually(lambda: not both_listed(buffer), "it is missed")
            next(stream)
            assert stream.next_index == buffer.info().next_index == 100
            add_to(buffer, 0, 50)
            assert shown_after(stream, buffer.info().next_index)
            shards.revive(1)
            eventually(lambda: both_listed(buffer), "it is found again")
            assert shown_after(stream, buffer.info().next_index)


def shown_after(stream: replayring.SampleStream, added: int) -> bool:
    """Whether batches soon show all frames that were added, and none shows more."""

    def shown() -> bool:
        next(stream)
        assert stream.next_index is not None
        assert stream.next_index <= added
        return stream.next_index == added

    return bool(eventually(shown, f"a batch of {added} frames"))


def test_when_all_are_away_calls_end_with_their_time_and_streams_go_on(shards: Shards) -> None:
    with connect(shards, timeout=1) as client:
        buffer = client.create_buffer("b", SPEC, 10_000, timeout=30)
        add_to(buffer, 0, 3)
        with buffer.sample_stream(4) as stream:
            next(stream)
            shards.kill(0)
            shards.kill(1)
            with pytest.raises(replayring.ServerUnavailableError):
                deque(itertools.islice(stream, 1000), maxlen=0)
            with pytest.raises(replayring.ServerUnavailableError, match=r"within (0\.9\d*|1) s \("):
                buffer.info()
            shards.revive(0)
            eventually(lambda: batch_or_none(stream), "a batch")


def batch_or_none(stream: replayring.SampleStream) -> object:
    try:
        return next(stream)
    except replayring.ServerUnavailableError:
        return None


def test_a_shard_that_is_away_at_creation_gets_the_buffer_later(
    shards: Shards, caplog: pytest.LogCaptureFixture
) -> None:
    shards.kill(1)
    with connect(shards, timeout=20) as client:
        buffer = client.create_buffer("b", SPEC, 10_000)
        assert f"opened without {shards.addresses[1]}" in caplog.text
        add_to(buffer, 0, 3)
        with buffer.sample_stream(4) as stream:
            next(stream)
            shards.revive(1)
            eventually(lambda: len(buffer.info().shards) == 2 and both_listed(buffer), "it has it")
            add_to(buffer, 1, 300)
            eventually(lambda: 1 in shard_of(next(stream)["index"]), "it is drawn from")


def both_listed(buffer: replayring.ShardedBuffer) -> bool:
    info = buffer.info()
    assert isinstance(info, replayring.ShardedBufferInfo)
    return None not in info.shards.values()


def test_parameters_survive_the_loss_of_any_shard(shards: Shards) -> None:
    with connect(shards, timeout=20) as client, connect(shards, timeout=20) as actor:
        versions = actor.watch("p", timeout=0.05)
        for _ in range(2):  # it goes on
            with pytest.raises(replayring.DeadlineError):
                next(versions)
        versions = actor.watch("p", timeout=20)
        assert client.publish("p", {"w": [1]}) == 1
        assert next(versions).tensors["w"].tolist() == [1]
        seen = 1
        for victim in (0, 1, 0):
            shards.kill(victim)
            for value in (10 * seen, 10 * seen + 1):
                published = client.publish("p", {"w": [value]})
                assert published > seen
                version, tensors = next(versions)
                assert (version, tensors["w"].tolist()) == (published, [value])
                seen = version
            assert client.latest("p").version == seen
            shards.revive(victim)
            eventually(lambda: not any(s.lost for s in client._shards), "it is found again")
        with connect(shards, timeout=20) as another:
            assert another.publish("p", {"w": [0]}) == seen + 1, "another publisher counts on"
            assert {s.client.latest("p").version for s in another._shards} == {seen + 1}


def test_the_log_is_quiet_about_shards_that_are_there(
    shards: Shards, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), connect(shards) as client:
        buffer = client.create_buffer("b", SPEC, 100)
        with buffer.writer() as writer:
            writer.add_episode(episode(3))
        buffer.sample(4)
        client.publish("p", {})
        client.latest("p")
    assert caplog.text == ""
