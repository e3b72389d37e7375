"""RemoteDataset: what it says of its buffer, and single items."""

from __future__ import annotations

import gc
import pickle
import weakref

import numpy as np
import pytest
import torch

from replayring.dataset import RemoteDataset
from replayring_proto.errors import InvalidRequestError, OvertakenError
from replayring_proto.spec import DTYPES
from tests.client.torch_buffers import (
    DATA_SPEC,
    MakeBuffer,
    count_calls,
    make_naive,
    rollout,
)

pytest_plugins = ["tests.client.torch_fixtures"]

PRESETS = {"index", "episode_index", "frame_index", "timestamp"}


def test_constants_name_the_preset_columns() -> None:
    assert RemoteDataset.INDEX_KEY == "index"
    assert RemoteDataset.FRAME_INDEX_KEY == "frame_index"
    assert RemoteDataset.EPISODE_INDEX_KEY == "episode_index"
    assert RemoteDataset.TIMESTAMP_KEY == "timestamp"
    assert RemoteDataset.IS_PAD_POSTFIX == "_is_pad"


def test_empty_buffer(make_buffer: MakeBuffer) -> None:
    dataset = RemoteDataset(make_buffer())
    assert len(dataset) == dataset.num_frames == dataset.num_episodes == 0
    assert list(dataset) == []
    assert dataset.get_data_by_key("state").shape == (0, 2, 3)
    for position in (0, -1):
        with pytest.raises(IndexError):
            dataset[position]
        with pytest.raises(IndexError):
            dataset.__getitems__([position])


def test_an_index_is_a_frame_and_a_position_a_place(make_buffer: MakeBuffer) -> None:
    dataset = RemoteDataset(make_buffer(capacity=10), delta_indices={"state": [0, 1]})
    dataset.add_data(rollout(10))
    seen = dataset[2]
    same = dataset.by_index([7, int(seen["index"])])
    assert same["index"].tolist() == [7, 2]
    assert torch.equal(same["state"][1], seen["state"])
    assert same["state_is_pad"].shape == (2, 2)
    dataset.add_data(rollout(5))
    assert dataset[2]["index"] == 12, "the place has another frame"
    with pytest.raises(IndexError, match=r"\b2\b"):
        dataset.by_index([12, 2])
    with pytest.raises(TypeError):
        dataset.by_index([1.5])  # type: ignore[list-item]


def test_counts_and_spec_follow_the_buffer(make_buffer: MakeBuffer) -> None:
    dataset = RemoteDataset(make_buffer(capacity=10))
    assert dataset.fps == 10.0
    assert dataset.data_keys == sorted({*DATA_SPEC, *PRESETS})
    acknowledgements = dataset.add_data(rollout(3, 4))
    assert [(a.episode_index, a.index, a.num_frames) for a in acknowledgements] == [
        (0, 0, 3),
        (1, 3, 4),
    ]
    assert (len(dataset), dataset.num_frames, dataset.num_episodes) == (7, 7, 2)
    dataset.add_data(rollout(5))  # the first two frames go, not their episode
    assert (len(dataset), dataset.num_frames, dataset.num_episodes) == (10, 10, 3)
    dataset.add_data(rollout(2))  # now the episode is gone, and one frame of the next
    assert (len(dataset), dataset.num_frames, dataset.num_episodes) == (10, 10, 3)


