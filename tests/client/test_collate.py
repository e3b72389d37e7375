"""`collate`: batches that stay batched, and what it falls back on."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from replayring import _handover
from replayring.collation import FetchedBatch, MixedBatch, collate, to_tensors


def fetched(start: int, count: int, **more: torch.Tensor) -> FetchedBatch:
    numbers = torch.arange(start, start + count)
    columns = {"number": numbers, "pair": torch.stack([numbers, -numbers], 1).float()}
    return FetchedBatch(columns | more, count)


def equal(a: Any, b: Any) -> bool:
    """Whether two collated batches are the same, types included."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.equal(b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


def test_a_fetched_batch_is_a_list_of_items() -> None:
    batch = fetched(5, 3)
    assert len(batch) == 3
    assert [int(item["number"]) for item in batch] == [5, 6, 7]
    assert [int(item["number"]) for item in reversed(batch)] == [7, 6, 5]
    assert int(batch[-1]["number"]) == 7
    assert batch[0]["number"].shape == ()
    assert batch[0]["pair"].tolist() == [5, -5]
    assert [int(item["number"]) for item in batch[1:]] == [6, 7]
    assert repr(batch) == "FetchedBatch(3 items of number, pair)"
    with pytest.raises(IndexError):
        batch[3]


def test_a_fetched_batch_is_not_copied() -> None:
    batch = fetched(0, 4)
    collated = collate(batch)
    assert type(collated) is dict
    assert collated["pair"].data_ptr() == batch[0]["pair"].data_ptr()
    collated.clear()
    assert collate(batch).keys() == {"number", "pair"}


def test_collate_equals_default_collate() -> None:
    batch = fetched(3, 4)
    assert equal(default_collate(batch), collate(batch))
    assert equal(default_collate(list(batch)), collate(batch))
    assert equal(default_collate([dict(item) for item in batch]), collate(batch))


def test_default_collate_keeps_a_batch_whole() -> None:
    batch = fetched(3, 4)
    assert default_collate(batch)["pair"].data_ptr() == batch[0]["pair"].data_ptr()
    assert batch._items is None  # no item was made for it
    assert [type(item) for item in (batch[0], batch[-1])] == [type(batch[1])] * 2


def test_rows_elsewhere_are_collated_as_ever() -> None:
    rows = list(fetched(3, 4))
    assert default_collate([rows[2], rows[0]])["number"].tolist() == [5, 3]
    together, others = default_collate([(rows[0], 1), (rows[1], 2)])
    assert (together["number"].tolist(), others.tolist()) == ([3, 4], [1, 2])
    assert default_collate([rows[0], {**rows[1]}])["number"].tolist() == [3, 4]
    assert default_collate([{**rows[0]}, rows[1]])["number"].tolist() == [3, 4]
    assert pickle.loads(pickle.dumps(rows[1]))["number"] == 4


@pytest.mark.parametrize("batch", [[1, 2], [{"a": 1.0}, {"a": 2.0}], ["x", "y"], [(1, "a")] * 2])
def test_anything_else_is_collated_as_ever(batch: list[Any]) -> None:
    assert equal(collate(batch), default_collate(batch))


def test_what_is_a_batch_already_stays_as_it_is() -> None:
    """As a `DataLoader` with `batch_size=None` hands it over."""
    batch = {"x": torch.arange(3), "task": ["a", "b", "c"]}
    assert collate(batch) == batch
    assert collate({"x": np.arange(3)})["x"].tolist() == [0, 1, 2]


def mixed(*parts: Any, order: list[int]) -> MixedBatch:
    """Parts whose concatenation, in this order, is the batch."""
    ends = np.cumsum([len(part) for part in parts])
    return MixedBatch(list(parts), np.split(np.argsort(order), ends[:-1]))


def test_parts_are_put_in_order() -> None:
    batch = mixed(fetched(0, 2), fetched(10, 3), order=[3, 0, 4, 1, 2])
    assert [int(item["number"]) for item in batch] == [11, 0, 12, 1, 10]
    assert len(batch) == 5
    assert int(batch[-1]["number"]) == 10
    assert [int(item["number"]) for item in batch[1:3]] == [0, 12]
    assert equal(collate(batch), default_collate(list(batch)))


def test_parts_within_parts() -> None:
    inner = mixed(fetched(0, 1), fetched(10, 1), order=[1, 0])
    batch = mixed(fetched(20, 1), inner, order=[2, 0, 1])
    assert collate(batch)["number"].tolist() == [0, 20, 10]
    assert equal(collate(batch), default_collate(list(batch)))


def test_ordinary_items_beside_fetched_ones() -> None:
    items = [{"number": torch.tensor(7), "pair": torch.tensor([7.0, 7.0])}]
    batch = mixed(items, fetched(0, 1), order=[1, 0])
    assert equal(collate(batch), default_collate(list(batch)))


