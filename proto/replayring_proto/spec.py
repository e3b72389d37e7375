"""What a buffer holds: its columns, capacity and frame rate, and the rules they obey.

Owns the allowlists of dtypes and names. Knows nothing of files, messages or rings.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from replayring_proto import limits
from replayring_proto.errors import InvalidRequestError, InvalidSpecError

INDEX = "index"
FRAME_INDEX = "frame_index"
EPISODE_INDEX = "episode_index"
TIMESTAMP = "timestamp"
IS_PAD_SUFFIX = "_is_pad"

DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(name).newbyteorder("<")
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    )
}
"""The dtypes that cross the wire and lie on disk; always little-endian."""

DURABILITIES = ("none", "interval", "commit")
"""What survives a power loss: what was there at the last clean close; all but about the last second
("interval"); every acknowledged episode ("commit")."""

# Characters of a column's dtype and shape, which may have many axes.
_COLUMN_IN_MESSAGE = 80
_DIFFERENCES_IN_MESSAGE = 6

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_name(name: object, what: str, max_length: int = limits.MAX_NAME) -> str:
    """Returns `name` if it may name a buffer, column, writer or parameter set.

    Names become file names, so they are limited to an alphabet without separators.

    Raises:
        InvalidRequestError: it is no string, too long, or has other characters.
    """
    if not isinstance(name, str):
        raise InvalidRequestError(f"{what} must be a string, received {type(name).__name__}")
    if len(name) > max_length or not _NAME.fullmatch(name):
        raise InvalidRequestError(
            f"{what} {name[: max_length + 20]!r} is not valid: use 1 to {max_length} characters "
            "from [A-Za-z0-9._-], beginning with a letter or digit"
        )
    return name


def is_name(name: str) -> bool:
    """Returns whether `check_name` would take `name`."""
    return len(name) <= limits.MAX_NAME and _NAME.fullmatch(name) is not None


def dtype_of(name: str) -> np.dtype[Any]:
    """Returns the dtype of an allowed name.

    Raises:
        InvalidSpecError: the name is not on the allowlist.
    """
    try:
        return DTYPES[name]
    except KeyError:
        raise InvalidSpecError(
            f"dtype {name[:40]!r} is not supported; use one of {', '.join(DTYPES)}"
        ) from None


@dataclass(frozen=True)
class Column:
    """A named array with one row per frame.

    Attributes:
        name: the column's name, also its file's name.
        dtype: one of `DTYPES`.
        shape: shape of one frame's value; empty for a scalar.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()

    @cached_property
    def frame_bytes(self) -> int:
        """Bytes of one frame's value, in Python integers, which do not wrap."""
        return self.dtype.itemsize * math.prod(self.shape)


PRESETS = (
    Column(EPISODE_INDEX, DTYPES["int64"]),
    Column(FRAME_INDEX, DTYPES["int64"]),
    Column(INDEX, DTYPES["int64"]),
    Column(TIMESTAMP, DTYPES["float64"]),
)
"""The columns that every buffer has."""

PRESET_NAMES = frozenset(column.name for column in PRESETS)