def test_item_has_every_column_as_a_tensor(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer()
    buffer.add_data(rollout(3, 2))
    item = RemoteDataset(buffer)[3]
    assert item.keys() == {*DATA_SPEC, *PRESETS}
    assert all(type(value) is torch.Tensor for value in item.values())
    shapes = {key: tuple(value.shape) for key, value in item.items()}
    assert shapes == {"state": (2, 3), "action": (), "image": (2,)} | dict.fromkeys(PRESETS, ())
    assert item["state"].dtype == torch.float32
    assert item["action"].dtype == item["timestamp"].dtype == torch.float64
    assert item["image"].dtype == torch.uint8
    assert item["index"].dtype == torch.int64
    assert item["state"].equal(3 + torch.arange(6, dtype=torch.float32).reshape(2, 3) / 8)
    assert item["action"].item() == -3
    assert [item[k].item() for k in ("index", "episode_index", "frame_index")] == [3, 1, 0]


def test_positions_are_slots(make_buffer: MakeBuffer) -> None:
    dataset = RemoteDataset(make_buffer(capacity=10))
    dataset.add_data(rollout(6, 6, 6))  # frames 8..17 live; 10..17 lie in slots 0..7
    expected = [10, 11, 12, 13, 14, 15, 16, 17, 8, 9]
    assert [int(dataset[i]["index"]) for i in range(10)] == expected
    assert [int(dataset[i]["index"]) for i in range(-10, 0)] == expected
    assert dataset.get_data_by_key("index").tolist() == expected
    assert [int(item["index"]) for item in dataset] == expected


@pytest.mark.parametrize("capacity", [5, 7, 100])
def test_positions_outside_raise_index_error(make_buffer: MakeBuffer, capacity: int) -> None:
    dataset = RemoteDataset(make_buffer(capacity=capacity))
    dataset.add_data(rollout(5))
    for position in (5, -6, 99, 1 << 40, 1 << 63, -(1 << 63) - 1, 10**30):
        with pytest.raises(IndexError, match=str(position)):
            dataset[position]


@pytest.mark.parametrize(
    "position",
    [np.int64(2), np.uint8(2), np.array(2), torch.tensor(2), torch.tensor(2, dtype=torch.uint8)],
)
def test_positions_of_other_integer_types(position: object) -> None:
    dataset = RemoteDataset(make_naive())
    dataset.add_data(rollout(4))
    assert int(dataset[position]["index"]) == 2
    assert int(dataset.__getitems__([position])[0]["index"]) == 2


@pytest.mark.parametrize("position", [1.0, "1", None, slice(0, 2), torch.tensor(1.0)])
def test_positions_that_are_no_integers(position: object) -> None:
    dataset = RemoteDataset(make_naive())
    dataset.add_data(rollout(4))
    with pytest.raises(TypeError, match="__getitems__"):
        dataset[position]


def test_what_is_handed_out_belongs_to_the_caller(make_buffer: MakeBuffer) -> None:
    dataset = RemoteDataset(make_buffer())
    dataset.add_data(rollout(4))
    expected = {key: value.clone() for key, value in dataset[1].items()}
    handed_out = [dataset[1], dataset.__getitems__([1, 2])[0], next(iter(dataset))]
    for item in handed_out:
        for value in item.values():
            value.zero_()
    dataset.get_data_by_key("state").zero_()
    again = dataset[1]
    assert all(again[key].equal(expected[key]) for key in expected)


def test_items_of_a_batch_do_not_share_memory(make_buffer: MakeBuffer) -> None:
    dataset = RemoteDataset(make_buffer())
    dataset.add_data(rollout(9))
    batch = dataset.__getitems__([3, 3, 4])
    batch[0]["state"].zero_()
    assert batch[1]["state"].any()


def test_an_item_that_is_kept_does_not_keep_its_block() -> None:
    dataset = RemoteDataset(make_naive())
    dataset.add_data(rollout(40))
    get, blocks = dataset.buffer.get, []

    def recorded(positions: list[int], **options: object) -> dict[str, np.ndarray]:
        arrays = get(positions, **options)
        if len(positions) > 1:
            blocks.extend(weakref.ref(array) for array in arrays.values())
        return arrays

    dataset.buffer.get = recorded
    items = list(dataset)
    gc.collect()
    assert len(items) == 40
    assert blocks
    assert not any(block() is not None for block in blocks)


def test_add_data_takes_tensors_and_changes_nothing(make_buffer: MakeBuffer) -> None:
    dataset = RemoteDataset(make_buffer())
    data = {key: torch.from_numpy(value) for key, value in rollout(3, 2).items()}
    before = {key: value.clone() for key, value in data.items()}
    dataset.add_data(data)
    dataset.add_data(data)  # as a retry would
    assert all(data[key].equal(before[key]) for key in data)
    assert dataset.get_data_by_key("index").tolist() == list(range(10))
    assert dataset.get_data_by_key("episode_index").tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]