def test_a_worker_hands_joined_tensors_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_handover, "get_worker_info", object)
    batch = mixed(fetched(0, 2), fetched(10, 1), order=[2, 0, 1])
    assert type(collate(batch)) is (_handover.WholeBatch if _handover._SUPPORTED else dict)
    assert equal(dict(collate(batch)), default_collate(list(batch)))
    items = [{"task": "push", "number": torch.tensor(7)}]
    assert type(collate(mixed(items, items, order=[1, 0]))) is dict


def test_keys_that_all_parts_have_are_kept() -> None:
    items = [{"task": "push", "number": torch.tensor(7), "pair": torch.tensor([7.0, 7.0])}]
    batch = mixed(items, fetched(0, 2, reward=torch.ones(2)), order=[1, 0, 2])
    assert collate(batch).keys() == {"number", "pair"}
    assert collate(batch)["number"].tolist() == [0, 7, 1]


@pytest.mark.parametrize("order", [[1, 0, 2], [0, 1, 2]])
def test_default_collate_joins_parts_as_well(order: list[int]) -> None:
    """A `DataLoader` over a `ConcatDataset` that was given no collate function."""
    items = [{"task": "push", "number": torch.tensor(7), "pair": torch.tensor([7.0, 7.0])}]
    batch = mixed(items, fetched(0, 2, reward=torch.ones(2)), order=order)
    assert equal(default_collate(batch), collate(batch))


def test_values_that_are_no_tensors() -> None:
    items = [{"task": "push", "n": {"a": 1}}, {"task": "pull", "n": {"a": 2}}]
    batch = mixed(items, [{"task": "lift", "n": {"a": 3}}], order=[2, 0, 1])
    expected = {"task": ["lift", "push", "pull"], "n": {"a": torch.tensor([3, 1, 2])}}
    assert equal(collate(batch), expected)


def test_items_that_are_no_dicts() -> None:
    batch = mixed([torch.tensor(1)], [torch.tensor(2)], order=[1, 0])
    assert collate(batch).tolist() == [2, 1]


def test_dtypes_are_promoted() -> None:
    single = FetchedBatch({"timestamp": torch.tensor([0.5])}, 1)
    double = FetchedBatch({"timestamp": torch.tensor([0.25], dtype=torch.float64)}, 1)
    collated = collate(mixed(single, double, order=[1, 0]))
    assert collated["timestamp"].dtype == torch.float64
    assert collated["timestamp"].tolist() == [0.25, 0.5]


@pytest.mark.parametrize("kind", ["bfloat16", "gradient"])
def test_tensors_that_numpy_cannot_view(kind: str) -> None:
    value = torch.arange(4, dtype=torch.bfloat16 if kind == "bfloat16" else torch.float32)
    value.requires_grad_(kind == "gradient")
    batch = mixed([{"x": value[0]}, {"x": value[1]}], [{"x": value[2]}], order=[2, 0, 1])
    assert collate(batch)["x"].tolist() == [2, 0, 1]
    assert collate(batch)["x"].dtype == value.dtype
    assert collate(batch)["x"].requires_grad == value.requires_grad


def test_shapes_that_differ_are_named() -> None:
    batch = mixed(fetched(0, 1), fetched(0, 1, pair=torch.zeros(1, 4)), order=[0, 1])
    with pytest.raises(ValueError, match=r"'pair'.*\(2,\).*\(4,\).*delta_timestamps"):
        collate(batch)


def test_no_common_key_is_an_error() -> None:
    with pytest.raises(ValueError, match="no key in common"):
        collate(mixed([{"a": 1}], [{"b": 1}], order=[0, 1]))


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64", "bool", "float16", "complex64"])
def test_rare_dtypes_are_joined(dtype: str) -> None:
    parts = [FetchedBatch(to_tensors({"x": np.array([n], dtype)}), 1) for n in (0, 1)]
    joined = collate(mixed(*parts, order=[1, 0]))["x"]
    assert joined.dtype == getattr(torch, dtype)
    assert joined.tolist() == [1, 0]


def test_tensors_share_the_arrays_memory() -> None:
    array = np.zeros((2, 3), np.float32)
    to_tensors({"x": array})["x"][0, 0] = 1
    assert array[0, 0] == 1


def test_a_dtype_that_torch_has_not() -> None:
    with pytest.raises(ValueError, match=r"'when'.*datetime64.*keys="):
        to_tensors({"when": np.zeros(1, "datetime64[s]")})


def test_the_name_is_the_function_whatever_came_before() -> None:
    """A module of the same name would take the function's place in the package."""
    code = "import replayring; replayring.RemoteDataset; print(replayring.collate([True, False]))"
    printed = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=100, stdout=subprocess.PIPE, text=True
    ).stdout
    assert printed == "tensor([ True, False])\n"
