"""Adding episodes: whole, at once, in order; refused ones leave nothing behind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from replayring_proto.errors import InvalidEpisodeError
from tests.contract.data import CAPACITY, COLUMNS, FPS, episode, flat, make, numbers, snapshot
from tests.contract.transports import Ack, Transport

NAN, INF = float("nan"), float("inf")


def place(ack: Ack) -> tuple[int, int, int]:
    return ack.episode_index, ack.index, ack.num_frames


def test_episodes_continue_index_and_episode_index(transport: Transport, name: str) -> None:
    buffer = make(transport, name)
    assert place(buffer.add_episode(episode(3))) == (0, 0, 3)
    assert [place(a) for a in buffer.add_episodes([episode(2), episode(4)])] == [
        (1, 3, 2),
        (2, 5, 4),
    ]
    assert [place(a) for a in buffer.add_data(flat(1, 2))] == [(3, 9, 1), (4, 10, 2)]
    stored = buffer.read_columns(["index", "episode_index", "frame_index", "timestamp"])
    assert stored["index"].tolist() == list(range(12))
    assert stored["episode_index"].tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 4, 4]
    assert stored["frame_index"].tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 3, 0, 0, 1]
    np.testing.assert_array_equal(stored["timestamp"], stored["frame_index"] / FPS)
    info = buffer.info()
    assert (info.num_frames, info.num_episodes) == (12, 5)
    assert (info.next_index, info.next_episode_index) == (12, 5)


def test_oldest_frames_give_way_one_by_one(transport: Transport, name: str) -> None:
    buffer = make(transport, name, capacity=5)
    live: list[int] = []
    for start in range(0, 60, 3):
        buffer.add_episode(episode(3, start))
        live = [*live, start, start + 1, start + 2][-5:]
        assert sorted(numbers(buffer)) == live
        info = buffer.info()
        assert (info.oldest_index, info.next_index) == (live[0], live[-1] + 1)
        assert info.num_episodes == len({number // 3 for number in live})


def test_episode_as_long_as_the_capacity_replaces_everything(
    transport: Transport, name: str
) -> None:
    buffer = make(transport, name)
    buffer.add_episode(episode(7))
    for turn in range(1, 6):
        ack = buffer.add_episode(episode(CAPACITY, 100 * turn))
        assert place(ack) == (turn, 7 + CAPACITY * (turn - 1), CAPACITY)
        assert sorted(numbers(buffer)) == list(range(100 * turn, 100 * turn + CAPACITY))
        assert buffer.info().num_episodes == 1


def test_values_are_cast_to_the_columns_dtype(transport: Transport, name: str) -> None:
    buffer = make(transport, name)
    image = np.full((2, 2, 3), 255, np.uint16)
    state = np.array([[1, 2], [3, 4]], np.float64) / 3
    buffer.add_episode(episode(2, image=image, state=state, timestamp=np.float32([5, 6])))
    stored = buffer.get([0, 1])
    assert {key: array.dtype.name for key, array in stored.items()} == {
        "done": "bool",
        "episode_index": "int64",
        "frame_index": "int64",
        "image": "uint8",
        "index": "int64",
        "state": "float32",
        "timestamp": "float64",
    }
    np.testing.assert_array_equal(stored["state"], state.astype(np.float32))
    assert (stored["image"] == 255).all()
    assert stored["timestamp"].tolist() == [5, 6]


def test_arrays_of_any_layout_are_stored_right(transport: Transport, name: str) -> None:
    buffer = make(transport, name)
    values = np.arange(24, dtype=np.uint8).reshape(3, 2, 4)
    image = values.transpose(2, 1, 0)  # neither C order nor contiguous
    state = np.arange(16, dtype=np.float32).reshape(8, 2)[::-2]
    buffer.add_episode(episode(4, image=image, state=state))
    stored = buffer.get([0, 1, 2, 3])
    np.testing.assert_array_equal(stored["image"], image)
    np.testing.assert_array_equal(stored["state"], state)


def test_what_the_caller_hands_in_is_not_changed(transport: Transport, name: str) -> None:
    buffer = make(transport, name)
    buffer.add_episode(episode(3))
    data, one = flat(2, 3), episode(4)
    copies = {key: array.copy() for key, array in data.items()}
    for array in (*data.values(), *one.values()):
        array.setflags(write=False)
    buffer.add_data(data)
    buffer.add_data(data)  # which is why a second time works
    buffer.add_episode(one)
    for key, array in data.items():
        np.testing.assert_array_equal(array, copies[key])


def test_later_changes_of_the_callers_arrays_do_not_reach_the_buffer(
    transport: Transport, name: str
) -> None:
    buffer = make(transport, name)
    mine = episode(3)
    buffer.add_episode(mine)
    for array in mine.values():
        array[...] = 77
    assert numbers(buffer) == [0, 1, 2]


def test_add_data_ignores_foreign_keys(transport: Transport, name: str) -> None:
    buffer = make(transport, name)
    buffer.add_data({**flat(2, 1), "task": ["a", "b", "c"], "anything": np.zeros((7, 7))})
    assert numbers(buffer) == [0, 1, 2]


def test_copy_padded_last_frame_is_taken(transport: Transport, name: str) -> None:
    buffer = make(transport, name)
    times = np.array([0.0, 0.1, 0.2, 0.2])
    buffer.add_episode(episode(4, timestamp=times))
    assert buffer.read_columns(["timestamp"])["timestamp"].tolist() == times.tolist()


EPISODES: dict[str, dict[str, Any]] = {
    "unknown key": episode(3, reward=np.zeros(3)),
    "index given": episode(3, index=np.arange(3)),
    "missing key": {key: value for key, value in episode(3).items() if key != "state"},
    "wrong shape": episode(3, state=np.zeros((3, 1), np.float32)),
    "broadcastable shape": episode(3, image=np.zeros((3, 1, 3), np.uint8)),
    "scalar": episode(3, done=np.array(True)),
    "300.7 into uint8": episode(3, image=np.full((3, 2, 3), 300.7)),
    "300 into uint8": episode(3, image=np.full((3, 2, 3), 300)),
    "float into bool": episode(3, done=np.zeros(3)),
    "unequal lengths": episode(3, done=np.zeros(4, bool)),
    "no frames": episode(0),
    "more than the capacity": episode(CAPACITY + 1),
    "NaN timestamp": episode(3, timestamp=np.array([0, NAN, 1])),
    "infinite timestamp": episode(3, timestamp=np.array([-INF, 0, 1])),
    "decreasing timestamp": episode(3, timestamp=np.array([0, 1, 0.5])),
    "fractional frame_index": episode(3, frame_index=np.array([0, 0.5, 1])),
}


@pytest.mark.parametrize("bad", EPISODES.values(), ids=EPISODES.keys())
def test_misfit_episode_leaves_nothing_behind(
    transport: Transport, name: str, bad: dict[str, Any]
) -> None:
    buffer = make(transport, name)
    buffer.add_episodes([episode(4), episode(3, 4)])
    before = snapshot(buffer)
    with pytest.raises(InvalidEpisodeError):
        buffer.add_episode(bad)
    assert snapshot(buffer) == before
    assert place(buffer.add_episode(episode(2, 7))) == (2, 7, 2)
    assert numbers(buffer) == list(range(9))


DATA: dict[str, dict[str, Any]] = {
    "missing column": {key: value for key, value in flat(2, 3).items() if key != "state"},
    "missing index": {key: value for key, value in flat(2, 3).items() if key != "index"},
    "missing timestamp": {key: value for key, value in flat(2, 3).items() if key != "timestamp"},
    "index from 1": flat(2, 3, index=np.arange(1, 6)),
    "index with a gap": flat(2, 3, index=np.array([0, 1, 2, 4, 5])),
    "episode_index from 1": flat(2, 3, episode_index=np.array([1, 1, 2, 2, 2])),
    "episode_index with a gap": flat(2, 3, episode_index=np.array([0, 0, 2, 2, 2])),
    "episode_index that falls": flat(2, 3, episode_index=np.array([0, 0, 1, 1, 0])),
    "unequal lengths": flat(2, 3, done=np.zeros(4, bool)),
    "no frames": {key: value[:0] for key, value in flat(2).items()},
    "a second episode that does not fit": flat(2, 3, timestamp=np.array([0, 0.1, 0, NAN, 0.2])),
    "a second episode beyond the capacity": flat(2, CAPACITY + 1),
}


@pytest.mark.parametrize("bad", DATA.values(), ids=DATA.keys())
def test_misfit_data_leaves_nothing_behind(
    transport: Transport, name: str, bad: dict[str, Any]
) -> None:
    buffer = make(transport, name)
    buffer.add_data(flat(4, 3))
    before = snapshot(buffer)
    with pytest.raises(InvalidEpisodeError):
        buffer.add_data(bad)
    assert snapshot(buffer) == before
    assert [place(a) for a in buffer.add_data(flat(2, start=7))] == [(2, 7, 2)]
    assert numbers(buffer) == list(range(9))


def test_data_longer_than_the_capacity_is_stored_episode_by_episode(
    transport: Transport, name: str
) -> None:
    buffer = make(transport, name, capacity=5)
    buffer.add_data(flat(4, 4, 4))
    assert sorted(numbers(buffer)) == [7, 8, 9, 10, 11]
    assert set(COLUMNS) == set(buffer.get([0]))
