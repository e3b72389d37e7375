"""SampleBatch: batches on request, in order; waiting where there is nothing to sample yet."""

from __future__ import annotations

import numpy as np
import pytest

from replayring_proto.limits import CHUNK_BYTES
from replayring_proto.v1 import replay_pb2
from tests.service.frames import CAPACITY, SPEC, episode, refused
from tests.support import ServerProcess
from tests.wire import Stream, Wire, spec_message, view_message

Response = replay_pb2.SampleBatchResponse
PRESETS = {"index", "episode_index", "frame_index", "timestamp"}


def request(batches: int = 0, **spec: object) -> replay_pb2.SampleBatchRequest:
    return replay_pb2.SampleBatchRequest(spec=replay_pb2.SampleSpec(**spec), batches=batches)


def more(batches: int = 0) -> replay_pb2.SampleBatchRequest:
    return replay_pb2.SampleBatchRequest(batches=batches)


def batch(stream: Stream) -> dict[str, np.ndarray]:
    return stream.receive_pack(Response)[1]


def let_it_turn(wire: Wire) -> None:
    """Gives the server's loop every chance to do what it should not."""
    for _ in range(5):
        wire.health()


@pytest.fixture
def buffer(wire: Wire, name: str) -> str:
    wire.create(name, SPEC)
    return name


def test_batch_holds_whole_frames_of_the_buffer(wire: Wire, buffer: str) -> None:
    wire.add(buffer, episode(4), episode(3, 10))
    (drawn,) = wire.sample(buffer, 500)
    assert drawn.keys() == PRESETS | {"position", "pixel", "done"}
    stored = wire.columns(buffer, *drawn)
    for key, values in drawn.items():
        np.testing.assert_array_equal(values, stored[key][drawn["index"]])
    assert set(drawn["index"].tolist()) == set(range(7))


def test_every_eligible_frame_is_as_likely_as_any_other(wire: Wire, buffer: str) -> None:
    wire.add(buffer, episode(1), episode(5), episode(2))
    count = 60_000
    (drawn,) = wire.sample(buffer, count, drop_n_last_frames=1, seed=1)
    indices, counts = np.unique(drawn["index"], return_counts=True)
    assert indices.tolist() == [1, 2, 3, 4, 6]  # not the last of any episode
    # Five standard deviations: one run in a million would fail by chance, and this one is seeded.
    spread = 5 * np.sqrt(count * 0.2 * 0.8)
    assert np.abs(counts - count / 5).max() < spread


def test_chosen_columns_and_windows_are_sampled(wire: Wire, buffer: str) -> None:
    wire.add(buffer, episode(4))
    view = view_message(["done"], {"position": [0.1]}, {"pixel": [0, 1]})
    (drawn,) = wire.sample(buffer, 50, view=view, drop_n_last_frames=1)
    assert drawn.keys() == PRESETS | {
        *("done", "position", "position_is_pad", "pixel", "pixel_is_pad")
    }
    assert drawn["position"].shape == (50, 1, 2)
    np.testing.assert_array_equal(drawn["pixel"], drawn["index"][:, None] + [0, 1])
    np.testing.assert_array_equal(drawn["position"][:, 0, 0], drawn["index"] + 1)
    assert not drawn["pixel_is_pad"].any()
    assert not drawn["position_is_pad"].any()


def numbers_of_batches(call: Stream, packs: int) -> list[int]:
    """The batches in each of the next packs, whose arrays must be as long."""
    found = []
    for _ in range(packs):
        first, arrays = call.receive_pack(Response)
        assert {len(array) for array in arrays.values()} == {3 * first.batches}
        found.append(first.batches)
    return found


def test_batches_share_packs_where_that_is_allowed(wire: Wire, buffer: str) -> None:
    wire.add(buffer, episode(4))
    call = wire.stream("SampleBatch")
    call.send(request(10, buffer=buffer, batch_size=3, batches_per_pack=4), more(2), more())
    assert numbers_of_batches(call, 5) == [4, 4, 2, 2, 1]
    call.send(request(2, buffer=buffer, batch_size=3))
    assert numbers_of_batches(call, 2) == [1, 1]


def test_large_batches_share_packs_only_up_to_a_message(wire: Wire, name: str) -> None:
    wire.create(name, spec_message({"wide": ("uint8", (100_000,))}, 10))
    wire.add(name, {"wide": np.zeros((1, 100_000), np.uint8)})
    call = wire.stream("SampleBatch")
    call.send(request(7, buffer=name, batch_size=3, batches_per_pack=1000))
    assert numbers_of_batches(call, 3) == [3, 3, 1]
    call.send(request(2, buffer=name, batch_size=30, batches_per_pack=1000))
    assert [call.receive_pack(Response)[0].batches for _ in range(2)] == [1, 1]


