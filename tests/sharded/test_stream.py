"""Sampling over real shards: shares, waiting, identity, freshness."""

from __future__ import annotations

import itertools
import re
import threading
from collections import deque
from typing import Any

import numpy as np
import pytest

import replayring
from replayring import _replies, shard_of
from replayring.sharded import _one_batch
from replayring_proto.pack import PackAssembler
from tests.sharded.conftest import SPEC, Draws, Shards, add_to, in_a_stream, one_by_one
from tests.support import eventually

ADDED = {"equal": (300, 300, 300), "1:10:100": (5, 50, 500), "two empty": (0, 0, 40)}


@pytest.fixture(params=[False, True], ids=["wire", "files"])
def buffer(
    request: pytest.FixtureRequest, calm_shards: Shards, name: str, no_threads_left: None
) -> object:
    """A buffer on three shards, over the wire and from files."""
    with replayring.connect(calm_shards.address, same_host=request.param, timeout=20) as client:
        name += "-files" if request.param else "-wire"
        yield client.create_buffer(name, {"number": {"shape": (), "dtype": "int64"}}, 3000)


def fill(buffer: replayring.ShardedBuffer, *frames: int) -> None:
    for shard, count in enumerate(frames):
        if count:
            buffer._parts[shard].buffer.add_episode({"number": np.arange(count)})


@pytest.mark.parametrize("draws", [in_a_stream, one_by_one])
@pytest.mark.parametrize("drop", [0, 3])
@pytest.mark.parametrize("added", ADDED.values(), ids=ADDED)
def test_shards_give_their_shares_of_eligible_frames(
    buffer: replayring.ShardedBuffer, added: tuple[int, ...], drop: int, draws: Draws
) -> None:
    fill(buffer, *added)
    eligible = np.maximum(np.array(added) - drop, 0)
    with draws(buffer, 100, drop_n_last_frames=drop) as stream:
        drawn = np.concatenate([next(stream)["index"] for _ in range(100)])
    counts = np.bincount(shard_of(drawn), minlength=3)
    shares = eligible / eligible.sum()
    assert (np.abs(counts - 10_000 * shares) <= 6 * np.sqrt(10_000 * shares * (1 - shares))).all()
    assert (np.bincount(drawn & ((1 << 48) - 1), minlength=1) > 0).sum() == eligible.max()


def test_a_shard_that_fills_is_drawn_from_as_it_fills(buffer: replayring.ShardedBuffer) -> None:
    """Its old blocks, of when it was small, are not used for longer than was promised."""
    fill(buffer, 1, 900, 0)
    with buffer.sample_stream(50, in_flight=4) as stream:
        for _ in range(30):
            next(stream)
        for _ in range(9):
            fill(buffer, 100, 0, 100)
        # How soon an empty shard says that it is none any more is a matter of time, not of batches.
        eventually(lambda: 2 in shard_of(next(stream)["index"]), "frames of the third shard")
        for _ in range(2 * 4 * 3 + 3):
            next(stream)
        batches = [next(stream)["index"] for _ in range(60)]
    counts = np.bincount(shard_of(np.concatenate(batches)), minlength=3)
    assert (np.abs(counts / 3000 - np.array([901, 900, 900]) / 2701) < 0.06).all()


@pytest.mark.parametrize("batch_size", [64, 1024])
def test_a_batch_that_is_said_to_be_fresh_is(
    buffer: replayring.ShardedBuffer, batch_size: int
) -> None:
    """One shard grows tenfold; what claims to show that has its new frames, and some soon do."""
    fill(buffer, 100, 100, 0)
    said = 0
    with buffer.sample_stream(batch_size, in_flight=8) as stream:
        for _ in range(30):
            next(stream)
        for _ in range(9):
            fill(buffer, 100, 0, 0)
        added = buffer.info().next_index
        for _ in range(200):
            drawn = next(stream)["index"]
            if stream.next_index == added:
                new = ((shard_of(drawn) == 0) & (drawn >= 100)).mean()
                spread = np.sqrt(9 / 11 * 2 / 11 / batch_size)
                assert new > 9 / 11 - 6 * spread, f"after {said} that were fresh"
                said += 1
    assert said > 100


