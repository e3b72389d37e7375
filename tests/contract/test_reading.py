"""Fetching frames by position and by `index`, and whole columns."""

from __future__ import annotations

import numpy as np
import pytest

from replayring_proto.errors import FrameNotFoundError, InvalidSpecError
from tests.contract.data import CAPACITY, COLUMNS, DATA_SPEC, PRESETS, episode, make, numbers
from tests.contract.transports import BufferUnderTest, Transport

CAP = 7


def turned(transport: Transport, name: str) -> BufferUnderTest:
    """Returns a buffer of 7 frames, of which 10 to 16 live, in the slots 3..6 and 0..2."""
    buffer = make(transport, name, CAP)
    for start in (0, 4, 8, 12):
        buffer.add_episode(episode(4, start))
    buffer.add_episode(episode(1, 16))
    return buffer


SLOTS = [14, 15, 16, 10, 11, 12, 13]


def test_positions_follow_the_slots_of_the_ring(transport: Transport, name: str) -> None:
    buffer = turned(transport, name)
    assert numbers(buffer) == SLOTS
    everything = buffer.get(list(range(CAP)))
    assert everything["index"].tolist() == SLOTS
    assert everything["state"][:, 0].tolist() == SLOTS


def test_positions_come_in_the_order_asked_for_and_as_often(
    transport: Transport, name: str
) -> None:
    buffer = turned(transport, name)
    for asked in ([0], [6, 0, 3, 3, 0], [-1, -CAP, 2], [-1] * 50):
        assert buffer.get(asked)["index"].tolist() == [SLOTS[position] for position in asked]


def test_negative_positions_count_from_the_end_before_the_ring_is_full(
    transport: Transport, name: str
) -> None:
    buffer = make(transport, name)
    buffer.add_episode(episode(3, 50))
    assert buffer.get([-1, -2, -3])["state"][:, 0].tolist() == [52, 51, 50]


@pytest.mark.parametrize("position", [3, -4, CAPACITY, -CAPACITY, (1 << 62), -(1 << 62)])
def test_position_out_of_range_is_an_index_error(
    transport: Transport, name: str, position: int
) -> None:
    buffer = make(transport, name)
    buffer.add_episode(episode(3))
    with pytest.raises(FrameNotFoundError, match="out of range") as caught:
        buffer.get([0, position])
    assert isinstance(caught.value, IndexError)


@pytest.mark.parametrize("position", [0, -1])
def test_empty_buffer_has_no_position(transport: Transport, name: str, position: int) -> None:
    with pytest.raises(IndexError, match="empty"):
        make(transport, name).get([position])


def test_index_names_a_frame_for_as_long_as_it_lives(transport: Transport, name: str) -> None:
    buffer = turned(transport, name)
    assert buffer.get(indices=[16, 10, 13, 10])["state"][:, 0].tolist() == [16, 10, 13, 10]
    for index, what in ((9, "overwritten"), (0, "overwritten"), (17, "not exist yet")):
        with pytest.raises(FrameNotFoundError, match=what):
            buffer.get(indices=[10, index])
    buffer.add_episode(episode(1, 17))
    assert buffer.get(indices=[17])["state"][:, 0].tolist() == [17]
    with pytest.raises(IndexError, match="overwritten"):
        buffer.get(indices=[10])


def test_frames_are_whole_and_of_the_declared_form(transport: Transport, name: str) -> None:
    buffer = turned(transport, name)
    fetched = buffer.get([0, 3])
    assert sorted(fetched) == COLUMNS
    assert fetched["image"].tolist() == [[[14] * 3] * 2, [[10] * 3] * 2]
    assert fetched["state"].tolist() == [[14, -14], [10, -10]]
    assert fetched["done"].tolist() == [False, False]
    assert fetched["episode_index"].tolist() == [3, 2]
    assert fetched["frame_index"].tolist() == [2, 2]
    for key, array in fetched.items():
        assert array.dtype == buffer.spec.by_name[key].dtype
        assert array.shape[1:] == buffer.spec.by_name[key].shape


def test_chosen_columns_come_with_the_presets(transport: Transport, name: str) -> None:
    buffer = turned(transport, name)
    assert buffer.get([0], keys=["done"]).keys() == PRESETS | {"done"}
    assert buffer.get([0], keys=["index", "image"]).keys() == PRESETS | {"image"}
    assert buffer.get([0], keys=[]).keys() == PRESETS
    assert buffer.get([0], keys=None).keys() == PRESETS | DATA_SPEC.keys()
    with pytest.raises(InvalidSpecError, match="no column 'nope'"):
        buffer.get([0], keys=["done", "nope"])


def test_what_is_handed_out_does_not_alias_the_ring(transport: Transport, name: str) -> None:
    buffer = turned(transport, name)
    for fetched in (
        buffer.get([0, 1]),
        buffer.get(indices=[12], delta_indices={"state": [0, 1]}),
        buffer.sample(5),
        buffer.read_columns(["state", "image", "index"]),
    ):
        for array in fetched.values():
            assert array.flags.writeable
            array[...] = 1
    assert numbers(buffer) == SLOTS
    assert buffer.get([0])["image"].max() == 14


def test_columns_come_in_position_order(transport: Transport, name: str) -> None:
    buffer = turned(transport, name)
    columns = buffer.read_columns(["index", "state", "done"])
    assert list(columns) == ["index", "state", "done"]
    assert columns["index"].tolist() == SLOTS
    assert columns["state"][:, 1].tolist() == [-number for number in SLOTS]
    assert columns["done"].tolist() == [number in (11, 15, 16) for number in SLOTS]
    with pytest.raises(InvalidSpecError, match="no column 'nope'"):
        buffer.read_columns(["done", "nope"])


def test_columns_of_an_empty_buffer_are_empty(transport: Transport, name: str) -> None:
    columns = make(transport, name).read_columns(["image", "timestamp"])
    assert columns["image"].shape == (0, 2, 3)
    assert (columns["timestamp"].shape, columns["timestamp"].dtype.name) == ((0,), "float64")


@pytest.mark.parametrize("capacity", [1, 2, 3, 64, 65])
def test_any_capacity_turns_right(transport: Transport, name: str, capacity: int) -> None:
    buffer = make(transport, name, capacity)
    live: list[int] = []
    start = 0
    for length in (1, capacity, 1, (capacity + 1) // 2, capacity, 1, 1, capacity, capacity, 1):
        buffer.add_episode(episode(length, start))
        live = [*live, *range(start, start + length)][-capacity:]
        start += length
        in_order = sorted(live, key=lambda number: number % capacity)
        assert numbers(buffer) == in_order
        assert buffer.get(np.arange(-len(live), 0))["index"].tolist() == in_order
