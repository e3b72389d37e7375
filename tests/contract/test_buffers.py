"""Making, finding and deleting buffers."""

from __future__ import annotations

import numpy as np
import pytest

from replayring_proto.errors import AlreadyExistsError, InvalidSpecError, NotFoundError
from tests.contract.data import CAPACITY, COLUMNS, DATA_SPEC, FPS, episode, make, numbers
from tests.contract.transports import Transport


def test_new_buffer_is_empty_and_as_asked_for(transport: Transport, name: str) -> None:
    info = make(transport, name).info()
    capacity = CAPACITY * transport.shards
    assert (info.name, info.capacity, info.fps, info.num_frames) == (name, capacity, FPS, 0)
    assert (info.num_episodes, info.next_index, info.next_episode_index) == (0, 0, 0)
    columns = {c.name: (c.dtype, c.shape) for c in info.spec.columns}
    assert columns == {
        "image": (np.dtype("uint8"), (2, 3)),
        "state": (np.dtype("float32"), (2,)),
        "done": (np.dtype("bool"), ()),
    }
    assert list(info.spec.by_name) == COLUMNS


def test_equal_spec_finds_the_same_buffer(transport: Transport, name: str) -> None:
    make(transport, name).add_episode(episode(3))
    shuffled = dict(reversed(DATA_SPEC.items()))
    again = transport.create_buffer(name, shuffled, CAPACITY, fps=FPS)
    assert numbers(again) == numbers(transport.buffer(name)) == [0, 1, 2]
    assert again.info().buffer_id == transport.buffer(name).info().buffer_id


@pytest.mark.parametrize("change", ["capacity", "fps", "no fps", "dtype", "shape", "column"])
def test_another_spec_is_refused_and_changes_nothing(
    transport: Transport, name: str, change: str
) -> None:
    buffer = make(transport, name)
    buffer.add_episode(episode(3))
    before = buffer.info()
    capacity = CAPACITY + (change == "capacity")
    fps = {"fps": 2 * FPS, "no fps": None}.get(change, FPS)
    columns = {
        "dtype": {"done": {"shape": (), "dtype": "uint8"}},
        "shape": {"done": {"shape": (1,), "dtype": bool}},
        "column": {"more": {"shape": (), "dtype": bool}},
    }
    with pytest.raises(AlreadyExistsError, match="another spec"):
        transport.create_buffer(name, {**DATA_SPEC, **columns.get(change, {})}, capacity, fps=fps)
    assert buffer.info() == before
    assert numbers(buffer) == [0, 1, 2]


def test_unknown_buffer_is_not_found(transport: Transport, name: str) -> None:
    with pytest.raises(NotFoundError, match=name):
        transport.buffer(name).info()
    with pytest.raises(NotFoundError, match=name):
        transport.delete_buffer(name)


def test_deleted_buffer_is_gone_and_its_name_is_free(transport: Transport, name: str) -> None:
    old = make(transport, name)
    old.add_episode(episode(3))
    old_id = old.info().buffer_id
    transport.delete_buffer(name)
    assert name not in transport.names()
    with pytest.raises(NotFoundError):
        transport.buffer(name).info()
    with pytest.raises(NotFoundError):
        old.add_episode(episode(3))
    new = make(transport, name).info()
    assert new.num_frames == 0
    assert new.buffer_id != old_id


def test_buffers_are_listed_by_name_and_apart(transport: Transport, name: str) -> None:
    for number, suffix in enumerate(("b", "a", "c")):
        make(transport, name + suffix).add_episode(episode(2, 10 * number))
    listed = [other for other in transport.names() if other.startswith(name)]
    assert listed == [name + "a", name + "b", name + "c"]
    assert numbers(transport.buffer(name + "a")) == [10, 11]


BAD_SPECS = {
    "no columns": ({}, 5, None),
    "capacity 0": (DATA_SPEC, 0, None),
    "capacity 2^63": (DATA_SPEC, (1 << 63) - 1, None),
    "fps 0": (DATA_SPEC, 5, 0.0),
    "fps NaN": (DATA_SPEC, 5, float("nan")),
    "a preset": ({"index": {"shape": (), "dtype": "int64"}}, 5, None),
    "a reserved name": ({"_x": {"shape": (), "dtype": "int64"}}, 5, None),
    "a path": ({"../x": {"shape": (), "dtype": "int64"}}, 5, None),
    "an object": ({"x": {"shape": (), "dtype": object}}, 5, None),
    "a string": ({"x": {"shape": (), "dtype": "U5"}}, 5, None),
    "an empty axis": ({"x": {"shape": (2, 0), "dtype": "int64"}}, 5, None),
    "no shape": ({"x": {"dtype": "int64"}}, 5, None),
}


@pytest.mark.parametrize(("data_spec", "capacity", "fps"), BAD_SPECS.values(), ids=BAD_SPECS.keys())
def test_bad_spec_makes_no_buffer(
    transport: Transport, name: str, data_spec: dict, capacity: int, fps: float | None
) -> None:
    with pytest.raises(InvalidSpecError):
        transport.create_buffer(name, data_spec, capacity, fps=fps)
    assert name not in transport.names()


@pytest.mark.parametrize("bad", ["", "../x", "a/b", ".hidden", "n" * 65, "a b"])
def test_bad_name_makes_no_buffer(transport: Transport, bad: str) -> None:
    before = transport.names()
    with pytest.raises(ValueError, match="buffer name"):
        transport.create_buffer(bad, DATA_SPEC, 5)
    assert transport.names() == before