def test_add_data_ignores_other_keys(make_buffer: MakeBuffer) -> None:
    dataset = RemoteDataset(make_buffer())
    dataset.add_data({**rollout(2), "task": ["pick", "place"]})
    assert len(dataset) == 2
    assert "task" not in dataset[0]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data.pop("action"),
        lambda data: data.update(action=data["action"][:-1]),
        lambda data: data.update(state=data["state"][:, :1]),
        lambda data: data.update(index=data["index"] + 1),
        lambda data: data.update(episode_index=data["episode_index"] + 1),
        lambda data: data.update(timestamp=np.full(len(data["index"]), np.nan)),
        lambda data: data.update(image=data["image"].astype(np.float32) + 0.7),
    ],
)
def test_add_data_that_does_not_fit_adds_nothing(make_buffer: MakeBuffer, spoil: object) -> None:
    dataset = RemoteDataset(make_buffer())
    data = rollout(3, 2)
    spoil(data)
    with pytest.raises(InvalidRequestError):
        dataset.add_data(data)
    assert len(dataset) == 0
    dataset.add_data(rollout(3, 2))
    assert dataset.get_data_by_key("episode_index").tolist() == [0, 0, 0, 1, 1]


def test_data_longer_than_the_capacity(make_buffer: MakeBuffer) -> None:
    dataset = RemoteDataset(make_buffer(capacity=8))
    with pytest.raises(ValueError, match="8"):
        dataset.add_data(rollout(9))
    assert len(dataset) == 0
    dataset.add_data(rollout(5, 6))  # in all it is longer, but each episode fits
    assert sorted(dataset.get_data_by_key("index").tolist()) == list(range(3, 11))


def test_get_data_by_key(make_buffer: MakeBuffer) -> None:
    dataset = RemoteDataset(make_buffer())
    data = rollout(3, 4)
    dataset.add_data(data)
    for key in dataset.data_keys:
        column = dataset.get_data_by_key(key)
        assert isinstance(column, torch.Tensor)
        assert np.array_equal(column.numpy(), data[key])
    with pytest.raises(ValueError, match="nothing"):
        dataset.get_data_by_key("nothing")


def test_read_columns_shows_the_same_frames(make_buffer: MakeBuffer) -> None:
    dataset = RemoteDataset(make_buffer(capacity=6))
    dataset.add_data(rollout(4, 4))
    columns = dataset.read_columns(["action", "index"])
    assert columns.keys() == {"action", "index"}
    assert columns["action"].tolist() == [-i for i in columns["index"].tolist()]


def test_keys_narrow_items_only(make_buffer: MakeBuffer) -> None:
    dataset = RemoteDataset(make_buffer(), {"image": [0.0]}, keys=["action"])
    dataset.add_data(rollout(3))
    assert dataset[0].keys() == {"action", "image", "image_is_pad", *PRESETS}
    assert dataset.__getitems__([0, 1])[1].keys() == dataset[0].keys()
    assert next(iter(dataset)).keys() == dataset[0].keys()
    assert dataset.data_keys == sorted({*DATA_SPEC, *PRESETS})
    assert dataset.get_data_by_key("state").shape == (3, 2, 3)


@pytest.mark.parametrize("keys", [["nothing"], "state"])
def test_keys_are_checked_at_once(make_buffer: MakeBuffer, keys: object) -> None:
    with pytest.raises(InvalidRequestError):
        RemoteDataset(make_buffer(), keys=keys)


def test_many_frames_cross_as_one_batch(make_buffer: MakeBuffer) -> None:
    dataset = RemoteDataset(make_buffer())
    dataset.add_data(rollout(5, 6))
    positions = [10, -1, 0, 3, 3, -11]
    batch = dataset.__getitems__(positions)
    assert [int(item["index"]) for item in batch] == [10, 10, 0, 3, 3, 0]
    for item, position in zip(batch, positions, strict=True):
        single = dataset[position]
        assert item.keys() == single.keys()
        assert all(item[key].equal(single[key]) for key in single)
    assert list(dataset.__getitems__([])) == []


