"""A server killed with SIGKILL and started again: what was acknowledged is there, exactly once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from replayring_proto.messages import spec_from_message
from replayring_proto.v1 import replay_pb2
from tests.service.frames import CAPACITY, COLUMNS, SPEC, episode, refused, state
from tests.stored import SMALL, stored_column
from tests.support import ServerProcess
from tests.wire import (
    Refused,
    Wire,
    acknowledgements,
    episode_messages,
    spec_message,
    start_message,
)

Ack = replay_pb2.Acknowledgement


@contextmanager
def serving(data_dir: Path) -> Iterator[tuple[ServerProcess, Wire]]:
    with ServerProcess(data_dir) as server, Wire(server.address) as wire:
        yield server, wire


def place(acknowledgement: Ack) -> tuple[int, int, int]:
    return acknowledgement.episode_index, acknowledgement.index, acknowledgement.num_frames


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


def test_killed_server_comes_back_in_the_same_state(data_dir: Path) -> None:
    with serving(data_dir) as (server, wire):
        wire.create("turned", SPEC)
        for number in range(1, 8):
            wire.add("turned", episode(4, 10 * number), sequence=number)
        wire.create("full", SPEC)
        wire.add("full", episode(CAPACITY))
        wire.create("empty", SPEC)
        for value in (1, 2, 3):
            wire.publish("policy", {"w": np.full(5, value)})
        before = {name: state(wire, name) for name in ("turned", "full", "empty")}
        server.kill()
    with serving(data_dir) as (server, wire):
        assert {name: state(wire, name) for name in before} == before
        version, arrays = wire.latest("policy")
        assert (version, arrays["w"].tolist()) == (3, [3] * 5)
        assert wire.publish("policy", {"w": np.zeros(1)}) == 4
        (acknowledged,) = wire.add("turned", episode(2, 99), sequence=8)
        assert place(acknowledged) == (7, 28, 2)
        assert wire.get("turned", indices=[27, 28])["pixel"].tolist() == [73, 99]
        assert "Traceback" not in server.log_text()


def test_follower_resumes_after_a_restart(data_dir: Path) -> None:
    def follow(wire: Wire, after: int) -> int:
        call = wire.stream("WatchParameters")
        request = replay_pb2.WatchParametersRequest(name="p", after_version=after, follow=True)
        call.send(request)
        return call.receive_pack(replay_pb2.WatchParametersResponse)[0].version

    with serving(data_dir) as (server, wire):
        wire.publish("p", {"w": np.ones(2)})
        assert follow(wire, 0) == 1
        server.kill()
    with serving(data_dir) as (_, wire):
        with refused("NOT_FOUND", "NotFoundError", "no version above 1"):
            wire.latest("p", after_version=1)
        assert wire.publish("p", {"w": np.ones(2)}) == 2
        assert follow(wire, 1) == 2


def test_retry_over_a_restart_is_stored_once(data_dir: Path) -> None:
    with serving(data_dir) as (server, wire):
        wire.create("b", SPEC)
        first = wire.add("b", episode(2, 1), episode(3, 5), writer_id="a")
        wire.add("b", episode(1, 9), writer_id="z", sequence=7)
        server.kill()
    with serving(data_dir) as (server, wire):
        before = state(wire, "b")
        again = wire.add("b", episode(2, 1), episode(3, 5), writer_id="a")
        assert [place(a) for a in again] == [place(a) for a in first]
        assert [a.duplicate for a in again] == [True, True]
        with refused("ALREADY_EXISTS", "SequenceReusedError", "sequence 2", "'a'"):
            wire.add("b", episode(3, 6), writer_id="a", sequence=2)
        assert state(wire, "b") == before
        assert not wire.add("b", episode(1), writer_id="a", sequence=3)[0].duplicate
        assert wire.add("b", episode(1, 9), writer_id="z", sequence=7)[0].duplicate


def test_retry_after_eviction_and_restart_is_recognised(data_dir: Path) -> None:
    with serving(data_dir) as (server, wire):
        wire.create("b", SPEC)
        (first,) = wire.add("b", episode(3), writer_id="slow")
        for number in range(1, 40):
            wire.add("b", episode(CAPACITY, number), writer_id="fast", sequence=number)
        server.kill()
    with serving(data_dir) as (_, wire):
        before = state(wire, "b")
        assert wire.info("b").oldest_index > first.index + first.num_frames
        (again,) = wire.add("b", episode(3), writer_id="slow")
        assert (place(again), again.duplicate) == (place(first), True)
        assert state(wire, "b") == before


def test_writer_that_never_stops_loses_and_doubles_nothing_over_kills(data_dir: Path) -> None:
    """What was acknowledged is there, what was not is there whole or not at all, nothing twice."""
    spec = spec_message({"x": ("int64", (3,)), "y": ("float64", ())}, capacity=100_000)
    total, batch = 1500, 50

    def frames(sequence: int) -> dict[str, np.ndarray]:
        length = 1 + sequence % 11
        return {"x": np.full((length, 3), sequence), "y": np.full(length, -float(sequence))}

    acknowledged: dict[int, tuple[int, int, int]] = {}
    for kill_after in (120, 300, 7, 400, None):
        with serving(data_dir) as (server, wire):
            wire.create("b", spec)
            call = wire.stream("AddEpisodes")
            call.send(start_message("b"))
            sent = received = max(acknowledged, default=0)
            stop = total if kill_after is None else received + kill_after
            try:
                while received < stop:
                    while sent < min(received + batch, total):  # always some under way
                        sent += 1
                        call.send(*episode_messages(sent, frames(sent)))
                    (ack,) = acknowledgements(call.receive())
                    received += 1
                    assert ack.sequence == received
                    assert acknowledged.setdefault(received, place(ack)) == place(ack)
                if kill_after is not None:
                    server.kill()
                    while True:
                        (ack,) = acknowledgements(call.receive())
                        acknowledged[ack.sequence] = place(ack)
            except Refused as error:
                if error.code != "UNAVAILABLE":
                    raise
                continue
            check(wire, acknowledged, total)


def check(wire: Wire, acknowledged: dict[int, tuple[int, int, int]], total: int) -> None:
    stored = wire.columns("b", "x", "y", "frame_index", "episode_index", "index")
    expected = np.repeat(np.arange(1, total + 1), [1 + n % 11 for n in range(1, total + 1)])
    assert stored["x"].tolist() == np.repeat(expected[:, None], 3, axis=1).tolist()
    assert stored["y"].tolist() == (-expected).tolist()
    assert stored["episode_index"].tolist() == (expected - 1).tolist()
    assert stored["index"].tolist() == list(range(len(expected)))
    for sequence, (episode_index, index, num_frames) in acknowledged.items():
        assert episode_index == sequence - 1
        assert (expected[index : index + num_frames] == sequence).all()
        assert stored["frame_index"][index : index + num_frames].tolist() == list(range(num_frames))


def test_damaged_buffer_is_said_and_the_others_are_served(data_dir: Path) -> None:
    with serving(data_dir) as (server, wire):
        for name in ("good", "bad"):
            wire.create(name, SPEC)
            wire.add(name, episode(4))
        before = state(wire, "good")
        server.kill()
    (data_dir / "bad" / SMALL).write_bytes(b"short")
    with serving(data_dir) as (server, wire):
        assert state(wire, "good") == before
        for _ in range(3):
            with refused("DATA_LOSS", "StorageError", "_small has 5 bytes", "Restore it"):
                wire.info("bad")
        with refused("DATA_LOSS", "StorageError", "_small has 5 bytes"):
            wire.create("bad", SPEC)
        assert [buffer.name for buffer in wire.ask("ListBuffers", b"").buffers] == ["good"]
        assert "buffer 'bad' cannot be served" in server.log_text()
        assert (data_dir / "bad" / SMALL).read_bytes() == b"short"


def test_what_a_death_left_half_made_is_removed(data_dir: Path) -> None:
    with serving(data_dir) as (server, wire):
        wire.create("b", SPEC)
        server.kill()
    (data_dir / ".creating-half").mkdir()
    (data_dir / ".creating-half" / "cursor").write_bytes(bytes(4096))
    (data_dir / ".deleting-half").mkdir()
    (data_dir / "mine").mkdir()
    with serving(data_dir) as (_, wire):
        assert [buffer.name for buffer in wire.ask("ListBuffers", b"").buffers] == ["b"]
        assert not list(data_dir.glob(".*ing-*"))
        assert (data_dir / "mine").is_dir()
        with refused("ALREADY_EXISTS", "AlreadyExistsError", "is no buffer"):
            wire.create("mine", SPEC)
        assert wire.create("half", SPEC).created


def test_columns_can_be_read_from_the_files_alone(data_dir: Path) -> None:
    with serving(data_dir) as (server, wire):
        wire.create("b", SPEC)
        for number in range(1, 9):
            wire.add("b", episode(4, number), sequence=number)
        columns = wire.columns("b", *COLUMNS)
        info = wire.info("b")
        server.kill()
    spec = spec_from_message(SPEC)
    for key, values in columns.items():
        mapped = stored_column(Path(info.path), spec, key)
        np.testing.assert_array_equal(mapped[columns["index"] % info.physical_rows], values)
