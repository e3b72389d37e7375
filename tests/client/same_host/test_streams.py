"""Streams of batches drawn from the server's files: what comes together, waits, and ends."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

import replayring
from replayring._sampling import WireStream
from replayring_proto.errors import ClosedError
from replayring_proto.limits import TOGETHER_BYTES
from replayring_proto.pack import aligned_empty
from tests.client.conftest import CAPACITY, SPEC
from tests.client.forking import held_elsewhere, succeeds_in_child
from tests.client.same_host.support import episode, in_fork
from tests.client.stepping import AtStep, named
from tests.support import ServerProcess, eventually


class Asked:
    """Memory that notes how much was asked for at once."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, nbytes: int) -> Any:
        self.sizes.append(nbytes)
        return aligned_empty(nbytes)


def test_small_batches_are_drawn_together(buffer: replayring.Buffer) -> None:
    """As over the wire: half of what may be in flight, in memory that they share."""
    memory = Asked()
    with buffer.sample_stream(4, in_flight=6, memory=memory) as stream:
        for number in range(9):
            batch = next(stream)
            assert len(memory.sizes) == number // 3 + 1
            assert batch["reward"].tolist() == batch["index"].tolist()
            assert all(len(array) == 4 and array.flags.writeable for array in batch.values())


def test_batches_that_are_drawn_together_differ(buffer: replayring.Buffer) -> None:
    with buffer.sample_stream(64) as stream:
        drawn = {tuple(next(stream)["index"].tolist()) for _ in range(16)}
    assert len(drawn) == 16


@pytest.mark.parametrize("in_flight", [1, 2, 3])
def test_with_few_in_flight_none_is_stale(buffer: replayring.Buffer, in_flight: int) -> None:
    with buffer.sample_stream(4, in_flight=in_flight) as stream:
        for number in range(1, 5):
            next(stream)
            assert stream.next_index == 10 * number
            buffer.add_episode(episode(10))


def test_each_batch_says_how_fresh_it_is(buffer: replayring.Buffer) -> None:
    fresh = []
    with buffer.sample_stream(4, in_flight=4) as stream:
        for _ in range(4):
            next(stream)
            fresh.append(stream.next_index)
            buffer.add_episode(episode(5))
    assert fresh == [10, 10, 20, 20]


@pytest.mark.parametrize(("same_host", "step"), [(True, "_read"), (False, "_take")])
def test_a_signal_handler_may_close_it_at_any_step(
    server: ServerProcess,
    buffer: replayring.Buffer,
    monkeypatch: pytest.MonkeyPatch,
    same_host: bool,
    step: str,
) -> None:
    """It comes in the thread that takes a batch, whatever locks that has."""
    monkeypatch.setattr(WireStream, "stop", WireStream.end)  # which would wait for that thread
    with replayring.connect(server.address, same_host=same_host) as client:
        ours = client.buffer("ring")
        for number in itertools.count():
            stream: Any = ours.sample_stream(4, in_flight=2)
            next(stream)
            with AtStep(number, named(step), stream.close) as closing, suppress(ClosedError):
                next(stream)
            stream.close()
            if not closing.reached:
                break
    assert number > 20


def test_large_batches_are_drawn_one_by_one(
    server: ServerProcess, buffer: replayring.Buffer
) -> None:
    """Beyond what travels together, or what the client's owner allows."""
    memory = Asked()
    with buffer.sample_stream(20_000, memory=memory) as stream:
        next(stream)
        next(stream)
    with (
        replayring.connect(server.address, same_host=True, max_reply_bytes=10_000) as client,
        client.buffer("ring").sample_stream(200, memory=memory) as stream,
    ):
        next(stream)
        next(stream)
    assert len(memory.sizes) == 4
    assert min(memory.sizes[:2]) > TOGETHER_BYTES / 2
    assert max(memory.sizes[2:]) <= 10_000