def test_request_waits_for_the_first_episode(wire: Wire, buffer: str) -> None:
    call = wire.stream("SampleBatch")
    call.send(request(buffer=buffer, batch_size=3))
    let_it_turn(wire)
    wire.add(buffer, episode(2))
    assert batch(call)["pixel"].shape == (3,)


def test_request_waits_for_min_frames(wire: Wire, buffer: str) -> None:
    call = wire.stream("SampleBatch")
    call.send(request(buffer=buffer, batch_size=2, min_frames=5))
    for sequence in (1, 2):
        wire.add(buffer, episode(2), sequence=sequence)
        let_it_turn(wire)
    wire.add(buffer, episode(1), sequence=3)
    for _ in range(2):
        first, drawn = call.receive_pack(Response)
        assert (first.next_index, drawn["pixel"].shape) == (5, (2,))
        call.send(more())


def test_request_waits_for_an_eligible_frame(wire: Wire, buffer: str) -> None:
    wire.add(buffer, episode(2), episode(2))
    call = wire.stream("SampleBatch")
    call.send(request(buffer=buffer, batch_size=20, drop_n_last_frames=2))
    let_it_turn(wire)
    wire.add(buffer, episode(3), sequence=3)
    assert set(batch(call)["index"].tolist()) == {4}


