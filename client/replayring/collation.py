"""Batches that stay batched: what `__getitems__` returns, and the collate function for it.

A `DataLoader` asks a dataset for many items at once and hands the answer to `collate_fn`. torch's
own would take a batch that arrived as whole columns apart, item by item, only to stack it again.
The sequences here look like lists of items to any collate function, while `collate` knows what
they are made of. Knows nothing of buffers or the network.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import default_collate, default_convert
from torch.utils.data._utils.collate import default_collate_fn_map

from replayring._handover import WholeBatch, hand_over
from replayring_proto.errors import InvalidRequestError

__all__ = ["FetchedBatch", "MixedBatch", "collate", "to_tensors"]

Item = dict[str, Tensor]

_FETCHING = "torch.utils.data._utils.fetch"


def to_tensors(arrays: Mapping[str, npt.NDArray[Any]]) -> Item:
    """Returns the arrays as tensors of the same dtypes and shapes, sharing their memory.

    Raises:
        InvalidRequestError: this version of torch has no such dtype (2.3 and later have all that
            a buffer can hold).
    """
    tensors = {}
    for key, array in arrays.items():
        try:
            tensors[key] = torch.from_numpy(array)
        except TypeError:
            raise InvalidRequestError(
                f"column {key!r} has dtype {array.dtype}, which torch {torch.__version__} does "
                "not know; leave it out with keys=[...], or read it as numpy with Buffer.get"
            ) from None
    return tensors


class Row(dict[str, Any]):
    """One item of the batches here: a dict whose type tells `default_collate` where it is from."""


class FetchedBatch(Sequence[Item]):
    """Items that were fetched together: a list of dicts to look at, whole columns underneath.

    Each item is a dict of tensors that share memory with the batch, so one item that is kept keeps
    the whole batch. Not thread-safe while it is first looked at; nobody needs to close it.
    """

    __slots__ = ("_items", "_length", "_tensors")

    def __init__(self, tensors: Item, length: int) -> None:
        """Wraps columns.

        Args:
            tensors: the columns, each with first axis `length`.
            length: number of items.
        """
        self._tensors = tensors
        self._length = length
        self._items: list[Item] | None = None

    def collated(self) -> Item:
        """Returns the batch as one dict of tensors, batch first, without copying anything."""
        return dict(self._tensors)

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if index == 0 and self._items is None:  # a look at what the items are
            return Row((key, tensor[0]) for key, tensor in self._tensors.items())
        return self._as_list()[index]

    def __iter__(self) -> Iterator[Item]:
        return iter(self._as_list())

    def __repr__(self) -> str:
        return f"FetchedBatch({self._length} items of {', '.join(self._tensors)})"

    def _as_list(self) -> list[Item]:
        # Kept, because default_collate goes through the items once for every key.
        if self._items is None:
            rows = zip(*(tensor.unbind(0) for tensor in self._tensors.values()), strict=True)
            self._items = [Row(zip(self._tensors, row, strict=True)) for row in rows]
        return self._items


class MixedBatch(Sequence[Any]):
    """Items that came from several datasets, each part fetched together.

    Attributes:
        parts: what each dataset returned: a sequence of items.
        places: for each part, the places of its items in this sequence. All of them together are
            0 to n - 1, each once.
    """

    __slots__ = ("_items", "parts", "places")

    def __init__(
        self, parts: Sequence[Sequence[Any]], places: Sequence[npt.NDArray[np.int64]]
    ) -> None:
        self.parts = parts
        self.places = places
        self._items: list[Any] | None = None

    def __len__(self) -> int:
        return sum(map(len, self.places))

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self._as_list()[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._as_list())

    def _as_list(self) -> list[Any]:
        if self._items is None:
            items: list[Any] = [None] * len(self)
            for part, places in zip(self.parts, self.places, strict=True):
                for item, place in zip(part, places.tolist(), strict=True):
                    items[place] = Row(item) if type(item) is dict else item
            self._items = items
        return self._items


def collate(batch: Any) -> Any:
    """Collates a batch; made for `DataLoader(..., collate_fn=replayring.collate)`.

    A batch from a `RemoteDataset` is returned as it arrived, as a dict of tensors with the batch as
    first axis: nothing is copied. A batch from a `ConcatDataset` is joined from the parts that its
    members gave, back in the order that was asked for. What is one item or batch already, as with
    `batch_size=None`, goes to torch's `default_convert`, and anything else to its
    `default_collate`, whose results these equal.

    Members may differ in their keys (an offline dataset has a `task`, say, that a buffer has not).
    A batch of items from several members keeps the keys that all of them have, as LeRobot's
    `MultiLeRobotDataset` does. Dtypes that differ are promoted by torch's rules: images of uint8
    become floats beside images of floats, from 0 to 255 as they were.

    Raises:
        ValueError: a key has different shapes in two members, or they have no key in common.
    """
    if isinstance(batch, FetchedBatch):
        return hand_over(batch.collated())
    if isinstance(batch, MixedBatch):
        return _join(batch)
    if isinstance(batch, Mapping):
        return default_convert(batch)  # type: ignore[no-untyped-call]  # torch has no types here
    return default_collate(batch)


def _collate_rows(batch: Sequence[Item], **_: Any) -> Any:
    """What `default_collate` does with rows: a `DataLoader` may be given no collate function."""
    whole = isinstance(batch, (FetchedBatch, MixedBatch))
    return collate(batch if whole else list(map(dict, batch)))


default_collate_fn_map[Row] = _collate_rows


def collates(frame: FrameType) -> bool:
    """Whether a DataLoader begins an iteration in this frame, to make batches of what it gets.

    torch tells an iterable dataset nothing of that, and has its batches stacked in silence.
    """
    # Only then may its variables be looked at, which Python before 3.13 keeps for the frame's life.
    if frame.f_globals.get("__name__") != _FETCHING:
        return False
    fetcher = frame.f_locals.get("self")
    if not getattr(fetcher, "auto_collation", False):
        return False
    return getattr(fetcher, "collate_fn", None) in (default_collate, collate)


def _collate_whole_batches(batches: Sequence[WholeBatch], **_: Any) -> Any:
    """What `default_collate` does with what a `BatchDataset` yields in a DataLoader: stacks it.

    With several batches that may be meant; but one is what a `DataLoader` takes unasked. The last
    of several lists may have one in any case.
    """
    global _stacks_several
    _stacks_several = _stacks_several or len(batches) > 1
    if not _stacks_several:
        warnings.warn(
            "this DataLoader makes batches of one batch each, so that their tensors have an axis "
            "more than those of the BatchDataset; give it batch_size=None",
            stacklevel=2,
        )
    return hand_over(default_collate(list(map(dict, batches))))


_stacks_several = False

default_collate_fn_map[WholeBatch] = _collate_whole_batches


def _join(batch: MixedBatch) -> Any:
    parts = [collate(part) for part in batch.parts]
    if not all(isinstance(part, Mapping) for part in parts):
        return default_collate(list(batch))
    common = [key for key in parts[0] if all(key in part for part in parts[1:])]
    if not common:
        raise InvalidRequestError(
            "the datasets of this batch have no key in common: "
            + " and ".join(f"({', '.join(map(repr, part))})" for part in parts)
        )
    joined = {key: _join_key(key, [part[key] for part in parts], batch) for key in common}
    whole = all(isinstance(value, Tensor) for value in joined.values())
    return hand_over(joined) if whole else joined


def _join_key(key: Any, values: list[Any], batch: MixedBatch) -> Any:
    if not all(isinstance(value, Tensor) for value in values):
        return default_collate([item[key] for item in batch])  # strings, nested dicts, ...
    shapes = sorted({tuple(value.shape[1:]) for value in values})
    if len(shapes) > 1:
        raise InvalidRequestError(
            f"{key!r} has shapes {' and '.join(map(str, shapes))} in the datasets of one batch; "
            "give all of them the same delta_timestamps, or leave the key out of one of them"
        )
    dtype = functools.reduce(torch.promote_types, (value.dtype for value in values))
    return _place([value.to(dtype) for value in values], batch.places)


def _place(values: Sequence[Tensor], places: Sequence[npt.NDArray[np.int64]]) -> Tensor:
    """Returns the rows of all values, each at its place."""
    try:
        arrays = [value.numpy() for value in values]
    except (RuntimeError, TypeError):  # bfloat16, gradients, another device
        order = torch.from_numpy(np.argsort(np.concatenate(places)))
        return torch.cat(list(values)).index_select(0, order.to(values[0].device))
    # By numpy, since torch has no such operation for uint16 and the like, and spreads others over
    # threads that the training needs. It is one copy, too.
    count = sum(map(len, places))
    joined = np.empty((count, *arrays[0].shape[1:]), arrays[0].dtype)
    for array, rows in zip(arrays, places, strict=True):
        joined[rows] = array
    return torch.from_numpy(joined)
