"""Rings in plain memory: the protocol without files, and with a hook at each of its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from replayring_proto import layout
from replayring_proto.query import View
from replayring_proto.ring import Counters, FrameColumns, Plan, RingReader
from replayring_proto.ring.columns import Fetch
from replayring_proto.spec import BufferSpec
from replayring_server.engine.ring import RingWriter
from tests.engine.frames import Arrays, assert_contiguous, assert_whole, checked_episode

Hook = Callable[[str], None]


class MemoryRing:
    """A ring whose counters and columns are arrays of this process, filled with checked frames.

    Attributes:
        on_write: called before each step of the writer, with its name: "low", "head", "intent", or
            the name of the column about to change.
        on_read: called before each step of readers made by `reader`, with the same names.
    """

    def __init__(self, spec: BufferSpec, slices: int = 1, pieces: int = 1) -> None:
        """Makes an empty ring.

        Args:
            spec: what it holds.
            slices: in how many slices its writer writes each run of rows.
            pieces: episodes of each append, if it has as many frames.
        """
        self.spec = spec
        self.pieces = pieces
        self.rows = layout.physical_rows(spec.capacity)
        self.slack = self.rows - spec.capacity
        self.page = np.zeros(layout.CURSOR_BYTES, np.uint8)
        sizes = layout.file_sizes(spec)
        self.files = {
            file.name: np.zeros(sizes[file.name], np.uint8) for file in layout.frame_files(spec)
        }
        self.columns = FrameColumns(spec, self.files.__getitem__)
        self.slices = slices
        self.on_write: Hook = lambda step: None
        self.on_read: Hook = lambda step: None
        self.episodes = 0
        self.writer = self.open_writer()

    @property
    def counters(self) -> Counters:
        return Counters(self.page)

    def open_writer(self) -> RingWriter:
        """A new writer, as a server that was started anew would have."""
        counters: Any = HookedCounters(self.page, lambda step: self.on_write(step))
        columns: Any = {
            name: HookedColumn(column, lambda name=name: self.on_write(name), self.slices)
            for name, column in self.columns.items()
        }
        return RingWriter(self.spec, counters, columns, lambda until: None)

    def reader(self) -> RingReader:
        """A new reader, which may belong to another process for all that it knows."""
        counters: Any = HookedCounters(self.page, lambda step: self.on_read(step))
        columns = HookedColumns(self.columns, lambda step: self.on_read(step))
        return RingReader(self.spec, counters, columns)

    def append(self, frames: int, before_publish: Callable[[], None] | None = None) -> None:
        """Appends so many frames, in `pieces` episodes whose tags are their numbers, from 1."""
        count = min(self.pieces, frames)
        lengths = [frames // count + (place < frames % count) for place in range(count)]
        first = self.episodes + 1
        episodes = [
            checked_episode(self.spec, tag, length) for tag, length in enumerate(lengths, first)
        ]
        columns = {name: [one[name] for one in episodes] for name in episodes[0]}
        self.writer.append(columns, self.episodes, lengths, before_publish)
        self.episodes += count

    def assert_live_frames_are_whole(self) -> Arrays:
        """Reads every live frame as a new reader would, checks them, and returns them."""
        reader = self.reader()
        live = reader.live
        pack = reader.at_indices(Plan(self.spec, View()), np.arange(live.start, live.end))
        assert_whole(self.spec, pack.arrays)
        assert_contiguous(pack.arrays)
        return pack.arrays


class HookedCounters(Counters):
    """Counters that call a hook before each load and each store."""

    __slots__ = ("_hook",)

    def __init__(self, page: np.ndarray[Any, Any], hook: Hook) -> None:
        super().__init__(page)
        self._hook = hook

    def __getattribute__(self, name: str) -> Any:
        if name in ("low", "head", "intent"):
            object.__getattribute__(self, "_hook")(f"read {name}")
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("low", "head", "intent"):
            self._hook(name)
        super().__setattr__(name, value)


class HookedColumn:
    """A column that calls a hook before each slice of rows is written."""

    def __init__(self, column: np.ndarray[Any, Any], hook: Callable[[], None], slices: int) -> None:
        self._column, self._hook, self._slices = column, hook, slices

    def __setitem__(self, rows: slice, values: Any) -> None:
        target = self._column[rows]
        flat = target.flat
        # Slices of elements, not of rows: a row itself may be seen half-written.
        source = np.broadcast_to(values, target.shape).astype(target.dtype).reshape(-1)
        for piece in np.array_split(np.arange(len(source)), self._slices):
            if len(piece):
                self._hook()
                flat[piece[0] : piece[-1] + 1] = source[piece[0] : piece[-1] + 1]


class HookedColumns(FrameColumns):
    """Columns that call a hook before each time one of them is looked at, or several together."""

    def __init__(self, columns: FrameColumns, hook: Hook) -> None:
        vars(self).update(vars(columns))
        self._hook = hook

    def __getitem__(self, name: str) -> Any:
        self._hook(name)
        return super().__getitem__(name)

    def gather(self, fetch: Fetch, rows: Any, out: Any) -> None:
        for names in (fetch.together, *((name,) for name in (*fetch.apart, *fetch.large))):
            for name in names:
                self._hook(name)
            super().gather(_only(fetch, names), rows, out)


def _only(fetch: Fetch, names: tuple[str, ...]) -> Fetch:
    """Returns how to fetch a few of these columns."""
    together, apart, large = (
        tuple(name for name in part if name in names)
        for part in (fetch.together, fetch.apart, fetch.large)
    )
    return Fetch(together, apart, large)
