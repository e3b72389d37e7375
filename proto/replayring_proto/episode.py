"""Whether frames fit a buffer's spec, and in what form they are stored.

The client applies these rules before sending, so that a mistake costs nothing; the engine applies
them again, because it trusts no one. Nothing here changes or keeps what the caller handed in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from replayring_proto.arrays import Array, as_array
from replayring_proto.errors import InvalidEpisodeError
from replayring_proto.spec import (
    DTYPES,
    EPISODE_INDEX,
    FRAME_INDEX,
    INDEX,
    PRESET_NAMES,
    PRESETS,
    TIMESTAMP,
    BufferSpec,
    Column,
)

Arrays = dict[str, Array]

_OPTIONAL = {column.name: column for column in PRESETS if column.name in (FRAME_INDEX, TIMESTAMP)}


def values_of(name: str, value: Any) -> Array:
    """Returns what was given for a column as an array, uncopied where that is possible.

    Raises:
        InvalidEpisodeError: no array can be made of it.
    """
    try:
        return as_array(value)
    except (TypeError, ValueError) as error:
        raise InvalidEpisodeError(f"column {name!r}: {error}") from None


def check_episode(spec: BufferSpec, data: Mapping[str, Any]) -> Arrays:
    """Checks one episode and returns its columns, each with the column's own dtype.

    Args:
        spec: what the buffer holds.
        data: an array of shape (T, *column shape) for every declared column; `timestamp` (seconds)
            and `frame_index` may be added.

    Returns:
        The arrays, uncopied where their dtype is right; optional columns only where given.

    Raises:
        InvalidEpisodeError: missing or unknown columns, shapes or lengths that do not fit, dtypes
            that numpy would not cast by "same_kind", integers out of range, no frames or more than
            the capacity, timestamps that are not finite or decrease.
    """
    _check_mapping(data)
    columns = spec.declared
    if data.keys() != columns.keys():
        columns = {**columns, **_optional(columns, data)}
    arrays = {name: _fit(column, data[name]) for name, column in columns.items()}
    _check_lengths(spec, arrays)
    if TIMESTAMP in arrays:
        _check_timestamps(arrays[TIMESTAMP])
    return arrays


def split_episodes(spec: BufferSpec, data: Mapping[str, Any]) -> Iterator[Arrays]:
    """Splits frames of whole episodes, as `add_data` takes them, and checks each.

    Args:
        spec: what the buffer holds.
        data: every column, preset ones included, with `index` counting 0, 1, 2, ... and
            `episode_index` starting at 0 and growing by 1. Other keys are ignored.

    Yields:
        The columns of one episode, as `check_episode` returns them.

    Raises:
        InvalidEpisodeError: as `check_episode`, or the counts do not start and grow as said.
    """
    _check_mapping(data)
    missing = spec.by_name.keys() - data.keys()
    if missing:
        raise InvalidEpisodeError(f"the data lacks {_names(missing)}; every column is needed")
    arrays = {name: values_of(name, data[name]) for name in spec.by_name}
    lengths = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if len(set(lengths.values())) != 1 or not lengths[INDEX]:
        raise InvalidEpisodeError(
            f"all columns need one equal length of at least 1, received {lengths}"
        )
    bounds = _episode_bounds(arrays.pop(INDEX), arrays.pop(EPISODE_INDEX))
    for start, end in pairwise(bounds):
        yield check_episode(spec, {name: array[start:end] for name, array in arrays.items()})


def _check_mapping(data: Any) -> None:
    if not isinstance(data, Mapping):
        single = "; a writer's append takes one frame at a time" if isinstance(data, list) else ""
        raise InvalidEpisodeError(
            f"frames must be a mapping {{column: values}}, received {type(data).__name__}{single}"
        )


def _optional(declared: Mapping[str, Column], data: Mapping[str, Any]) -> dict[str, Column]:
    """Returns the optional columns that `data` has beside the declared ones."""
    missing = declared.keys() - data.keys()
    unknown = data.keys() - declared.keys() - _OPTIONAL.keys()
    if missing:
        instead = f" (it has {_names(unknown)}, which the buffer does not hold)" if unknown else ""
        raise InvalidEpisodeError(
            f"the episode lacks {_names(missing)}{instead}; every column is needed"
        )
    if counted := unknown & PRESET_NAMES:
        raise InvalidEpisodeError(
            f"the episode has {_names(counted)}, which the buffer counts itself; leave it out, or "
            "give flat columns of whole episodes to add_data"
        )
    if unknown:
        raise InvalidEpisodeError(
            f"the episode has {_names(unknown)}, which the buffer does not hold; leave it out "
            f"(columns: {_names(declared)})"
        )
    return {name: column for name, column in _OPTIONAL.items() if name in data}


def _episode_bounds(index: Array, episode_index: Array) -> list[int]:
    index = _fit(Column(INDEX, DTYPES["int64"]), index)
    episode_index = _fit(Column(EPISODE_INDEX, DTYPES["int64"]), episode_index)
    if not np.array_equal(index, np.arange(len(index))):
        raise InvalidEpisodeError(
            f"'index' must count 0, 1, 2, ...; received {index[:4].tolist()}, ...; the buffer "
            "shifts it to continue what it holds"
        )
    steps = np.diff(episode_index)
    if episode_index[0] != 0 or ((steps != 0) & (steps != 1)).any():
        raise InvalidEpisodeError(
            "'episode_index' must start at 0 and grow by 1 from episode to episode; received "
            f"{np.unique(episode_index)[:4].tolist()}, ..."
        )
    return [0, *(np.flatnonzero(steps) + 1).tolist(), len(index)]


def _fit(column: Column, value: Any) -> Array:
    array = values_of(column.name, value)
    if array.shape[1:] != column.shape or array.ndim == 0:
        wanted = str(("frames", *column.shape)).replace("'", "")
        one = "; a writer's append takes one frame at a time" if array.shape == column.shape else ""
        raise InvalidEpisodeError(
            f"column {column.name!r} has shape {array.shape}; it must be {wanted}{one}"
        )
    if array.dtype == column.dtype:
        return array
    if not np.can_cast(array.dtype, column.dtype, "same_kind"):
        raise InvalidEpisodeError(
            f"column {column.name!r} has dtype {array.dtype}, which does not cast to "
            f"{column.dtype} without changing kind; convert it to {column.dtype.name} yourself"
        )
    _check_range(column, array)
    try:
        with np.errstate(over="raise"):
            return array.astype(column.dtype)
    except FloatingPointError:
        raise InvalidEpisodeError(
            f"column {column.name!r} holds finite values that {column.dtype}, which ends at "
            f"{np.finfo(column.dtype).max:.6g}, would make infinite"
        ) from None


def _check_range(column: Column, array: Array) -> None:
    """Checks that integers survive a narrowing cast, which would wrap them silently."""
    if column.dtype.kind not in "iu" or not array.size:
        return
    low, high = int(array.min()), int(array.max())
    range_ = np.iinfo(column.dtype)
    if low < range_.min or high > range_.max:
        raise InvalidEpisodeError(
            f"column {column.name!r} holds values from {low} to {high}; {column.dtype} takes "
            f"{range_.min} to {range_.max}"
        )


def _check_lengths(spec: BufferSpec, arrays: Arrays) -> None:
    frames, *others = {len(array) for array in arrays.values()}
    if others:
        lengths = {name: len(array) for name, array in arrays.items()}
        raise InvalidEpisodeError(
            f"all columns need one equal length, received {lengths}; where a last observation came "
            "without an action, give it any, and sample with drop_n_last_frames=1"
        )
    if not frames:
        raise InvalidEpisodeError("the episode has no frames; it needs at least 1")
    if frames > spec.capacity:
        raise InvalidEpisodeError(
            f"the episode has {frames:,} frames; this buffer takes 1 to {spec.capacity:,} (its "
            "capacity): split the episode, or create the buffer larger"
        )


def _check_timestamps(timestamps: Array) -> None:
    if not np.isfinite(timestamps).all():
        raise InvalidEpisodeError("timestamps must be finite, received NaN or infinity")
    if (timestamps[1:] < timestamps[:-1]).any():
        at = int(np.flatnonzero(timestamps[1:] < timestamps[:-1])[0])
        raise InvalidEpisodeError(
            f"timestamps must not decrease, received {timestamps[at]} then {timestamps[at + 1]} "
            f"at frame {at + 1}"
        )


def _names(names: Any) -> str:
    return ", ".join(repr(name)[:140] for name in sorted(names, key=str)[:20])