def test_of_a_buffer_that_is_gone_no_batch_is_left(
    client: replayring.Client, buffer: replayring.Buffer
) -> None:
    with buffer.sample_stream(4) as stream:
        next(stream)
        client.delete_buffer("ring")
        with pytest.raises(replayring.NotFoundError):
            next(stream)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_stream_can_be_closed_in_a_fork_and_by_the_garbage_collector(
    buffer: replayring.Buffer,
) -> None:
    """Whoever has its lock: a thread of the parent, or this one itself."""
    stream: Any = buffer.sample_stream(4)
    with held_elsewhere(stream._lock):
        assert succeeds_in_child(stream.close)
    next(stream)
    with stream._lock:
        stream.close()
    with pytest.raises(ClosedError):
        next(stream)


def test_a_stream_belongs_to_its_process(buffer: replayring.Buffer) -> None:
    stream = buffer.sample_stream(4)

    def take() -> Any:
        with pytest.raises(ClosedError) as caught:
            next(stream)
        return str(caught.value)

    assert "belongs to the process" in in_fork(take)


def test_a_stream_whose_files_are_gone_goes_on_as_one_over_the_wire(
    buffer: replayring.Buffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fetched ahead in one call: a call for each batch took as long as ten batches."""
    opened: list[int] = []

    class Counted(WireStream):
        def __init__(self, caller: Any, sampling: Any, in_flight: int, *rest: Any) -> None:
            opened.append(in_flight)
            super().__init__(caller, sampling, in_flight, *rest)

    monkeypatch.setattr("replayring.buffer.WireStream", Counted)
    with buffer.sample_stream(4, in_flight=3) as stream:
        next(stream)
        buffer._keep_to_the_wire()
        for _ in range(20):
            assert len(next(stream)["index"]) == 4
    assert opened == [3]
    with pytest.raises(ClosedError):
        next(stream)


def test_a_batch_that_was_waited_for_says_how_fresh_it_is(client: replayring.Client) -> None:
    buffer = client.create_buffer("waited", SPEC, CAPACITY, fps=10)
    with ThreadPoolExecutor() as threads, buffer.sample_stream(4, min_frames=3) as stream:
        waiting = threads.submit(next, stream)
        eventually(lambda: stream._waits, "it waits at the server")
        buffer.add_episode(episode(3))
        assert len(waiting.result(60)["index"]) == 4
        assert stream.next_index == 3
        buffer.add_episode(episode(2))
        next(stream)
        assert stream.next_index == 5


def test_closing_ends_a_wait_at_the_server(client: replayring.Client) -> None:
    buffer = client.create_buffer("closed", SPEC, CAPACITY, fps=10)
    stream = buffer.sample_stream(4, timeout=1e6)
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(next, stream)
        eventually(lambda: stream._waits, "it waits at the server")
        stream.close()
        with pytest.raises(ClosedError):
            waiting.result(60)


def test_a_seeded_stream_that_had_to_wait_does_not_repeat_itself(
    client: replayring.Client,
) -> None:
    """Its first batch comes from the server, the others from the files."""
    buffer = client.create_buffer("seeded", SPEC, CAPACITY, fps=10)
    with ThreadPoolExecutor() as threads, buffer.sample_stream(64, seed=4) as stream:
        waited = threads.submit(next, stream)
        eventually(lambda: stream._waits, "it waits at the server")
        buffer.add_episode(episode(10))
        drawn = [waited.result(60), next(stream), next(stream)]
    assert len({tuple(batch["index"].tolist()) for batch in drawn}) == 3


def test_threads_that_wait_for_a_seeded_stream_get_batches_of_their_own(
    client: replayring.Client,
) -> None:
    buffer = client.create_buffer("threads", SPEC, CAPACITY, fps=10)
    with ThreadPoolExecutor(3) as threads, buffer.sample_stream(64, seed=4) as stream:
        waiting = [threads.submit(next, stream) for _ in range(3)]
        eventually(lambda: len(stream._waits) == 3, "all of them wait at the server")
        buffer.add_episode(episode(10))
        drawn = [one.result(60) for one in waiting] + [next(stream)]
    assert len({tuple(batch["index"].tolist()) for batch in drawn}) == 4