@dataclass(frozen=True)
class BufferSpec:
    """A buffer's columns, capacity and frame rate; equal specs describe the same buffer.

    Attributes:
        columns: the declared columns, ordered by name.
        capacity: live frames kept at most.
        fps: frames per second, or None.
        durability: one of `DURABILITIES`.

    Raises:
        InvalidSpecError: a rule is broken; the message says which, and what would be valid.
    """

    columns: tuple[Column, ...]
    capacity: int
    fps: float | None = None
    durability: str = "interval"

    def __post_init__(self) -> None:
        _check_columns(self.columns)
        object.__setattr__(self, "columns", tuple(sorted(self.columns, key=lambda c: c.name)))
        if not 1 <= self.capacity <= limits.MAX_CAPACITY:
            raise InvalidSpecError(
                f"capacity is {self.capacity:,} frames; it must be from 1 to "
                f"{limits.MAX_CAPACITY:,}"
            )
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise InvalidSpecError(f"fps is {self.fps}; it must be finite and above 0, or unset")
        if self.fps is not None and not math.isfinite(self.capacity / self.fps):
            raise InvalidSpecError(
                f"fps is {self.fps}: later frames, at frame_index / fps, would have no finite time"
            )
        if self.durability not in DURABILITIES:
            raise InvalidSpecError(
                f"durability is {self.durability!r}; it must be one of {', '.join(DURABILITIES)}"
            )

    def __str__(self) -> str:
        columns = ", ".join(f"{c.name} {c.dtype.name} {c.shape}" for c in self.columns)
        return (
            f"({columns}; capacity {self.capacity:,}, fps {self.fps}, durability {self.durability})"
        )

    @cached_property
    def declared(self) -> dict[str, Column]:
        """The declared columns, by name and in the order of names."""
        return {column.name: column for column in self.columns}

    @cached_property
    def by_name(self) -> dict[str, Column]:
        """All columns, preset ones included, by name and in the order of names."""
        every = sorted((*self.columns, *PRESETS), key=lambda c: c.name)
        return {column.name: column for column in every}

    @cached_property
    def frame_bytes(self) -> int:
        """Bytes of one frame over all columns."""
        return sum(column.frame_bytes for column in self.by_name.values())

    @property
    def tolerance_s(self) -> float | None:
        """Default tolerance of windows in seconds; None without a frame rate.

        Just under one frame's time, as in LeRobot: a window may miss by less than a frame.
        """
        return None if self.fps is None else max(1 / self.fps - 1e-4, 0.0)

    def column(self, name: str) -> Column:
        """Returns one column.

        Raises:
            InvalidSpecError: there is none of that name; the message lists those there are.
        """
        try:
            return self.by_name[name]
        except (KeyError, TypeError):  # the latter of what cannot be a key, a list of names say
            near = difflib.get_close_matches(str(name)[:140], self.by_name, 1)
            raise InvalidSpecError(
                f"there is no column {str(name)[:140]!r}; "
                + (f"did you mean {near[0]!r}? " if near else "")
                + f"the columns are {', '.join(self.by_name)}"
            ) from None

    def differences(self, other: BufferSpec, whose: str) -> str:
        """Says what is not as in another spec, for a message: short, however wide both are.

        Args:
            other: the other one.
            whose: what to call it, such as "asked for".
        """
        found = [f"{what} {mine} ({whose}: {its})" for what, mine, its in self._unequal(other)]
        more = len(found) - _DIFFERENCES_IN_MESSAGE
        return ", ".join(found[:_DIFFERENCES_IN_MESSAGE]) + (
            f", and {more:,} more" if more > 0 else ""
        )

    def _unequal(self, other: BufferSpec) -> Iterator[tuple[str, str, str]]:
        """Yields what differs, as it is here, and as it is there."""
        for what in ("capacity", "fps", "durability"):
            mine, its = getattr(self, what), getattr(other, what)
            if mine != its:
                yield what, _shown(mine), _shown(its)
        for name in sorted(self.declared.keys() | other.declared.keys()):
            column, its = self.declared.get(name), other.declared.get(name)
            if column != its:
                yield f"column {name!r}", _shown(column), _shown(its)

    @classmethod
    def from_data_spec(
        cls,
        data_spec: Mapping[str, Any],
        capacity: int,
        fps: float | None = None,
        durability: str = "interval",
    ) -> BufferSpec:
        """Builds a spec from `{name: {"shape": (...), "dtype": ...}}`, as users write it.

        Raises:
            InvalidSpecError: a name, shape or dtype is missing or not valid.
        """
        if not isinstance(data_spec, Mapping):
            raise InvalidSpecError(
                "data_spec must be a mapping {name: {'shape': (...), 'dtype': ...}}, received "
                f"{type(data_spec).__name__}"
            )
        columns = tuple(_column_of(name, entry) for name, entry in data_spec.items())
        frames = _integer(capacity, "capacity")
        return cls(columns, frames, None if fps is None else _rate(fps), durability)


