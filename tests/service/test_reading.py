"""GetItem and ReadColumn: frames by position and by `index`, and whole columns."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from replayring_proto.limits import CHUNK_BYTES
from replayring_proto.v1 import replay_pb2
from replayring_server.engine import Store
from replayring_server.service.calls import Call
from tests.service.frames import CAPACITY, COLUMNS, SPEC, episode, refused
from tests.support import LocalServer, ServerProcess
from tests.wire import Refused, Wire, arrays_of, spec_message, view_message

Response = replay_pb2.ReadColumnResponse


@pytest.fixture
def buffer(wire: Wire, name: str) -> str:
    """Returns a buffer whose ring has turned: frames 5 to 14 live, in the slots 5..9 and 0..4."""
    wire.create(name, SPEC)
    wire.add(name, episode(4), episode(8, 4), episode(3, 12))
    return name


POSITIONS = [10, 11, 12, 13, 14, 5, 6, 7, 8, 9]


def test_positions_follow_the_slots_of_the_ring(wire: Wire, buffer: str) -> None:
    for positions in ([0], list(range(CAPACITY)), [-1, -CAPACITY, 3, 3], [9, 0]):
        fetched = wire.get(buffer, positions)
        expected = [POSITIONS[position] for position in positions]
        assert fetched["index"].tolist() == expected
        assert fetched["pixel"].tolist() == expected


def test_indices_name_frames_for_ever(wire: Wire, buffer: str) -> None:
    asked = [14, 5, 9, 10, 5]
    assert wire.get(buffer, indices=asked)["pixel"].tolist() == asked
    for gone in (0, 4):
        with refused("OUT_OF_RANGE", "FrameNotFoundError", f"index {gone} was overwritten", "5 to"):
            wire.get(buffer, indices=[5, gone])


def test_one_call_answers_many_requests_in_order(wire: Wire, buffer: str) -> None:
    asked = [[0], [9, 0], list(range(CAPACITY)) * 3, [-1]]
    call = wire.stream("GetItem")
    # All at once, and one when the others have been answered.
    for positions in asked[:-1]:
        call.send(replay_pb2.GetItemRequest(buffer=buffer, positions=positions))
    for positions in asked:
        if positions is asked[-1]:
            call.send(replay_pb2.GetItemRequest(buffer=buffer, positions=positions))
        _, fetched = call.receive_pack(replay_pb2.GetItemResponse)
        assert fetched["index"].tolist() == [POSITIONS[position] for position in positions]
    call.done_sending()
    assert not list(call)


def test_a_refusal_ends_the_call_after_what_was_answered(wire: Wire, buffer: str) -> None:
    call = wire.stream("GetItem")
    for positions in ([1], [99], [2]):
        call.send(replay_pb2.GetItemRequest(buffer=buffer, positions=positions))
    _, fetched = call.receive_pack(replay_pb2.GetItemResponse)
    assert fetched["index"].tolist() == [POSITIONS[1]]
    with refused("OUT_OF_RANGE", "FrameNotFoundError", "position 99"):
        call.receive()


def test_each_answer_sees_the_newest_frames(wire: Wire, buffer: str) -> None:
    call = wire.stream("GetItem")
    for sequence in (4, 5):
        before = wire.info(buffer).next_index
        wire.add(buffer, episode(1, before), sequence=sequence)
        call.send(replay_pb2.GetItemRequest(buffer=buffer, indices=[before]))
        _, fetched = call.receive_pack(replay_pb2.GetItemResponse)
        assert fetched["index"].tolist() == [before]


def test_windows_stay_within_what_is_alive_of_an_episode(wire: Wire, buffer: str) -> None:
    # Frames 4 to 11 are one episode; 4 is overwritten, and 9 | 10 is where the ring turns.
    view = view_message(["done"], frames={"pixel": [-2, 0, 2]})
    fetched = wire.get(buffer, indices=[5, 9, 11, 12], view=view)
    assert fetched["pixel"].tolist() == [[5, 5, 7], [7, 9, 11], [9, 11, 11], [12, 12, 14]]
    assert fetched["pixel_is_pad"].tolist() == [
        [True, False, False],
        [False, False, False],
        [False, False, True],
        [True, False, False],
    ]


def test_columns_come_in_position_order(wire: Wire, buffer: str) -> None:
    columns = wire.columns(buffer, *COLUMNS)
    assert columns["index"].tolist() == POSITIONS
    assert columns["pixel"].tolist() == POSITIONS
    assert columns["position"].shape == (CAPACITY, 2)
    assert columns["episode_index"].tolist() == [1, 1, 2, 2, 2, 1, 1, 1, 1, 1]
    assert columns["done"].tolist() == [index in (11, 14) for index in POSITIONS]


def test_columns_of_an_empty_buffer_are_empty(wire: Wire, name: str) -> None:
    wire.create(name, SPEC)
    columns = wire.columns(name, *COLUMNS)
    assert columns["position"].shape == (0, 2)
    assert columns["index"].shape == (0,)


@pytest.mark.parametrize(("height", "frames"), [(512, 40), (2500, 8)])
def test_a_large_column_comes_in_pieces(wire: Wire, name: str, height: int, frames: int) -> None:
    """Even where a single frame is more than a message carries, as of a camera with 1080 lines."""
    spec = spec_message({"image": ("uint8", (height, 1000)), "x": ("uint8", ())}, frames)
    wire.create(name, spec)
    rows = np.arange(frames, dtype=np.uint8)
    wire.add(name, {"image": rows[:, None, None] * np.ones((height, 1000), np.uint8), "x": rows})
    request = replay_pb2.ReadColumnRequest(buffer=name, keys=["x", "image", "index"])
    replies = wire.call("ReadColumn", request)
    assert len(replies) > 10
    assert max(map(len, replies)) <= CHUNK_BYTES + 1024
    messages = [Response.FromString(reply) for reply in replies]
    columns = arrays_of(messages[0].pack, b"".join(message.data for message in messages))
    assert list(columns) == ["x", "image", "index"]
    assert (columns["image"] == columns["x"][:, None, None]).all()


def test_columns_read_while_a_writer_runs_show_the_same_frames(
    server: ServerProcess, wire: Wire, name: str
) -> None:
    wire.create(name, spec_message({"a": ("int64", (50,)), "b": ("int64", ())}, 2000))

    def frames(start: int, count: int) -> dict[str, np.ndarray]:
        values = np.arange(start, start + count)
        return {"a": np.repeat(values[:, None], 50, axis=1), "b": -values}

    wire.add(name, frames(0, 2000))
    done = threading.Event()

    def write() -> None:
        with Wire(server.address) as own:
            sequence = 2
            while not done.is_set():
                start = 2000 + 10 * (sequence - 2)
                own.add(name, frames(start, 10), sequence=sequence)
                sequence += 1

    seen: set[int] = set()
    with ThreadPoolExecutor(1) as thread:
        writing = thread.submit(write)
        try:
            while len(seen) < 10:  # ten moments of the ring
                try:
                    columns = wire.columns(name, "b", "a", "index")
                except Refused as error:
                    if error.code != "ABORTED":  # which a busy machine may bring about
                        raise
                    continue
                assert (columns["a"] == columns["index"][:, None]).all()
                assert (columns["b"] == -columns["index"]).all()
                index = np.sort(columns["index"])
                assert len(index) == 2000
                assert (np.diff(index) == 1).all()
                seen.add(int(index[0]))
        finally:
            done.set()
            writing.result()


def overtaken(store: Store) -> None:
    """Writes until every row that a reader had begun with is another frame's."""
    for number in range(60):
        store.get("b").append({"a": np.full((10, 512, 512), number, np.uint8)})


