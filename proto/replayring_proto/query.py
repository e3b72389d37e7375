"""What a caller wants to see: views with windows, and what to sample.

Plain values that cross every layer, checked against a spec before anything is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from replayring_proto import limits
from replayring_proto.errors import InvalidRequestError, InvalidSpecError
from replayring_proto.limits import check_limit
from replayring_proto.spec import BufferSpec, real

Offsets = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Window:
    """The frames around one frame, of one column. Exactly one of the two offsets is given.

    Attributes:
        key: the column.
        seconds: offsets in seconds.
        frames: offsets in frames.
    """

    key: str
    seconds: tuple[float, ...] | None = None
    frames: tuple[int, ...] | None = None

    @property
    def length(self) -> int:
        """Number of offsets."""
        return len(self.seconds if self.seconds is not None else self.frames or ())


@dataclass(frozen=True)
class View:
    """How fetched frames should look.

    Attributes:
        keys: columns wanted besides the presets; None for all.
        windows: at most one per column.
        tolerance_s: how far off a frame's timestamp may be, in seconds; None for the spec's own.
    """

    keys: tuple[str, ...] | None = None
    windows: tuple[Window, ...] = ()
    tolerance_s: float | None = None

    @classmethod
    def of(
        cls,
        keys: Iterable[str] | None = None,
        delta_timestamps: Offsets | None = None,
        delta_indices: Mapping[str, Sequence[int]] | None = None,
        tolerance_s: float | None = None,
    ) -> View:
        """Builds a view from the arguments that users write.

        Raises:
            InvalidSpecError: an offset is no number, or `delta_indices` holds a fraction.
        """
        if isinstance(keys, str):
            raise InvalidSpecError(f"keys must be a list of column names, received {keys!r}")
        for offsets in (delta_timestamps, delta_indices):
            if offsets is not None and not isinstance(offsets, Mapping):
                raise InvalidSpecError(
                    "windows must be a mapping {key: [offset, ...]}, received "
                    f"{type(offsets).__name__}"
                )
        windows = [
            Window(key, seconds=tuple(_numbers(real, key, values)))
            for key, values in (delta_timestamps or {}).items()
        ]
        windows += [
            Window(key, frames=tuple(_numbers(_whole, key, values)))
            for key, values in (delta_indices or {}).items()
        ]
        return cls(None if keys is None else tuple(keys), tuple(windows), tolerance_s)

    def check(self, spec: BufferSpec) -> None:
        """Checks this view against a buffer's spec.

        Raises:
            InvalidSpecError: an unknown or repeated key, no or non-finite offsets, offsets in
                seconds without a frame rate, or a tolerance that is negative or not finite.
            LimitExceededError: a window has too many offsets.
        """
        for key in self.keys or ():
            spec.column(key)
        seen: set[str] = set()
        for window in self.windows:
            _check_window(window, spec)
            if window.key in seen:
                raise InvalidSpecError(
                    f"{window.key!r} has more than one window; give it either delta_timestamps "
                    "or delta_indices"
                )
            seen.add(window.key)
        tolerance = self.tolerance_s
        if tolerance is not None and not _is_tolerance(tolerance):
            raise InvalidSpecError(
                f"tolerance_s is {tolerance!r}; it must be finite and at least 0"
            )


@dataclass(frozen=True)
class SampleQuery:
    """What to sample.

    Attributes:
        batch_size: frames per batch.
        view: how they should look.
        drop_n_last_frames: frames at the end of each episode that are not drawn; below the
            capacity, or no episode would be long enough, ever.
    """

    batch_size: int
    view: View = View()
    drop_n_last_frames: int = 0

    def check(self, spec: BufferSpec) -> None:
        """Checks this query against a buffer's spec.

        Raises:
            InvalidRequestError: the batch size is below 1, or the drop out of range.
            InvalidSpecError: as for `View.check`.
        """
        if self.batch_size < 1:
            raise InvalidRequestError(f"batch_size is {self.batch_size}; it must be at least 1")
        if not 0 <= self.drop_n_last_frames < spec.capacity:
            raise InvalidRequestError(
                f"drop_n_last_frames is {self.drop_n_last_frames:,}; it must be from 0 to "
                f"{spec.capacity - 1:,}, as no episode here is longer than {spec.capacity:,} (the "
                "capacity, or a shard's share of it): drop fewer, or create the buffer larger"
            )
        self.view.check(spec)


def _check_window(window: Window, spec: BufferSpec) -> None:
    spec.column(window.key)
    if not window.length:
        raise InvalidSpecError(f"the window of {window.key!r} has no offsets; give at least one")
    check_limit(
        window.length,
        limits.MAX_WINDOW_OFFSETS,
        f"offsets in the window of {window.key!r}",
        "ask for fewer",
    )
    if window.seconds is None:
        if any(abs(offset) > limits.MAX_CAPACITY for offset in window.frames or ()):
            raise InvalidSpecError(
                f"an offset in the window of {window.key!r} is beyond "
                f"{limits.MAX_CAPACITY:,} frames"
            )
        return
    if spec.fps is None:
        raise InvalidSpecError(
            f"delta_timestamps for {window.key!r}, but the buffer has no fps; create it with fps, "
            "or use delta_indices"
        )
    if not all(math.isfinite(offset) for offset in window.seconds):
        raise InvalidSpecError(f"an offset in the window of {window.key!r} is not finite")


def _is_tolerance(value: Any) -> bool:
    try:
        return math.isfinite(real(value)) and value >= 0
    except (TypeError, ValueError, OverflowError):
        return False


def _numbers(kind: Any, key: str, values: Iterable[Any]) -> Iterable[Any]:
    try:
        listed = list(values)
    except TypeError:
        raise InvalidSpecError(
            f"the window of {key!r} is {values!r:.60}; give a list of offsets, such as [0]"
        ) from None
    try:
        return [kind(value) for value in listed]
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidSpecError(f"the window of {key!r}: {error}") from None


def _whole(value: Any) -> int:
    whole = int(real(value))
    if whole != value:
        raise ValueError(f"offset {value!r} is not a whole number of frames")
    return whole