@pytest.mark.parametrize("batch_size", [16, 1024])
def test_a_bound_on_staleness_leaves_most_batches_while_shards_are_added_to(
    buffer: replayring.ShardedBuffer, batch_size: int
) -> None:
    """The first is nearly empty and is hardly drawn from, so that its blocks grow old."""
    fill(buffer, 10, 900, 900)
    # Two batches ahead of each of three shards, which are kept for twice as long: 15 times 12.
    batches = replayring.BatchDataset(
        buffer, batch_size, in_flight=2, max_staleness_frames=180, timeout=20
    )
    with batches:
        iterator = iter(batches)
        for _ in range(200):
            next(iterator)
            fill(buffer, 2, 5, 5)
            assert iterator.next_index is not None
        assert iterator.dropped < 50


def test_frames_that_are_not_eligible_make_no_batch_stale(
    buffer: replayring.ShardedBuffer,
) -> None:
    """The last two shards only get episodes of which all frames are dropped."""
    fill(buffer, 300, 0, 3)
    batches = replayring.BatchDataset(
        buffer, 32, in_flight=2, drop_n_last_frames=3, max_staleness_frames=0, timeout=20
    )
    with batches:
        iterator = iter(batches)
        next(iterator)
        for _ in range(10):
            fill(buffer, 0, 3, 3)
            next(iterator)
            drawn = next(iterator)["index"]
            assert set(shard_of(drawn).tolist()) == {0}
        eventually(
            lambda: next(iterator) and iterator.next_index == buffer.info().next_index == 363,
            "a batch that shows all frames",
        )


def test_a_bound_holds_from_the_first_frame_that_is_eligible(
    buffer: replayring.ShardedBuffer,
) -> None:
    """A shard that had nothing to give for long: no batch without its frames counts as fresh."""
    fill(buffer, 300, 0, 3)
    with buffer.sample_stream(64, in_flight=2, drop_n_last_frames=3) as stream:
        eventually(lambda: next(stream) and stream.next_index == 303, "all are shown")
        fill(buffer, 0, 0, 900)
        shown = 0
        while shown < 20:
            drawn = next(stream)["index"]
            if stream.next_index == 1203:
                assert (shard_of(drawn) == 2).any()
                shown += 1


def test_an_index_names_a_frame_over_all_shards(buffer: replayring.ShardedBuffer) -> None:
    fill(buffer, 20, 30, 40)
    drawn = buffer.sample(200, delta_indices={"number": [0, 1]})
    again = buffer.get(indices=drawn["index"], delta_indices={"number": [0, 1]})
    assert drawn.keys() == again.keys()
    for key, array in drawn.items():
        np.testing.assert_array_equal(array, again[key])
        assert array.flags.writeable
    assert set(shard_of(drawn["index"])) == {0, 1, 2}
    np.testing.assert_array_equal(shard_of(drawn["index"]), shard_of(drawn["episode_index"]))


def test_a_frame_that_is_gone_is_named_with_its_shard(buffer: replayring.ShardedBuffer) -> None:
    fill(buffer, 20, 30, 40)
    shard = buffer.client.shards[1]
    with pytest.raises(replayring.FrameNotFoundError, match=f"{shard}: .*index 30 does not exist"):
        buffer.get(indices=[(1 << 48) + 29, (1 << 48) + 30])
    with pytest.raises(replayring.FrameNotFoundError, match="would lie on shard 7, and there are"):
        buffer.get(indices=[7 << 48])
    for number in ((7 << 48) + 5, (1 << 63) - 1, (1 << 64) - 1):
        with pytest.raises(replayring.FrameNotFoundError, match=rf" {number}\b"):
            buffer.get(indices=[3, number, 8 << 48])


def test_positions_run_over_the_shards(buffer: replayring.ShardedBuffer) -> None:
    fill(buffer, 2, 0, 3)
    everything = buffer.read_columns(["index", "number"])
    above = 2 << 48
    assert everything["index"].tolist() == [0, 1, above, above + 1, above + 2]
    assert everything["number"].tolist() == [0, 1, 0, 1, 2]
    assert buffer.get([-1, 0, 2, -5, 4])["index"].tolist() == [above + 2, 0, above, 0, above + 2]
    for position in (5, -6):
        with pytest.raises(replayring.FrameNotFoundError, match="out of range: 5 frames are live"):
            buffer.get([0, position])