def test_small_columns_are_read_before_writers_are_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights of a sampler are made of columns, and a small ring turns many times a second."""
    write = Call.write

    async def write_late(call: Call, message: bytes) -> None:
        for number in range(1, 20):
            server.store.get("b").append({"a": np.full(10, number, np.uint8)})
        await write(call, message)

    with LocalServer(tmp_path / "data") as server, Wire(server.address) as wire:
        wire.create("b", spec_message({"a": ("uint8", ())}, 20))
        server.store.get("b").append({"a": np.zeros(20, np.uint8)})
        monkeypatch.setattr(Call, "write", write_late)
        columns = wire.columns("b", "a", "index")
    assert columns["a"].tolist() == [0] * 20
    assert columns["index"].tolist() == list(range(20))


def test_column_that_writers_overtook_is_aborted(tmp_path: Path) -> None:
    # The reader holds up the server by not reading; 64 KiB is all that may be under way.
    options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 64 << 10)]
    with LocalServer(tmp_path / "data") as server, Wire(server.address, options) as wire:
        wire.create("b", spec_message({"a": ("uint8", (512, 512))}, 100))
        server.store.get("b").append({"a": np.zeros((100, 512, 512), np.uint8)})  # 26 MB
        call = wire.stream("ReadColumn")
        call.send(replay_pb2.ReadColumnRequest(buffer="b", keys=["a"]))
        first = Response.FromString(call.receive())
        assert first.HasField("pack")
        overtaken(server.store)
        with refused("ABORTED", "OvertakenError", "writers replaced", "try again"):
            for message in call:
                assert not any(Response.FromString(message).data), "a frame of another time"
        assert wire.columns("b", "a")["a"].shape == (100, 512, 512)
