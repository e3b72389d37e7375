"""Reading a ring while it is being written, without a lock and without ever showing a torn row.

The protocol, after the broadcast buffer of Agrona
(https://github.com/aeron-io/agrona, BroadcastReceiver): take the live window, gather, then read
`intent`. Frame `index` lies in row `index % P`, so whatever the writer has begun to write since
has replaced frames below `intent - P` and no others. If nothing that was read lies there, all of
it is whole; otherwise read anew. The writer keeps its side by raising `low` and `intent` before
it touches a row (see the engine's ring).

An append that needs the rows of live frames makes room first: until it is done the oldest frames
are missing, and those after them in slot order are at other positions. Whoever asks by position, or
for all that lives, has no use for such a window, and can have it refused (`MakingRoom`).

A row that was overtaken may show any bytes, so values read are not trusted before that check:
row numbers are taken modulo P, and complaints about windows wait until the check has passed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from replayring_proto import limits
from replayring_proto.errors import OvertakenError, ToleranceError
from replayring_proto.layout import BOUNDS, physical_rows
from replayring_proto.pack import Memory, Pack, PackLayout, TensorSpec, aligned_empty
from replayring_proto.ring.columns import FrameColumns
from replayring_proto.ring.counters import Counters
from replayring_proto.ring.live import Indices, Live, rows_of
from replayring_proto.ring.patience import Patience
from replayring_proto.ring.plan import Plan, WindowGroup
from replayring_proto.ring.windows import Anchors, Resolved, by_frames, by_seconds
from replayring_proto.spec import EPISODE_INDEX, IS_PAD_SUFFIX, TIMESTAMP, BufferSpec

Array = npt.NDArray[Any]


class MakingRoom(Exception):
    """An append is making room for itself, or died at that: the oldest frames are missing.

    While it lasts, positions are not what they were before and will be after it.
    """


class RingReader:
    """Reads one ring. Thread-safe; takes no lock, so readers never wait and never delay a writer.

    Attributes:
        spec: what the buffer holds.
        columns: every stored column by name, each of shape (P, *shape).
    """

    def __init__(self, spec: BufferSpec, counters: Counters, columns: FrameColumns) -> None:
        self.spec = spec
        self.columns = columns
        self._counters = counters
        self._rows = physical_rows(spec.capacity)
        self._ends = columns[BOUNDS.name][:, 1]

    @property
    def live(self) -> Live:
        """The live window now."""
        # In this order: a `low` read after `head` may belong to later frames, and lie beyond it.
        # One that is too old does no harm, as `intent` tells which frames may have changed.
        low = self._counters.low
        head = self._counters.head
        capacity = self.spec.capacity
        return Live(max(low, head - capacity), head, capacity)

    def window(self, *, steady: bool) -> Live:
        """Returns the live window now.

        Args:
            steady: whether it must be one of between two appends.

        Raises:
            MakingRoom: it must, and is not.
        """
        live = self.live
        if steady:
            self._check_steady(live)
        return live

    def _check_steady(self, live: Live) -> None:
        # A window may be short for good: a power loss, or a snapshot, took its oldest frames.
        if live.short and self._counters.intent > live.end:
            raise MakingRoom

    @property
    def _oldest_whole(self) -> int:
        """Frames below this `index` may have been written over."""
        return self._counters.intent - self._rows

    def at_positions(self, plan: Plan, positions: Indices, *, steady: bool = False) -> Pack:
        """Returns the frames at these positions, as they are now.

        Args:
            plan: what to gather.
            positions: where.
            steady: as for `window`.

        Raises:
            FrameNotFoundError: a position is out of range.
            ToleranceError: a window in seconds misses inside an episode.
            MakingRoom: as for `window`.
        """

        def pick(live: Live) -> Indices:
            if steady:
                self._check_steady(live)
            return live.index_at(positions)

        return self.gather(plan, pick)

    def at_indices(self, plan: Plan, indices: Indices) -> Pack:
        """Returns the frames with these values of `index`.

        Raises:
            FrameNotFoundError: one was overwritten or does not exist yet.
            ToleranceError: a window in seconds misses inside an episode.
        """

        def pick(live: Live) -> Indices:
            live.check_indices(indices)
            return indices

        return self.gather(plan, pick)

    def gather(
        self, plan: Plan, pick: Callable[[Live], Indices], memory: Memory = aligned_empty
    ) -> Pack:
        """Picks frames from the live window and gathers them, anew until all of them are whole.

        Args:
            plan: what to gather.
            pick: returns the wanted frames' `index`; called again, with the window as it is then,
                each time writers overtook the gathering.
            memory: makes what they are gathered in.

        Raises:
            OvertakenError: that happened a thousand times in a row, or for some seconds.
        """
        patience = Patience()
        while True:
            live = self.live
            wanted = pick(live)
            pack, oldest, misses = self._gather_once(plan, live, wanted, memory)
            if oldest >= self._oldest_whole:
                if misses is not None:
                    raise misses
                return pack
            del pack  # before there is another one
            if patience.ends():
                raise OvertakenError(
                    f"writers overtook this read {patience.overtaken} times; read fewer frames at "
                    "once, or create the buffer larger"
                )

    def _gather_once(
        self, plan: Plan, live: Live, index: Indices, memory: Memory
    ) -> tuple[Pack, int, ToleranceError | None]:
        """Gathers once; also returns the oldest frame touched, and a complaint if any."""
        pack = Pack(plan.layout(len(index)), memory)
        rows = rows_of(index, self._rows)
        self.columns.gather(plan.plain, rows, pack.arrays)
        oldest = int(index.min(initial=live.end))
        misses: ToleranceError | None = None
        if plan.groups:
            bounds = self.columns[BOUNDS.name][rows]
            anchors = Anchors(index, np.maximum(bounds[:, 0], live.start), bounds[:, 1] - 1)
            # Looking up times touches any frame of the episode; so its first is what must be whole.
            oldest = min(oldest, int(anchors.first.min(initial=live.end)))
            for group in plan.groups:
                resolved = self._resolve(plan, group, anchors)
                misses = misses or self._complaint(plan, group, anchors, resolved)
                self._gather_window(group, resolved, pack)
        return pack, oldest, misses

    def _resolve(self, plan: Plan, group: WindowGroup, anchors: Anchors) -> Resolved:
        if group.frames is not None:
            return by_frames(anchors, group.frames)
        assert group.seconds is not None
        assert plan.tolerance_s is not None  # the plan was refused without fps
        return by_seconds(anchors, group.seconds, plan.tolerance_s, self._times_at)

    def _gather_window(self, group: WindowGroup, resolved: Resolved, pack: Pack) -> None:
        self.columns.gather(group.fetch, rows_of(resolved.index, self._rows), pack.arrays)
        for column in group.columns:
            pack.arrays[column.name + IS_PAD_SUFFIX][...] = resolved.is_pad

    def _complaint(
        self, plan: Plan, group: WindowGroup, anchors: Anchors, resolved: Resolved
    ) -> ToleranceError | None:
        if resolved.misses is None or not resolved.misses.any():
            return None
        assert group.seconds is not None
        item, offset = (int(axis[0]) for axis in np.nonzero(resolved.misses))
        pair = np.array([anchors.index[item], resolved.index[item, offset]])
        anchor, nearest = self._times_at(pair).tolist()
        asked = float(group.seconds[offset])
        return ToleranceError(
            f"the window of {group.columns[0].name!r} asks for {asked:+g} s from the frame with "
            f"index {pair[0]}; the nearest frame of its episode is "
            f"{abs(nearest - anchor - asked):g} s off, beyond tolerance_s={plan.tolerance_s:g}. "
            "Ask for multiples of 1/fps, add episodes whose timestamps are seconds that keep to "
            "fps, or raise tolerance_s"
        )

    def _times_at(self, index: Indices) -> npt.NDArray[np.float64]:
        return self.columns[TIMESTAMP][rows_of(index, self._rows)]

    def frames_after(self, index: Indices) -> Indices:
        """Returns how many frames follow each in its episode. Meaningful for whole rows only."""
        ends: Indices = self._ends[rows_of(index, self._rows)]
        return ends - index - 1

    def ends_of(self, index: Indices) -> Indices | None:
        """Returns where the episode of each frame ends; None if writers overtook this read."""
        ends: Indices = self._ends[rows_of(index, self._rows)]
        return ends if int(index.min()) >= self._oldest_whole else None

    def state(self, *, steady: bool = False) -> tuple[Live, int, int]:
        """Returns the live window, the episodes in it, and the number that the next one gets.

        Raises:
            MakingRoom: as for `window`.
        """
        patience = Patience()
        while True:
            live = self.window(steady=steady)
            if not len(live):
                return live, 0, 0
            ends = np.array((live.start, live.end - 1)) % self._rows
            first, last = self.columns[EPISODE_INDEX][ends].tolist()
            if live.start >= self._oldest_whole:
                return live, last - first + 1, last + 1
            if patience.ends():
                raise OvertakenError("writers overtook this read of the buffer's state; try again")

    def read_columns(
        self, keys: tuple[str, ...], *, steady: bool = False
    ) -> tuple[PackLayout, Iterator[Array]]:
        """Returns whole columns, all live frames in position order, as one pack in pieces.

        Args:
            keys: columns, without repetition.
            steady: as for `window`.

        Returns:
            The pack's layout, and its body as consecutive byte arrays, each a copy that a message
            can carry. Iterating raises `OvertakenError` when writers have replaced what was still
            to be read.

        Raises:
            InvalidSpecError: an unknown column.
            MakingRoom: as for `window`.
        """
        live = self.window(steady=steady)
        columns = [self.spec.column(key) for key in keys]
        layout = PackLayout(TensorSpec(c.name, c.dtype, (len(live), *c.shape)) for c in columns)
        return layout, self._column_pieces(layout, live)

    def _column_pieces(self, layout: PackLayout, live: Live) -> Iterator[Array]:
        end = 0
        for tensor, start in zip(layout.tensors, layout.offsets, strict=True):
            if start > end:
                yield np.zeros(start - end, np.uint8)
            for run in live.runs:
                yield from self._run_pieces(self.columns[tensor.name], *run)
            end = start + tensor.nbytes

    def _run_pieces(self, column: Array, start: int, end: int) -> Iterator[Array]:
        frame_bytes = column.nbytes // len(column)
        step = max(1, limits.CHUNK_BYTES // frame_bytes)
        while start < end:
            row = start % self._rows
            count = min(step, end - start, self._rows - row)
            for piece in _copies(column[row : row + count]):
                if start < self._oldest_whole:
                    raise OvertakenError(
                        "writers replaced frames of this column before they were read; try again, "
                        "or read fewer columns at once"
                    )
                yield piece
            start += count


def _copies(rows: Array) -> Iterator[Array]:
    """Yields copies of the bytes of rows, at most as many at a time as a message carries."""
    if rows.nbytes <= limits.CHUNK_BYTES:
        yield rows.copy().reshape(-1).view(np.uint8)
        return
    whole = rows.reshape(-1).view(np.uint8)  # no copy: a frame as large has a file of its own
    for start in range(0, len(whole), limits.CHUNK_BYTES):
        yield whole[start : start + limits.CHUNK_BYTES].copy()