@pytest.mark.parametrize("draws", [in_a_stream, one_by_one])
def test_a_batch_waits_for_frames_over_all_shards(
    buffer: replayring.ShardedBuffer, draws: Draws
) -> None:
    with draws(buffer, 10, min_frames=30, timeout=0.3) as stream:
        with pytest.raises(replayring.DeadlineError, match=r"holds 0 frames.*waits for 30"):
            next(stream)
        fill(buffer, 10, 10, 9)
        with pytest.raises(replayring.DeadlineError, match="holds 29 frames"):
            next(stream)
        fill(buffer, 0, 1, 0)
        eventually(lambda: next_or_none(stream), "a batch")


def test_a_drop_that_no_episode_of_a_shard_survives_is_refused(
    buffer: replayring.ShardedBuffer,
) -> None:
    """An episode lies on one shard, so it is that shard's capacity which no drop may reach."""
    batches = replayring.BatchDataset(buffer, 10, drop_n_last_frames=1000)
    for ask in (
        lambda: buffer.sample(10, drop_n_last_frames=1000),
        lambda: buffer.sample_stream(10, drop_n_last_frames=1000),
        lambda: iter(batches),
    ):
        with pytest.raises(replayring.InvalidRequestError, match=r"from 0 to 999, .* share"):
            ask()


def test_a_batch_that_waits_is_woken(buffer: replayring.ShardedBuffer) -> None:
    got: list[np.ndarray] = []
    thread = threading.Thread(target=lambda: got.append(buffer.sample(5)["index"]))
    thread.start()
    add = threading.Timer(0.2, fill, (buffer, 0, 3, 0))
    add.start()
    thread.join(20)
    assert set(shard_of(got[0])) == {1}


