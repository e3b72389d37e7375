"""AddEpisodes: acknowledged in order, stored whole, visible at once, and exactly once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from replayring_proto.v1 import replay_pb2
from replayring_server.engine import Buffer, Store
from replayring_server.service.adding import AddEpisodes
from replayring_server.service.changes import Watch
from tests.service.frames import CAPACITY, SPEC, episode, refused, state
from tests.support import PATIENCE, LocalServer, ServerProcess
from tests.wire import (
    Stream,
    Wire,
    acknowledgements,
    episode_messages,
    spec_message,
    start_message,
)

Ack = replay_pb2.Acknowledgement
MIB = 1 << 20


def ack(stream: Stream) -> Ack:
    (one,) = acknowledgements(stream.receive())
    return one


def plain(acknowledgement: Ack) -> tuple[int, int, int, int, bool]:
    a = acknowledgement
    return a.sequence, a.episode_index, a.index, a.num_frames, a.duplicate


def test_pipelined_episodes_are_acknowledged_in_order(wire: Wire, name: str) -> None:
    wire.create(name, spec_message({"x": ("int64", ())}, capacity=10_000))
    lengths = [1 + number % 7 for number in range(300)]
    episodes = [{"x": np.arange(length)} for length in lengths]
    starts = np.cumsum([0, *lengths]).tolist()
    acknowledged = wire.add(name, *episodes)
    assert [plain(a) for a in acknowledged] == [
        (number + 1, number, starts[number], length, False) for number, length in enumerate(lengths)
    ]


def test_acknowledged_episode_is_visible_to_everybody(
    server: ServerProcess, wire: Wire, name: str
) -> None:
    wire.create(name, SPEC)
    call = wire.stream("AddEpisodes")
    call.send(start_message(name))
    with Wire(server.address) as other:
        for number in range(1, 4):
            call.send(*episode_messages(number, episode(2, number)))
            assert plain(ack(call)) == (number, number - 1, 2 * number - 2, 2, False)
            assert other.info(name).next_index == 2 * number
            assert other.get(name, [-1])["pixel"] == [number + 1]


def test_presets_are_filled_in(wire: Wire, name: str) -> None:
    wire.create(name, SPEC)
    wire.add(name, episode(3), episode(2))
    stored = wire.columns(name, "index", "episode_index", "frame_index", "timestamp")
    assert stored["index"].tolist() == [0, 1, 2, 3, 4]
    assert stored["episode_index"].tolist() == [0, 0, 0, 1, 1]
    assert stored["frame_index"].tolist() == [0, 1, 2, 0, 1]
    np.testing.assert_allclose(stored["timestamp"], [0, 0.1, 0.2, 0, 0.1])


def test_given_presets_are_kept(wire: Wire, name: str) -> None:
    wire.create(name, SPEC)
    times = np.array([5.0, 5.5, 5.5], np.float32)  # cast, and a repeated last frame
    wire.add(name, episode(3, timestamp=times, frame_index=np.array([7, 8, 8], np.int32)))
    stored = wire.columns(name, "frame_index", "timestamp")
    assert stored["timestamp"].tolist() == [5.0, 5.5, 5.5]
    assert stored["frame_index"].tolist() == [7, 8, 8]


def test_values_are_cast_where_that_keeps_their_kind(wire: Wire, name: str) -> None:
    wire.create(name, SPEC)
    position = np.array([[1, 2], [3, 4]], np.float64) / 3
    wire.add(name, episode(2, position=position, pixel=np.array([0, 255], np.uint64)))
    stored = wire.columns(name, "position", "pixel")
    np.testing.assert_array_equal(stored["position"], position.astype(np.float32))
    assert stored["pixel"].tolist() == [0, 255]


def test_episode_larger_than_any_message_is_stored_whole(wire: Wire, name: str) -> None:
    wire.create(name, spec_message({"image": ("uint8", (256, 256, 3)), "x": ("int32", ())}, 200))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 256, 256, 3), np.uint8)  # 11.8 MB
    assert images.nbytes > 2 * 4 * MIB
    wire.add(name, {"image": images, "x": np.arange(60, dtype=np.int32)})
    stored = wire.columns(name, "image", "x")
    np.testing.assert_array_equal(stored["image"], images)
    assert stored["x"].tolist() == list(range(60))


def test_same_sequence_and_bytes_is_stored_once(wire: Wire, name: str) -> None:
    wire.create(name, SPEC)
    wire.add(name, episode(2, 1), episode(2, 2))
    before = state(wire, name)
    again = wire.add(name, episode(2, 1), episode(2, 2))
    assert [plain(a) for a in again] == [(1, 0, 0, 2, True), (2, 1, 2, 2, True)]
    assert state(wire, name) == before


def test_retry_within_one_call_is_stored_once(wire: Wire, name: str) -> None:
    wire.create(name, SPEC)
    messages = episode_messages(1, episode(2))
    replies = wire.call("AddEpisodes", start_message(name), *messages, *messages)
    assert [plain(a) for reply in replies for a in acknowledgements(reply)] == [
        (1, 0, 0, 2, False),
        (1, 0, 0, 2, True),
    ]


def test_retry_after_eviction_is_recognised(wire: Wire, name: str) -> None:
    wire.create(name, SPEC)
    (first,) = wire.add(name, episode(4, 1))
    for number in range(1, 6):
        wire.add(name, episode(CAPACITY, number), writer_id="other", sequence=number)
    before = state(wire, name)
    assert wire.info(name).oldest_index > first.index + first.num_frames
    (again,) = wire.add(name, episode(4, 1))
    assert plain(again) == (1, 0, 0, 4, True)
    assert state(wire, name) == before


def test_retry_of_the_same_values_in_other_dtypes_is_recognised(wire: Wire, name: str) -> None:
    wire.create(name, SPEC)
    wire.add(name, episode(2))
    wide = episode(2, position=episode(2)["position"].astype(np.float64))
    assert wire.add(name, wide)[0].duplicate


@pytest.mark.parametrize("other", [episode(2, 5), episode(3)], ids=["values", "length"])
def test_sequence_reused_for_another_episode_is_refused(
    wire: Wire, name: str, other: dict[str, np.ndarray]
) -> None:
    wire.create(name, SPEC)
    wire.add(name, episode(2))
    before = state(wire, name)
    words = ("sequence 1", "'writer'", "episode (number 0)", "its own sequence")
    with refused("ALREADY_EXISTS", "SequenceReusedError", *words):
        wire.add(name, other)
    assert state(wire, name) == before


def test_sequence_never_used_but_passed_is_refused(wire: Wire, name: str) -> None:
    wire.create(name, SPEC)
    wire.add(name, episode(2), sequence=10)
    with refused("ALREADY_EXISTS", "SequenceReusedError", "sequence 7", "must grow"):
        wire.add(name, episode(2), sequence=7)


def test_gaps_in_sequences_are_allowed(wire: Wire, name: str) -> None:
    wire.create(name, SPEC)
    for sequence in (1, 5, (1 << 63) - 1):
        assert not wire.add(name, episode(1), sequence=sequence)[0].duplicate
    assert wire.info(name).next_index == 3


def test_writers_and_buffers_count_sequences_apart(wire: Wire, name: str) -> None:
    for buffer in (name, name + "-other"):
        wire.create(buffer, SPEC)
        for writer in ("a", "b"):
            assert not wire.add(buffer, episode(1), writer_id=writer)[0].duplicate
        assert wire.info(buffer).next_index == 2


def test_many_writers_at_once_lose_and_double_nothing(
    server: ServerProcess, wire: Wire, name: str
) -> None:
    wire.create(name, spec_message({"x": ("int64", ())}, capacity=5000))

    def write(writer: int) -> list[int]:
        with Wire(server.address) as own:
            episodes = [{"x": np.full(3, 1000 * writer + number)} for number in range(50)]
            return [a.index for a in own.add(name, *episodes, writer_id=f"w{writer}")]

    with ThreadPoolExecutor(8) as threads:
        starts = list(threads.map(write, range(8)))
    stored = wire.columns(name, "x", "frame_index")
    assert sorted(index for indices in starts for index in indices) == list(range(0, 8 * 50 * 3, 3))
    for writer, indices in enumerate(starts):
        assert indices == sorted(indices)
        for number, index in enumerate(indices):
            assert stored["x"][index : index + 3].tolist() == [1000 * writer + number] * 3
            assert stored["frame_index"][index : index + 3].tolist() == [0, 1, 2]


class Gate:
    """Holds `Buffer.store_all` up until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._entered, self._open = threading.Event(), threading.Event()
        real = Buffer.store_all

        def store_all(buffer: Buffer, *arguments: Any) -> Any:
            self._entered.set()
            assert self._open.wait(PATIENCE)
            return real(buffer, *arguments)

        monkeypatch.setattr(Buffer, "store_all", store_all)

    def wait(self) -> None:
        """Returns when somebody stands before it."""
        assert self._entered.wait(PATIENCE)

    def open(self) -> None:
        """Lets everybody through."""
        self._open.set()