def _shown(value: Column | str | float | None) -> str:
    if isinstance(value, Column):
        return f"{value.dtype.name} {value.shape}"[:_COLUMN_IN_MESSAGE]
    if value is None:
        return "none"
    return value if isinstance(value, str) else f"{value:,}"


def _column_of(name: str, entry: Mapping[str, Any]) -> Column:
    # numpy would take None for float64.
    if not isinstance(entry, Mapping) or entry.get("shape") is None or entry.get("dtype") is None:
        raise InvalidSpecError(
            f"column {name!r} needs {{'shape': (...), 'dtype': ...}}, received {entry!r:.100}"
        )
    try:
        axes = tuple(entry["shape"])
    except TypeError:
        raise InvalidSpecError(
            f"column {name!r} has shape {entry['shape']!r:.60}; it must be a tuple of integers, "
            "such as (3,), or () for a scalar"
        ) from None
    dtype = entry["dtype"]
    if type(dtype).__module__ == "torch":  # whose dtypes are called as numpy's are
        dtype = str(dtype).removeprefix("torch.")
    try:
        dtype_name = np.dtype(dtype).name
    except TypeError:
        dtype_name = str(dtype)
    shape = tuple(_integer(axis, f"an axis of {name!r}") for axis in axes)
    return Column(name, dtype_of(dtype_name), shape)


def _integer(value: Any, what: str) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InvalidSpecError(f"{what} must be an integer, received {value!r:.60}")
    return int(value.__index__())


def _rate(value: Any) -> float:
    try:
        return real(value)
    except (TypeError, ValueError, OverflowError):
        raise InvalidSpecError(f"fps must be a number, received {value!r:.60}") from None


def real(value: Any) -> float:
    """Returns a number as a float. A string or a bool is none, although `float` would take it.

    Raises:
        TypeError, ValueError, OverflowError: it is no number.
    """
    if isinstance(value, (str, bytes, bool, np.bool_)):
        raise TypeError(f"{value!r:.60} is no number")
    return float(value)


def _check_columns(columns: Iterable[Column]) -> None:
    names = [column.name for column in columns]
    if not names:
        raise InvalidSpecError("a buffer needs at least one column of its own; received none")
    limits.check_limit(len(names), limits.MAX_COLUMNS, "columns of a buffer", "merge some of them")
    seen: set[str] = set()
    for column in columns:
        _check_column(column)
        if column.name in seen:
            raise InvalidSpecError(f"column {column.name!r} is declared twice")
        seen.add(column.name)
    for name in names:
        base = name.removesuffix(IS_PAD_SUFFIX)
        if base != name and (base in seen or base in PRESET_NAMES):
            raise InvalidSpecError(
                f"column {name!r} would collide with the padding mask of {base!r}; rename it"
            )


def _check_column(column: Column) -> None:
    if isinstance(column.name, str) and column.name.startswith("_"):
        raise InvalidSpecError(
            f"column {column.name[:140]!r}: names that begin with '_' are reserved; rename it"
        )
    try:
        check_name(column.name, "column", limits.MAX_COLUMN_NAME)
    except InvalidRequestError as error:
        raise InvalidSpecError(str(error)) from None
    if column.name in PRESET_NAMES:
        raise InvalidSpecError(
            f"column {column.name!r} exists in every buffer; leave it out of the spec"
        )
    if dtype_of(column.dtype.name) != column.dtype:
        raise InvalidSpecError(
            f"column {column.name!r} has dtype {column.dtype.str!r}; values are stored "
            f"little-endian, as {dtype_of(column.dtype.name).str!r}"
        )
    if len(column.shape) > limits.MAX_AXES - 2:
        raise InvalidSpecError(
            f"column {column.name!r} has {len(column.shape):,} axes; use at most "
            f"{limits.MAX_AXES - 2}"
        )
    if any(axis < 1 for axis in column.shape):
        raise InvalidSpecError(
            f"column {column.name!r} has shape {column.shape}; every axis must be at least 1"
        )
    if column.frame_bytes >= 1 << 40:
        raise InvalidSpecError(
            f"column {column.name!r} has {column.frame_bytes:,} bytes per frame; the limit is 2^40"
        )