def test_a_seed_repeats(buffer: replayring.ShardedBuffer) -> None:
    fill(buffer, 20, 300, 40)

    def draw(seed: int | None) -> list[list[int]]:
        with buffer.sample_stream(16, seed=seed) as stream:
            return [next(stream)["index"].tolist() for _ in range(40)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert draw(None) != draw(None)


def test_a_seeded_batch_repeats_whatever_was_drawn_before(
    buffer: replayring.ShardedBuffer,
) -> None:
    fill(buffer, 20, 300, 40)
    first = buffer.sample(64, seed=1)
    buffer.sample(64)  # by which it learns how much to ask of each
    again, other = buffer.sample(64, seed=1), buffer.sample(64, seed=2)
    np.testing.assert_array_equal(first["index"], again["index"])
    assert (first["index"] != other["index"]).any()
    assert (buffer.sample(64)["index"] != buffer.sample(64)["index"]).any()


def test_a_batch_that_takes_long_is_waited_for(
    buffer: replayring.ShardedBuffer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A shard that is there, and only slow, is neither left out nor said to be away."""
    monkeypatch.setattr(_one_batch, "ANSWER_SECONDS", 0.0005)
    fill(buffer, 300, 300, 300)
    drawn = buffer.sample(20_000, delta_indices={"number": range(50)})
    counts = np.bincount(shard_of(drawn["index"]))
    assert (np.abs(counts - 20_000 / 3) < 6 * np.sqrt(20_000 * 2 / 9)).all()
    assert "cannot be reached" not in caplog.text


def test_closing_the_client_ends_a_sample_that_waits(
    buffer: replayring.ShardedBuffer,
) -> None:
    errors: list[str] = []

    def wait() -> None:
        try:
            buffer.sample(5)
        except replayring.ClosedError as error:
            errors.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    buffer.client.close()
    thread.join(10)
    assert not thread.is_alive()
    assert "closed" in errors[0]


def test_batches_brought_to_a_device_are_the_same(buffer: replayring.ShardedBuffer) -> None:
    """One is drawn ahead, where that needs no waiting."""
    fill(buffer, 5, 50, 500)
    with buffer.sample_stream(100, seed=3) as stream:
        wanted = [next(stream)["index"].tolist() for _ in range(20)]
    with replayring.BatchDataset(buffer, 100, seed=3, num_batches=20, device="cpu") as batches:
        assert [batch["index"].tolist() for batch in batches] == wanted


def test_a_look_for_a_batch_waits_for_nothing(buffer: replayring.ShardedBuffer) -> None:
    with buffer.sample_stream(5, min_frames=50) as stream:
        assert stream._poll() is None
        fill(buffer, 30, 30, 30)
        assert stream._poll() is None  # whoever waits for frames finds out that they are there
        next(stream)
        batch = eventually(stream._poll, "the next one")
        assert (len(batch.arrays["index"]), batch.next_index) == (5, 90)
        fill(buffer, 100, 100, 100)
        eventually(lambda: (found := stream._poll()) and found.next_index == 390, "a fresh one")
    with pytest.raises(replayring.ClosedError):
        stream._poll()


@pytest.mark.parametrize("what", ["the stream", "the client"])
def test_nothing_comes_of_what_was_closed(buffer: replayring.ShardedBuffer, what: str) -> None:
    """Not even batches that were ready by then."""
    fill(buffer, 30, 30, 30)
    stream = buffer.sample_stream(5)
    next(stream)
    stream.close() if what == "the stream" else buffer.client.close()
    with pytest.raises(replayring.ClosedError, match="was closed"):
        next(stream)
    stream.close()


def test_close_ends_who_waits(buffer: replayring.ShardedBuffer) -> None:
    stream = buffer.sample_stream(5)
    errors: list[str] = []

    def wait() -> None:
        try:
            next(stream)
        except replayring.ClosedError as error:
            errors.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    stream.close()
    thread.join(20)
    assert errors
    stream.close()


def test_memory_that_fails_once_for_what_a_shard_sends_is_told_of_once(
    calm_shards: Shards, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ended the shard's thread with a traceback, and the stream waited for that shard."""
    calls = itertools.count(1)

    def assembler(*arguments: Any) -> PackAssembler:
        if next(calls) == 4:
            raise MemoryError("used up")
        return PackAssembler(*arguments)

    with replayring.connect(calm_shards.address, timeout=20, same_host=False) as client:
        buffer = client.create_buffer(name, SPEC, 3000)
        for shard in range(3):
            add_to(buffer, shard, 5)
        monkeypatch.setattr(_replies, "PackAssembler", assembler)
        with buffer.sample_stream(16, in_flight=1, timeout=5) as stream:
            with pytest.raises(replayring.InvalidRequestError, match=r"^shard .*used up"):
                list(itertools.islice(stream, 1000))
            for _ in range(10):
                assert len(next(stream)["index"]) == 16


def test_a_deleted_buffer_ends_the_stream(buffer: replayring.ShardedBuffer) -> None:
    fill(buffer, 3, 3, 3)
    with buffer.sample_stream(5, in_flight=1) as stream:
        next(stream)
        buffer.delete()
        with pytest.raises(replayring.NotFoundError):
            deque(itertools.islice(stream, 1000), maxlen=0)


def test_a_shard_whose_buffer_is_made_anew_is_taken_back(
    buffer: replayring.ShardedBuffer, caplog: pytest.LogCaptureFixture
) -> None:
    near = buffer._parts[2].near
    fill(buffer, 300, 300, 300)
    with buffer.sample_stream(100, in_flight=2) as stream:
        assert 2 in shard_of(next(stream)["index"])
        delete_on(buffer, 2)
        eventually(lambda: 2 not in shard_of(next(stream)["index"]), "the others go on")
        make_anew(buffer)
        fill(buffer, 0, 0, 900)
        eventually(lambda: 2 in shard_of(next(stream)["index"]), "it is taken back")
        for _ in range(2 * 2 * 3 + 3):  # until nothing is left of what was counted before
            next(stream)
        drawn = np.concatenate([next(stream)["index"] for _ in range(60)])
        assert stream.next_index == buffer.info().next_index == 1500
    assert_no_thread_fetches()
    shares = np.bincount(shard_of(drawn), minlength=3) / 6000
    assert (np.abs(shares - np.array([0.2, 0.2, 0.6])) < 6 * np.sqrt(0.24 / 6000)).all()
    said = [record.message for record in caplog.records if "are gone" in record.message]
    assert len(said) == near
    assert all(buffer.client.shards[2] in message for message in said)


def test_a_stream_that_misses_a_buffer_closes_cleanly(buffer: replayring.ShardedBuffer) -> None:
    fill(buffer, 300, 300, 300)
    with buffer.sample_stream(100, in_flight=2) as stream:
        next(stream)
        delete_on(buffer, 2)
        eventually(lambda: 2 not in shard_of(next(stream)["index"]), "the others go on")
    assert_no_thread_fetches()


def test_a_buffer_that_is_made_anew_everywhere_is_gone_on_with(
    buffer: replayring.ShardedBuffer,
) -> None:
    fill(buffer, 30, 30, 30)
    with buffer.sample_stream(100, in_flight=2) as stream:
        next(stream)
        buffer.delete()
        make_anew(buffer)
        fill(buffer, 900, 900, 900)

        def shards_of_new_frames() -> set[int]:
            try:
                drawn = next(stream)
            except replayring.NotFoundError:  # by the wire, it depends on who is quicker
                return set()
            return set(shard_of(drawn["index"][drawn["number"] >= 30]))

        eventually(lambda: shards_of_new_frames() == {0, 1, 2}, "new frames of all")
    assert_no_thread_fetches()


def delete_on(buffer: replayring.ShardedBuffer, shard: int) -> None:
    buffer._parts[shard].shard.client.delete_buffer(buffer.name)


def make_anew(buffer: replayring.ShardedBuffer) -> None:
    """Creates it where it is not."""
    buffer.client.create_buffer(buffer.name, {"number": {"shape": (), "dtype": "int64"}}, 3000)


def assert_no_thread_fetches() -> None:
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("replayring sample stream")]


def test_a_window_that_misses_ends_the_stream_as_with_one_server_and_names_the_shard(
    client: replayring.ShardedClient, name: str
) -> None:
    buffer = client.create_buffer(name, {"x": {"shape": (), "dtype": "uint8"}}, 300, fps=10)
    for part in buffer._parts:
        part.buffer.add_episode({"x": np.zeros(2, "uint8"), "timestamp": np.array([0.0, 5.0])})
    whose = rf"shard ({'|'.join(client.shards)}): "
    with pytest.raises(replayring.ToleranceError, match=whose):
        buffer.sample(50, delta_timestamps={"x": [0.5]})
    with buffer.sample_stream(50, delta_timestamps={"x": [0.5]}) as stream:
        for _ in range(2):
            with pytest.raises(replayring.ToleranceError, match=whose):
                next(stream)


def next_or_none(stream: replayring.SampleStream) -> object:
    try:
        return next(stream)
    except replayring.DeadlineError:
        return None


def test_a_shard_whose_buffer_is_damaged_is_not_said_to_lack_it(
    client: replayring.ShardedClient, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers do not list such a buffer; `create_buffer`, which was recommended, does not help."""
    client.create_buffer(name, SPEC, 3000)
    damaged = client._shards[1].hasty

    def look(name: str, timeout: float) -> replayring.Buffer:
        raise replayring.StorageError("it is not served: its cursor is cut short")

    monkeypatch.setattr(damaged, "buffers", lambda timeout: [])
    monkeypatch.setattr(damaged, "buffer", look)
    (listed,) = (one for one in client.buffers() if one.name == name)
    assert list(listed.missing) == [damaged.address]
    assert re.match("it does not give it: .*it is not served", listed.missing[damaged.address])


def test_info_sums_and_lists(client: replayring.ShardedClient, name: str) -> None:
    buffer = client.create_buffer(name, {"x": {"shape": (), "dtype": "uint8"}}, 100)
    assert buffer.spec.capacity == 102, "each has a third, rounded up"
    for shard, frames in enumerate((3, 34, 40 - 7)):
        buffer._parts[shard].buffer.add_episode({"x": np.zeros(frames, "uint8")})
    info = buffer.info()
    assert isinstance(info, replayring.ShardedBufferInfo)
    assert (info.num_frames, info.num_episodes, info.next_index) == (70, 3, 70)
    assert [part.num_frames for part in info.shards.values() if part] == [3, 34, 33]
    assert list(info.shards) == client.shards
    assert [one for one in client.buffers() if one.name == name] == [info]
