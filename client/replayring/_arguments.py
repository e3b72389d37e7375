"""Numbers that callers give: what they may be, and the words for those that they may not."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from replayring_proto.errors import FrameNotFoundError, InvalidRequestError
from replayring_proto.spec import real

Indices = Sequence[int] | npt.NDArray[np.integer[Any]]

_INT64 = np.iinfo(np.int64)


def whole(value: Any, what: str, low: int, high: int | None = None) -> int:
    """Returns a whole number that a caller gave, from `low` to `high`.

    Integers of any library are fine. Bools are not, nor floats: where one comes it was not meant,
    as in `batch_size=64 / 2` or arguments in the wrong order.

    Raises:
        InvalidRequestError: it is none, or out of range.
    """
    allowed = f"at least {low:,}" if high is None else f"from {low:,} to {high:,}"
    try:
        number = None if _is_bool(value) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise InvalidRequestError(f"{what} is {value!r:.60}; it must be a whole number {allowed}")
    if number < low or (high is not None and number > high):
        raise InvalidRequestError(f"{what} is {number:,}; it must be {allowed}")
    return number


def seconds(value: Any, what: str = "timeout") -> float:
    """Returns a number of seconds above zero that a caller gave; infinity is one.

    Raises:
        InvalidRequestError: it is none: a string, a bool, NaN, zero or below.
    """
    try:
        number = real(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not number > 0:
        raise InvalidRequestError(f"{what} is {value!r:.60}; it must be seconds above zero")
    return number


def share(value: Any) -> float:
    """Returns the online share of sampling weights that a caller gave.

    Raises:
        InvalidRequestError: it is no number from 0 to 1.
    """
    try:
        number = real(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 1:
        raise InvalidRequestError(f"online_sampling_ratio is {value!r:.60}; it must be from 0 to 1")
    return number


def as_buffer(value: Any) -> Any:
    """Returns the buffer that a caller gave to make a dataset of.

    Raises:
        InvalidRequestError: it is none: the client, say, or the buffer's name.
    """
    if not hasattr(value, "spec"):
        raise InvalidRequestError(
            f"buffer is {value!r:.60}; give what client.buffer(name) or client.create_buffer(...) "
            "returns"
        )
    return value


def as_dataset(value: Any, what: str) -> Any:
    """Returns the map-style dataset that a caller gave.

    Raises:
        InvalidRequestError: it has no length, as the buffer of one, say.
    """
    if not hasattr(value, "__len__"):
        raise InvalidRequestError(
            f"{what} is {value!r:.60}, which has no length; give a map-style dataset: of a buffer, "
            "replayring.RemoteDataset(buffer)"
        )
    return value


def whole_numbers(values: Indices, what: str) -> list[int]:
    """Returns integers that fit 64 bits, at least one."""
    array = np.asarray(values)
    flat = array.ndim == 1 and array.dtype.kind in "iu"
    numbers: list[int] = array.tolist() if flat else _large_integers(values)
    if not numbers:
        received = f"an array of shape {array.shape} and dtype {array.dtype}"
        if not array.ndim or not array.size:
            received = f"{values!r:.60}"
        raise InvalidRequestError(
            f"{what} must be a sequence of at least one integer, received {received}"
        )
    if max(numbers) > _INT64.max or min(numbers) < _INT64.min:
        beyond = next(one for one in numbers if not _INT64.min <= one <= _INT64.max)
        raise FrameNotFoundError(f"there is no frame {beyond}: no buffer is that large")
    return numbers


def _large_integers(values: Any) -> list[int]:
    """Returns integers of which numpy made floats or objects, since some are beyond 64 bits.

    An empty list stands for anything else than a flat sequence of integers.
    """
    listed = np.asarray(values, object)
    if listed.ndim != 1 or any(
        isinstance(one, bool) or not isinstance(one, (int, np.integer)) for one in listed
    ):
        return []
    return [int(one) for one in listed]


def natural(values: Indices) -> list[int]:
    """Returns integers that may be values of `index`, at least one."""
    numbers = whole_numbers(values, "indices")
    if min(numbers) < 0:
        raise FrameNotFoundError(f"there is no frame with `index` {min(numbers)}: they start at 0")
    return numbers


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool) or getattr(getattr(value, "dtype", None), "kind", "") == "b"