def test_batch_with_a_position_outside_names_it(make_buffer: MakeBuffer) -> None:
    dataset = RemoteDataset(make_buffer())
    dataset.add_data(rollout(5))
    with pytest.raises(IndexError, match="-6"):
        dataset.__getitems__([0, 4, -6, 1])


def test_a_batch_is_one_call() -> None:
    dataset = RemoteDataset(make_naive())
    dataset.add_data(rollout(9))
    calls = count_calls(dataset.buffer)
    dataset.__getitems__(list(range(9)))
    assert calls == ["get"]


def test_all_dtypes(make_buffer: MakeBuffer) -> None:
    names = list(DTYPES)
    buffer = make_buffer(data_spec={name: {"shape": (2,), "dtype": name} for name in names})
    data = {name: np.array([[0, 1], [1, 1], [1, 0]]).astype(name) for name in names}
    buffer.add_episode(data)
    dataset = RemoteDataset(buffer, delta_indices={"uint16": [0, 1]})
    batch = dataset.__getitems__([2, 0, 1])
    for name in names:
        assert dataset[0][name].dtype == getattr(torch, name)
        values = batch[1][name] if name != "uint16" else batch[1][name][0]
        assert values.tolist() == data[name][0].tolist()


class Doubled(RemoteDataset):
    """Makes items its own way."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        item = super().__getitem__(index)
        return {"double": 2 * item["index"]}


class DoubledAtOnce(Doubled):
    """Makes batches its own way too."""

    def __getitems__(self, indices: list[int]) -> list[dict[str, torch.Tensor]]:
        return [{"double": 2 * item["index"]} for item in super().__getitems__(indices)]


@pytest.mark.parametrize(("kind", "calls"), [(Doubled, 5), (DoubledAtOnce, 1)])
def test_a_subclass_that_makes_items_is_not_passed_by(
    kind: type[RemoteDataset], calls: int
) -> None:
    dataset = kind(make_naive())
    dataset.add_data(rollout(5))
    assert [int(item["double"]) for item in dataset] == [0, 2, 4, 6, 8]
    recorded = count_calls(dataset.buffer)
    batch = dataset.__getitems__([4, 0, 1, 2, 3])
    assert [int(item["double"]) for item in batch] == [8, 0, 2, 4, 6]
    assert len(recorded) == calls


def test_a_pickled_copy_reads_the_same_buffer(make_real: MakeBuffer) -> None:
    dataset = RemoteDataset(
        make_real(capacity=2000), {"state": [-0.1, 0.0]}, delta_indices={"action": [0, 1]}
    )
    dataset.add_data(rollout(1500))
    dataset.tolerance_s = 0.03
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 4000
    copy = pickle.loads(pickled)
    dataset.add_data(rollout(3))
    assert len(copy) == len(dataset) == 1503
    assert copy.tolerance_s == 0.03
    assert copy[1502].keys() == dataset[1502].keys()
    assert all(copy[1502][key].equal(value) for key, value in dataset[1502].items())


def test_repr_names_the_buffer(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer()
    assert repr(RemoteDataset(buffer)) == f"RemoteDataset({buffer!r})"


def test_reading_columns_is_tried_again_when_overtaken() -> None:
    dataset = RemoteDataset(make_naive())
    dataset.add_data(rollout(3))
    read, failures = dataset.buffer.read_columns, [OvertakenError("overtaken")] * 4

    def overtaken(*args: object, **options: object) -> object:
        if failures:
            raise failures.pop()
        return read(*args, **options)

    dataset.buffer.read_columns = overtaken
    assert dataset.get_data_by_key("index").tolist() == [0, 1, 2]
    failures += [OvertakenError("overtaken")] * 9
    with pytest.raises(OvertakenError):
        dataset.get_data_by_key("index")
    assert len(failures) == 4
