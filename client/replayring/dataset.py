"""A remote buffer as a torch map-style dataset, with the API of LeRobot's in-process buffer."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.utils.data import Dataset

from replayring._arguments import as_buffer
from replayring.collation import FetchedBatch, Item, to_tensors
from replayring_proto import spec
from replayring_proto.arrays import as_array
from replayring_proto.errors import (
    FrameNotFoundError,
    InvalidSpecError,
    LimitExceededError,
    OvertakenError,
    ToleranceError,
)
from replayring_proto.query import View

if TYPE_CHECKING:
    from replayring._adding import Acknowledgement
    from replayring.concat import ConcatDataset
    from replayring.surface import ReplayBuffer

__all__ = ["RemoteDataset"]

Positions = npt.NDArray[np.int64]
Offsets = Mapping[str, Sequence[float]]

# Iterating fetches ahead in blocks: as many frames as fill a few messages, so that small frames do
# not pay for a round trip each, and large ones take little memory.
_BLOCK_BYTES = 4 << 20
_BLOCK_FRAMES = 256

_READ_ATTEMPTS = 5


class RemoteDataset(Dataset[Item]):
    """A buffer on a replayring server, seen as a dataset of its live frames.

    Position i is the i-th live frame in order of `index % capacity`: the order of the slots of an
    in-process ring. A frame keeps its position while it lives; when it is overwritten, the frame
    that replaced it has the position. Items are dicts of tensors, scalars with no axis, that belong
    to the caller. Lengths and items are always asked of the server, never remembered.

    `DataLoader` fetches whole batches with one call; with `collate_fn=replayring.collate` they
    also stay whole. Works with any number of workers, however they are started. A subclass that
    overrides `__getitem__` is asked item by item, unless it overrides `__getitems__` as well.

    As thread-safe as `Buffer` for reading; do not change windows while others read. Pickles as the
    buffer's address and these settings. Nothing to close beside the client.

    Attributes:
        buffer: the buffer, for everything that a dataset has no words for.
        timeout: seconds that each call may take; None for the client's own.
    """

    INDEX_KEY = spec.INDEX
    FRAME_INDEX_KEY = spec.FRAME_INDEX
    EPISODE_INDEX_KEY = spec.EPISODE_INDEX
    TIMESTAMP_KEY = spec.TIMESTAMP
    IS_PAD_POSTFIX = spec.IS_PAD_SUFFIX
    # Files of an in-process buffer. There are no such columns here; scripts that filter by these
    # names go on working.
    NEXT_INDEX_KEY = "_next_index"
    OCCUPANCY_MASK_KEY = "_occupancy_mask"

    def __init__(
        self,
        buffer: ReplayBuffer,
        delta_timestamps: Offsets | None = None,
        *,
        delta_indices: Mapping[str, Sequence[int]] | None = None,
        keys: Sequence[str] | None = None,
        timeout: float | None = None,
    ) -> None:
        """Presents a buffer as a dataset.

        Args:
            buffer: an existing buffer, from `client.buffer` or `client.create_buffer`.
            delta_timestamps: windows in seconds: for each key the offsets to fetch.
            delta_indices: windows in frames: for each key the offsets to fetch. A key may have one
                kind of window.
            keys: columns that items have besides the presets and the windowed ones; None for all.
            timeout: seconds that each call may take; None for the client's own.

        Raises:
            ValueError: an unknown key, offsets that are no finite numbers, or windows in seconds on
                a buffer without fps.
        """
        self._delta_indices = copied_offsets(delta_indices, "delta_indices")
        View.of(keys, None, self._delta_indices).check(as_buffer(buffer).spec)
        self._keys = None if keys is None else list(keys)
        self.buffer = buffer
        self.timeout = timeout
        self._delta_timestamps: dict[str, Any] | None = None
        self._tolerance_s: float | None = None
        self._changes = 0
        self.set_delta_timestamps(delta_timestamps)

    # What the buffer holds

    @property
    def num_frames(self) -> int:
        """Live frames, asked of the server."""
        return self.buffer.info(timeout=self.timeout).num_frames

    @property
    def num_episodes(self) -> int:
        """Episodes with a live frame, asked of the server."""
        return self.buffer.info(timeout=self.timeout).num_episodes

    @property
    def fps(self) -> float | None:
        """Frames per second, or None."""
        return self.buffer.spec.fps

    @property
    def data_keys(self) -> list[str]:
        """All columns of the buffer, sorted; `keys` narrows items only."""
        return sorted(self.buffer.spec.by_name)

    def get_data_by_key(self, key: str) -> Tensor:
        """Returns a whole column: all live frames in position order, shape (n, *column shape).

        Raises:
            ValueError: there is no such column.
        """
        return self.read_columns([key])[key]

    def read_columns(self, keys: Sequence[str]) -> Item:
        """Returns whole columns that show the same frames, as `get_data_by_key` gives one.

        Raises:
            ValueError: there is no such column.
            OvertakenError: writers overwrote what was being read, several times in a row.
        """
        for _ in range(_READ_ATTEMPTS - 1):
            with suppress(OvertakenError):
                return to_tensors(self.buffer.read_columns(keys, timeout=self.timeout))
        return to_tensors(self.buffer.read_columns(keys, timeout=self.timeout))

    def add_data(self, data: Mapping[str, Any]) -> list[Acknowledgement]:
        """Adds whole episodes, as they come from a rollout. Nothing in `data` is changed.

        Args:
            data: an array or tensor per column, preset ones included, of equal length; `index`
                counts from 0 and `episode_index` starts at 0, and the buffer continues both. Other
                keys are ignored.

        Returns:
            An acknowledgement per episode: where it went.

        Raises:
            ValueError: the data do not fit the buffer.
        """
        self._changes += 1
        return self.buffer.add_data(data, timeout=self.timeout)

    # Windows

    @property
    def delta_timestamps(self) -> dict[str, npt.NDArray[Any]] | None:
        """Windows in seconds: a copy of the offsets for each key, or None."""
        return copied_offsets(self._delta_timestamps, "delta_timestamps")

    def set_delta_timestamps(self, value: Offsets | None) -> None:
        """Replaces the windows in seconds; those in frames stay.

        Raises:
            ValueError: as when the dataset is made. The windows stay as they were.
        """
        copied = copied_offsets(value, "delta_timestamps")
        View.of(None, copied, self._delta_indices).check(self.buffer.spec)
        self._delta_timestamps = copied
        self._changes += 1

    @property
    def delta_indices(self) -> dict[str, npt.NDArray[Any]] | None:
        """Windows in frames: a copy of the offsets for each key, or None."""
        return copied_offsets(self._delta_indices, "delta_indices")

    @property
    def tolerance_s(self) -> float | None:
        """How far off, in seconds, the frames of a window in seconds may be.

        `1 / fps - 1e-4` unless it is set; None without fps. Setting None restores that.

        Raises:
            ValueError: it is set to something negative or not finite.
        """
        return self.buffer.spec.tolerance_s if self._tolerance_s is None else self._tolerance_s

    @tolerance_s.setter
    def tolerance_s(self, value: float | None) -> None:
        View(tolerance_s=value).check(self.buffer.spec)
        self._tolerance_s = None if value is None else float(value)
        self._changes += 1

    # Items

    def __len__(self) -> int:
        return self.num_frames

    def __getitem__(self, index: int) -> Item:
        """Returns the frame at a position, with its windows.

        Args:
            index: an integer of any kind, in [-n, n).

        Raises:
            IndexError: it is outside.
            AssertionError: a window in seconds has no frame within tolerance inside the episode.
        """
        arrays = self._get(as_positions([index]))
        return to_tensors({key: array[0, ...] for key, array in arrays.items()})

    def __getitems__(self, indices: Sequence[int]) -> Sequence[Item]:
        """Returns the frames at many positions, fetched with one call.

        Returns:
            A sequence of items, which `replayring.collate` collates without any work.

        Raises:
            IndexError: a position is outside [-n, n); the message names it.
            AssertionError: as for one item.
        """
        positions = as_positions(indices)
        if not len(positions):
            return []
        if self._makes_items and type(self).__getitems__ is RemoteDataset.__getitems__:
            return [self[position] for position in positions.tolist()]
        return FetchedBatch(to_tensors(self._get(positions)), len(positions))

    def by_index(self, indices: Sequence[int]) -> Item:
        """Returns the frames with some values of `index`, with their windows, as one batch.

        A position is a place, where one frame follows another; `index` is a frame's identity. So
        what was seen once, and is to be fetched again, is asked for by its `index`.

        Args:
            indices: values of the column `index`.

        Returns:
            A dict of tensors, in the order of `indices`, with the batch as first axis.

        Raises:
            TypeError: they are no sequence of integers.
            IndexError: a frame was overwritten, or is yet to come; the message names it.
            AssertionError: as for one item.
        """
        # As a list, since torch makes no integer of an element that int64 does not hold.
        listed = indices.tolist() if isinstance(indices, Tensor) else indices
        try:
            wanted = [operator.index(index) for index in listed]
        except TypeError as error:
            raise TypeError(f"{error}: by_index takes a list of values of `index`") from None
        return to_tensors(self._fetch(indices=wanted))

    def __iter__(self) -> Iterator[Item]:
        """Yields the items at positions 0, 1, 2, ... until there are no more.

        Frames are fetched ahead in growing blocks. What this dataset adds or changes meanwhile is
        taken into account at once; what others add, with the next block.
        """
        position, size = 0, 1
        limit = self._block_frames()
        while items := self._read_ahead(position, size):
            changes = self._changes
            for item in items:
                yield item
                position += 1
                if self._changes != changes:
                    break
            size = min(2 * size, limit)

    def __add__(self, other: Dataset[Any]) -> ConcatDataset:  # type: ignore[override]
        """Returns both datasets joined, with batched fetches and lengths that stay right."""
        from replayring.concat import ConcatDataset  # it knows this class, so not at the top

        return ConcatDataset([self, other])

    def __repr__(self) -> str:
        return f"RemoteDataset({self.buffer!r})"

    @property
    def _makes_items(self) -> bool:
        """Whether a subclass has a `__getitem__` of its own, which must not be passed by."""
        return type(self).__getitem__ is not RemoteDataset.__getitem__

    def _get(self, positions: Positions) -> dict[str, npt.NDArray[Any]]:
        return self._fetch(positions=positions)

    def _fetch(self, **which: list[int] | Positions) -> dict[str, npt.NDArray[Any]]:
        return self.buffer.get(
            **which,
            delta_timestamps=self._delta_timestamps,
            delta_indices=self._delta_indices,
            keys=self._keys,
            tolerance_s=self._tolerance_s,
            timeout=self.timeout,
        )

    def _read_ahead(self, position: int, size: int) -> list[Item]:
        """Returns the items from `position` on, at most `size`; none at the end."""
        size = min(size, len(self) - position)
        if size < 1:
            return []
        if size > 1 and not self._makes_items:
            try:
                arrays = self._get(np.arange(position, position + size))
            except (FrameNotFoundError, LimitExceededError, ToleranceError):
                pass  # perhaps because of a later one: the next item is still to be had
            else:
                return _separate(arrays, size)
        try:
            return [self[position]]
        except FrameNotFoundError:
            return []

    def _block_frames(self) -> int:
        columns = self.buffer.spec.by_name
        keys = columns.keys() if self._keys is None else spec.PRESET_NAMES.union(self._keys)
        frames = dict.fromkeys(keys, 1)  # of each column, in one item
        for windows in (self._delta_timestamps, self._delta_indices):
            frames.update({key: len(offsets) for key, offsets in (windows or {}).items()})
        item_bytes = sum(columns[key].frame_bytes * count for key, count in frames.items())
        return min(max(_BLOCK_BYTES // item_bytes, 1), _BLOCK_FRAMES)


def as_positions(indices: Sequence[int]) -> Positions:
    """Returns integers of any kind (Python's, numpy's, 0-d tensors) as an array.

    Raises:
        TypeError: one is no integer.
        IndexError: one is too large for any position.
    """
    try:
        positions = [operator.index(index) for index in indices]
    except TypeError as error:
        raise TypeError(f"{error}: [i] takes one position, __getitems__ a list of them") from None
    try:
        return np.array(positions, np.int64)
    except OverflowError:
        worst = max(positions, key=abs)
        raise FrameNotFoundError(f"position {worst} is out of range of any buffer") from None


def _separate(arrays: Mapping[str, npt.NDArray[Any]], count: int) -> list[Item]:
    """Items with memory of their own, so that one that is kept does not keep the block."""
    return [
        to_tensors({key: array[row, ...].copy() for key, array in arrays.items()})
        for row in range(count)
    ]


def copied_offsets(offsets: Mapping[str, Any] | None, what: str) -> dict[str, Any] | None:
    """Returns offsets as arrays of their own, as windows are kept.

    Raises:
        InvalidSpecError: they are no mapping, or none of numbers; the message says `what` they are.
    """
    if offsets is None:
        return None
    if not isinstance(offsets, Mapping):
        raise InvalidSpecError(
            f"{what} must be a mapping {{key: [offset, ...]}}, received {type(offsets).__name__}"
        )
    return {key: _copied(key, values) for key, values in offsets.items()}


def _copied(key: str, values: Any) -> npt.NDArray[Any]:
    try:
        return np.array(as_array(values))
    except (TypeError, ValueError) as error:
        raise InvalidSpecError(f"the window of {key!r}: {error}") from None
