"""Numbers that callers give: what they may be, and the words for those that they may not."""

from __future__ import annotations

import math
import operator
from typing import Any

from replayring_proto.errors import InvalidRequestError


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
        number = math.nan if _is_bool(value) or isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not number > 0:
        raise InvalidRequestError(f"{what} is {value!r:.60}; it must be seconds above zero")
    return number


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool) or getattr(getattr(value, "dtype", None), "kind", "") == "b"
