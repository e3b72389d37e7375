"""How a view on a spec becomes tensors: which columns, which windows, in what layout.

Made once per view and used for every batch of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from replayring_proto.limits import ServerLimits, check_limit
from replayring_proto.pack import PackLayout, TensorSpec
from replayring_proto.query import View, Window
from replayring_proto.ring.columns import Fetch
from replayring_proto.spec import DTYPES, IS_PAD_SUFFIX, PRESETS, BufferSpec, Column

_BOOL = DTYPES["bool"]
_KEPT_LAYOUTS = 16


@dataclass(frozen=True)
class WindowGroup:
    """Columns that share their offsets, so that these are resolved once.

    Attributes:
        seconds: offsets in seconds, or None.
        frames: offsets in frames, or None.
        columns: the columns to gather.
        fetch: how to fetch them.
    """

    seconds: npt.NDArray[np.float64] | None
    frames: npt.NDArray[np.int64] | None
    columns: tuple[Column, ...]
    fetch: Fetch


class Plan:
    """A view made ready for one spec. Thread-safe: only the layouts that are kept change.

    Attributes:
        plain: how to fetch the columns that are gathered as they are.
        groups: windows, grouped by equal offsets.
        tolerance_s: for windows in seconds.
    """

    def __init__(self, spec: BufferSpec, view: View) -> None:
        """Checks `view` against `spec` and plans it.

        Raises:
            InvalidSpecError: the view does not fit the spec.
            LimitExceededError: a window is too long.
        """
        view.check(spec)
        windowed = {window.key for window in view.windows}
        keys = set(spec.by_name if view.keys is None else view.keys)
        keys.update(column.name for column in PRESETS)
        self._plain = tuple(spec.by_name[key] for key in sorted(keys - windowed))
        self.plain = Fetch.of(spec, sorted(keys - windowed))
        self.groups = _group(spec, view.windows)
        self.tolerance_s = view.tolerance_s if view.tolerance_s is not None else spec.tolerance_s
        self._layouts: dict[int, PackLayout] = {}
        self._entries = max([1, *(window.length for window in view.windows)])

    @property
    def entries_per_frame(self) -> int:
        """The longest window: how many frames one item may touch per column."""
        return self._entries

    @property
    def seeks(self) -> bool:
        """Whether frames are to be searched for by their timestamps."""
        return any(group.seconds is not None for group in self.groups)

    def layout(self, batch_size: int) -> PackLayout:
        """Returns the layout of a batch; some are kept, as batches repeat their size."""
        layout = self._layouts.get(batch_size)
        if layout is None:
            layout = PackLayout(self._tensors(batch_size))
            self._layouts = {
                **dict(list(self._layouts.items())[-_KEPT_LAYOUTS:]),
                batch_size: layout,
            }
        return layout

    def check_size(self, batch_size: int, limits: ServerLimits) -> int:
        """Returns the bytes of a batch, if they and the work for them are allowed.

        Raises:
            LimitExceededError: they are not.
        """
        check_limit(
            batch_size,
            limits.max_batch_size,
            "frames asked for at once",
            "ask for fewer",
            "max_batch_size",
        )
        check_limit(
            batch_size * self._entries,
            limits.max_window_entries,
            "frames of one reply times offsets of its longest window",
            "ask for fewer frames, or shorter windows",
            "max_window_entries",
        )
        nbytes = self.layout(batch_size).nbytes
        check_limit(
            nbytes,
            limits.max_reply_bytes,
            "bytes of one reply",
            "ask for fewer frames, fewer keys, or shorter windows",
            "max_reply_bytes",
        )
        return nbytes

    def _tensors(self, batch: int) -> list[TensorSpec]:
        tensors = [TensorSpec(c.name, c.dtype, (batch, *c.shape)) for c in self._plain]
        for group in self.groups:
            offsets = group.seconds if group.seconds is not None else group.frames
            shape = (batch, 0 if offsets is None else len(offsets))
            for column in group.columns:
                tensors.append(TensorSpec(column.name, column.dtype, (*shape, *column.shape)))
                tensors.append(TensorSpec(column.name + IS_PAD_SUFFIX, _BOOL, shape))
        return sorted(tensors, key=lambda tensor: tensor.name)


def _group(spec: BufferSpec, windows: tuple[Window, ...]) -> tuple[WindowGroup, ...]:
    groups: dict[tuple[tuple[float, ...] | None, tuple[int, ...] | None], list[Column]] = {}
    for window in windows:
        groups.setdefault((window.seconds, window.frames), []).append(spec.by_name[window.key])
    return tuple(
        WindowGroup(
            None if seconds is None else np.array(seconds, np.float64),
            None if frames is None else np.array(frames, np.int64),
            tuple(columns),
            Fetch.of(spec, (column.name for column in columns)),
        )
        for (seconds, frames), columns in groups.items()
    )