def spy(monkeypatch: pytest.MonkeyPatch, cls: type, method: str) -> tuple[Event, Event]:
    """Returns events for the first time that a coroutine method is entered, and left."""
    entered, left = Event(), Event()
    real = getattr(cls, method)

    async def spied(*arguments: Any) -> Any:
        entered.set()
        try:
            return await real(*arguments)
        finally:
            left.set()

    monkeypatch.setattr(cls, method, spied)
    return entered, left


def test_retry_while_the_first_attempt_is_still_being_stored_is_stored_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The caller gave up and comes again over a new call, as clients do after a broken connection.
    with LocalServer(tmp_path / "data") as server, Wire(server.address) as wire:
        wire.create("b", SPEC)
        gate = Gate(monkeypatch)
        first, second = wire.stream("AddEpisodes"), wire.stream("AddEpisodes")
        first.send(start_message("b"), *episode_messages(1, episode(3)))
        gate.wait()
        first.cancel()
        second.send(start_message("b"), *episode_messages(1, episode(3)))
        gate.open()
        assert plain(ack(second))[:4] == (1, 0, 0, 3)
    with Store(tmp_path / "data") as store:  # when both attempts have ended
        assert store.get("b").info().next_index == 3


def test_episode_of_a_caller_who_gave_up_still_wakes_those_who_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner_waits, _ = spy(monkeypatch, Watch, "change")
    _, actor_is_gone = spy(monkeypatch, AddEpisodes, "run")
    with LocalServer(tmp_path / "data") as server, Wire(server.address) as wire:
        wire.create("b", SPEC)
        learner = wire.stream("SampleBatch")
        spec = replay_pb2.SampleSpec(buffer="b", batch_size=2)
        learner.send(replay_pb2.SampleBatchRequest(spec=spec))
        assert learner_waits.wait(PATIENCE)
        gate = Gate(monkeypatch)
        actor = wire.stream("AddEpisodes")
        actor.send(start_message("b"), *episode_messages(1, episode(3)))
        gate.wait()
        actor.cancel()
        assert actor_is_gone.wait(PATIENCE)
        gate.open()
        assert learner.receive_pack(replay_pb2.SampleBatchResponse)[1]["pixel"].shape == (2,)
