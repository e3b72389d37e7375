"""Several datasets as one, with batched fetches and lengths that are always up to date."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset, IterableDataset

from replayring._arguments import as_dataset
from replayring.collation import MixedBatch
from replayring.dataset import Positions, RemoteDataset, as_positions
from replayring_proto.errors import FrameNotFoundError, InvalidRequestError

__all__ = ["ConcatDataset"]


class ConcatDataset(Dataset[Any]):  # not torch's class: its lengths are plain attributes
    """Datasets one after another, as torch's `ConcatDataset`, for members that grow.

    Two things differ from torch's. A `DataLoader` fetches a batch with one `__getitems__` per
    member, instead of item by item. And lengths are asked for when they are needed, so frames
    that arrive while a training runs are seen at once. Positions of a member follow the present
    lengths of those before it; so put the one that grows last, or positions drawn earlier will
    mean other items. With a `RemoteDataset` last, a batch costs one call to its server.

    Picklable if its members are. Thread-safe if they are.

    Attributes:
        datasets: the members.
    """

    def __init__(self, datasets: Iterable[Dataset[Any]]) -> None:
        """Joins map-style datasets.

        Raises:
            ValueError: there are none, or one is an `IterableDataset` or has no length.
        """
        self.datasets = list(datasets)
        if not self.datasets:
            raise InvalidRequestError("a ConcatDataset needs at least one dataset")
        for dataset in self.datasets:
            if isinstance(dataset, IterableDataset):
                raise InvalidRequestError(
                    f"{type(dataset).__name__} is an IterableDataset, which has no positions; "
                    "use torch.utils.data.ChainDataset for those"
                )
            as_dataset(dataset, "a member of a ConcatDataset")

    @property
    def cumulative_sizes(self) -> list[int]:
        """Where each member ends, at present."""
        return list(itertools.accumulate(map(_length, self.datasets)))

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]

    def __getitem__(self, index: int) -> Any:
        """Returns one item.

        Raises:
            IndexError: `index` is outside [-n, n).
        """
        members, positions = self._locate(as_positions([index]))
        position = int(positions[0])
        return self._from_member(int(members[0]), lambda dataset: dataset[position])

    def __getitems__(self, indices: Sequence[int]) -> Sequence[Any]:
        """Returns many items, with one fetch per member; `collate` keeps them batched.

        Raises:
            IndexError: one of `indices` is outside [-n, n).
        """
        members, positions = self._locate(as_positions(indices))
        parts, places = [], []
        for member in np.unique(members).tolist():
            asked = np.flatnonzero(members == member)
            parts.append(self._fetch(member, positions[asked].tolist()))
            places.append(asked)
        if len(parts) <= 1:
            return parts[0] if parts else []
        return MixedBatch(parts, places)

    def __iter__(self) -> Iterator[Any]:
        """Yields all items, member after member, each in its own way."""
        for dataset in self.datasets:
            if isinstance(dataset, Iterable):
                yield from dataset
            else:
                yield from (dataset[i] for i in range(_length(dataset)))

    def __add__(self, other: Dataset[Any]) -> ConcatDataset:  # type: ignore[override]
        """Returns both, joined in the same way."""
        return ConcatDataset([*self.datasets, other])

    def _locate(self, positions: Positions) -> tuple[Positions, Positions]:
        """Returns for each position its member and the position in that."""
        ends = self._ends(exact=bool((positions < 0).any()))
        count = ends[-1]
        outside = (positions < -count) | (positions >= count)
        if outside.any():
            raise FrameNotFoundError(
                f"position {int(positions[outside][0])} is out of range of {count:,} items in "
                f"{len(self.datasets)} datasets"
            )
        positions = np.where(positions < 0, positions + count, positions)
        members = np.searchsorted(ends, positions, side="right")
        return members, positions - np.array([0, *ends])[members]

    def _ends(self, exact: bool) -> list[int]:
        """Where each member ends; a last one that checks positions itself need not tell."""
        if exact or not isinstance(self.datasets[-1], RemoteDataset):
            return self.cumulative_sizes
        return [*itertools.accumulate(map(_length, self.datasets[:-1])), sys.maxsize]

    def _fetch(self, member: int, positions: list[int]) -> Sequence[Any]:
        def fetch(dataset: Any) -> Sequence[Any]:
            if hasattr(dataset, "__getitems__"):
                items: Sequence[Any] = dataset.__getitems__(positions)
                return items
            return [dataset[position] for position in positions]

        items: Sequence[Any] = self._from_member(member, fetch)
        return items

    def _from_member(self, member: int, fetch: Callable[[Any], Any]) -> Any:
        try:
            return fetch(self.datasets[member])
        except FrameNotFoundError as error:
            if member == 0:
                raise
            # The member counts from its own beginning, the caller from ours.
            start = self.cumulative_sizes[member - 1]
            raise FrameNotFoundError(f"in dataset {member}, begun at {start}: {error}") from error


def _length(dataset: Any) -> int:
    # Map-style datasets have a length, although torch's type for them does not say so.
    return len(dataset)