class TestCounting:
    """`count_eligible`, for clients that mix what several servers hold."""

    def test_each_pack_says_how_many_frames_were_eligible(self, wire: Wire, buffer: str) -> None:
        wire.add(buffer, episode(4), episode(1), episode(3))
        for drop, eligible in ((0, 8), (1, 5), (2, 3), (3, 1)):
            call = wire.stream("SampleBatch")
            call.send(request(buffer=buffer, batch_size=2, drop_n_last_frames=drop))
            assert call.receive_pack(Response)[0].eligible_frames == 0, "unasked"
            call.send(
                request(buffer=buffer, batch_size=2, drop_n_last_frames=drop, count_eligible=True)
            )
            first, drawn = call.receive_pack(Response)
            assert (first.eligible_frames, len(drawn["index"])) == (eligible, 2)

    def test_the_count_follows_the_ring(self, wire: Wire, buffer: str) -> None:
        call = wire.stream("SampleBatch")
        call.send(request(buffer=buffer, batch_size=2, drop_n_last_frames=1, count_eligible=True))
        first, nothing = call.receive_pack(Response)
        assert (first.eligible_frames, len(nothing["index"])) == (0, 0)
        eligible = 0
        for sequence in range(1, 2 * CAPACITY):
            wire.add(buffer, episode(3), sequence=sequence)
            if sequence > 1:
                call.send(more())
            eligible = call.receive_pack(Response)[0].eligible_frames
        assert eligible == CAPACITY - -(-CAPACITY // 3)

    def test_who_waits_is_told_of_frames_that_are_not_eligible(
        self, wire: Wire, buffer: str
    ) -> None:
        call = wire.stream("SampleBatch")
        call.send(request(buffer=buffer, batch_size=2, drop_n_last_frames=2, count_eligible=True))
        for sequence in range(1, 5):
            first, nothing = call.receive_pack(Response)
            assert (first.eligible_frames, len(nothing["index"])) == (0, 0)
            assert first.next_index == 2 * (sequence - 1)
            wire.add(buffer, episode(2), sequence=sequence)
        assert call.receive_pack(Response)[0].next_index == 8
        wire.add(buffer, episode(3), sequence=5)
        first, drawn = call.receive_pack(Response)
        assert (first.eligible_frames, first.next_index) == (1, 11)
        assert drawn["index"].tolist() == [8, 8]

    def test_a_request_that_waits_is_told_so_once(self, wire: Wire, buffer: str) -> None:
        call = wire.stream("SampleBatch")
        call.send(request(2, buffer=buffer, batch_size=3, count_eligible=True, batches_per_pack=2))
        first, nothing = call.receive_pack(Response)
        assert (first.eligible_frames, nothing["pixel"].shape[0]) == (0, 0)
        let_it_turn(wire)
        wire.add(buffer, episode(2))
        first, drawn = call.receive_pack(Response)
        assert (first.eligible_frames, first.batches, len(drawn["pixel"])) == (2, 2, 6)


def test_waiting_ends_with_the_callers_deadline(wire: Wire, buffer: str) -> None:
    with refused("DEADLINE_EXCEEDED", None):
        wire.sample(buffer, 2, timeout=0.2)


def test_every_request_is_answered_with_as_many_batches_as_it_asks_for(
    wire: Wire, buffer: str
) -> None:
    wire.add(buffer, episode(4))
    call = wire.stream("SampleBatch")
    for asked, expected in ((request(buffer=buffer, batch_size=2), 1), (more(5), 5), (more(), 1)):
        call.send(asked)
        for _ in range(expected):
            assert batch(call)["pixel"].shape == (2,)
        let_it_turn(wire)
    call.send(more(2), more(1))
    call.done_sending()
    assert len(list(call)) == 3  # a small batch is one message


def test_batch_is_drawn_when_it_is_asked_for(wire: Wire, buffer: str) -> None:
    wire.add(buffer, episode(1))
    call = wire.stream("SampleBatch")
    call.send(request(buffer=buffer, batch_size=1))
    first, drawn = call.receive_pack(Response)
    assert (first.next_index, drawn["index"].tolist()) == (1, [0])
    for number in range(2, 4):
        wire.add(buffer, episode(CAPACITY), sequence=number)
        call.send(more())
        first, drawn = call.receive_pack(Response)
        assert first.next_index == 1 + (number - 1) * CAPACITY
        assert first.next_index - CAPACITY <= drawn["index"][0] < first.next_index


def test_next_index_comes_with_the_pack(wire: Wire, buffer: str) -> None:
    wire.add(buffer, episode(4))
    (reply,) = wire.call("SampleBatch", request(buffer=buffer, batch_size=1))
    assert Response.FromString(reply).next_index == 4


def test_spec_may_change_in_the_middle_of_a_call(wire: Wire, buffer: str) -> None:
    other = buffer + "-other"
    wire.create(other, spec_message({"x": ("int64", ())}))
    wire.add(buffer, episode(4))
    wire.add(other, {"x": np.full(3, 7)})
    call = wire.stream("SampleBatch")
    call.send(request(buffer=buffer, batch_size=2))
    assert batch(call)["pixel"].shape == (2,)
    call.send(request(buffer=other, batch_size=5))
    assert batch(call)["x"].tolist() == [7] * 5
    call.send(more())
    assert batch(call)["x"].tolist() == [7] * 5
    call.send(request(buffer=buffer, batch_size=3, view=view_message(["done"])))
    assert batch(call).keys() == PRESETS | {"done"}


def test_bad_spec_in_the_middle_of_a_call_ends_it(wire: Wire, buffer: str) -> None:
    wire.add(buffer, episode(4))
    call = wire.stream("SampleBatch")
    call.send(request(buffer=buffer, batch_size=2))
    batch(call)
    call.send(request(buffer=buffer, batch_size=0))
    with refused("INVALID_ARGUMENT", "InvalidRequestError", "batch_size is 0"):
        call.receive()


def test_seed_makes_a_call_repeat_itself(wire: Wire, buffer: str) -> None:
    wire.add(buffer, episode(9))
    for seed in (0, 7, (1 << 64) - 1):
        runs = [wire.sample(buffer, 100, batches=3, seed=seed) for _ in range(2)]
        first, second = ([drawn["index"].tolist() for drawn in run] for run in runs)
        assert first == second
        assert first[0] != first[1]  # yet its batches differ


def test_calls_without_a_seed_differ(wire: Wire, buffer: str) -> None:
    wire.add(buffer, episode(9))
    runs = [wire.sample(buffer, 100)[0]["index"].tolist() for _ in range(4)]
    assert len({tuple(run) for run in runs}) == 4


def test_batch_larger_than_any_message_comes_in_pieces(wire: Wire, name: str) -> None:
    wire.create(name, spec_message({"image": ("uint8", (512, 512)), "x": ("int32", ())}))
    images = np.arange(20, dtype=np.uint8)[:, None, None] * np.ones((512, 512), np.uint8)
    wire.add(name, {"image": images, "x": np.arange(20, dtype=np.int32)})
    spec = replay_pb2.SampleSpec(buffer=name, batch_size=50)
    replies = wire.call("SampleBatch", replay_pb2.SampleBatchRequest(spec=spec, batches=2))
    assert max(map(len, replies)) <= CHUNK_BYTES + 4096
    for drawn in wire.sample(name, 50, batches=2):
        assert (drawn["image"] == drawn["x"][:, None, None]).all()
        assert len(set(drawn["x"].tolist())) > 5


def test_many_learners_wait_at_once_and_all_wake(
    server: ServerProcess, wire: Wire, buffer: str
) -> None:
    calls = [wire.stream("SampleBatch") for _ in range(50)]
    for call in calls:
        call.send(request(buffer=buffer, batch_size=2))
    let_it_turn(wire)
    wire.add(buffer, episode(3))
    for call in calls:
        assert batch(call)["pixel"].shape == (2,)
