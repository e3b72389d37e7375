"""Numbers that callers give: what they may be, and the words for those that they may not."""

from __future__ import annotations

import math
import operator
from typing import Any

from replayring_proto.errors import InvalidRequestError
from replayring_proto.spec import real


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


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool) or getattr(getattr(value, "dtype", None), "kind", "") == "b"
