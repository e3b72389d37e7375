"""A buffer as a plain Python list: obviously correct, slow, and the measure for the real one.

`NaiveBuffer` offers the reading and writing side of `replayring.Buffer` with the same results, so
differential tests can ask both the same question, and dataset tests run over either. What makes
an episode or a view valid is asked of `replayring_proto`, on which both sides agree; everything
else (the ring, positions, windows, eligibility) is written out here, a second time and naively.

Randomness is its own: `sample` draws from the right frames, not the frames a server would draw.
It never waits: where a server would, it raises `DeadlineError` at once.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from replayring._batch import Batch
from replayring._streams import BatchStream
from replayring_proto.episode import check_episode, split_episodes
from replayring_proto.errors import (
    ClosedError,
    DeadlineError,
    FrameNotFoundError,
    InvalidRequestError,
    ToleranceError,
)
from replayring_proto.messages import BufferInfo
from replayring_proto.pack import Memory, Pack, aligned_empty
from replayring_proto.query import SampleQuery, View, Window
from replayring_proto.spec import EPISODE_INDEX, FRAME_INDEX, INDEX, PRESET_NAMES, TIMESTAMP
from replayring_proto.spec import BufferSpec as BufferSpec

ROUNDING_S = 1e-6  # by how much a time that is meant may miss, since 0.1 + 0.2 is not 0.3

Frame = dict[str, Any]
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Acknowledgement:
    """What adding one episode returns; fields as in `replayring.Acknowledgement`."""

    episode_index: int
    index: int
    num_frames: int


class NaiveBuffer:
    """A ring buffer of frames, kept as a list of dicts. Picklable; not thread-safe.

    Attributes:
        frames: the live frames, oldest first, each with a value for every column.
    """

    def __init__(self, spec: BufferSpec, name: str = "naive") -> None:
        self.name = name
        self.spec = spec
        self.frames: list[Frame] = []
        self._next_index = 0
        self._next_episode_index = 0

    # Writing

    def add_data(
        self, data: Mapping[str, Any], *, timeout: float | None = None
    ) -> list[Acknowledgement]:
        """Adds whole episodes from one flat dict, or none of them."""
        return [self._append(episode) for episode in list(split_episodes(self.spec, data))]

    def add_episode(
        self, data: Mapping[str, Any], *, timeout: float | None = None
    ) -> Acknowledgement:
        """Adds one episode."""
        return self._append(check_episode(self.spec, data))

    def add_episodes(
        self, episodes: Iterable[Mapping[str, Any]], *, timeout: float | None = None
    ) -> list[Acknowledgement]:
        """Adds episodes one after another, or none of them."""
        return [
            self._append(data)
            for data in [check_episode(self.spec, episode) for episode in episodes]
        ]

    def _append(self, episode: Mapping[str, np.ndarray]) -> Acknowledgement:
        first_index = self._next_index
        num_frames = len(next(iter(episode.values())))
        for i in range(num_frames):
            frame: Frame = {key: np.array(column[i]) for key, column in episode.items()}
            frame.setdefault(FRAME_INDEX, np.int64(i))
            frame.setdefault(TIMESTAMP, np.float64(frame[FRAME_INDEX] / (self.spec.fps or 1.0)))
            frame[INDEX] = np.int64(self._next_index)
            frame[EPISODE_INDEX] = np.int64(self._next_episode_index)
            self.frames.append(frame)
            self._next_index += 1
            if len(self.frames) > self.spec.capacity:
                self.frames.pop(0)
        self._next_episode_index += 1
        return Acknowledgement(self._next_episode_index - 1, first_index, num_frames)

    # State

    def info(self, *, timeout: float | None = None) -> BufferInfo:
        """Where the ring stands; what concerns files is blank."""
        return BufferInfo(
            name=self.name,
            buffer_id="naive",
            spec=self.spec,
            oldest_index=self._next_index - len(self.frames),
            next_index=self._next_index,
            num_episodes=len({int(frame[EPISODE_INDEX]) for frame in self.frames}),
            next_episode_index=self._next_episode_index,
            physical_rows=0,
            disk_bytes=0,
            path="",
        )

    def in_position_order(self) -> list[Frame]:
        """The live frames as positions count them: by their slot in a ring of `capacity`."""
        return sorted(self.frames, key=lambda frame: int(frame[INDEX]) % self.spec.capacity)

    def episode_of(self, frame: Frame) -> list[Frame]:
        """The frames of this frame's episode that are still alive, in order."""
        return [f for f in self.frames if f[EPISODE_INDEX] == frame[EPISODE_INDEX]]

    # Reading

    def get(
        self,
        positions: Sequence[int] | None = None,
        *,
        indices: Sequence[int] | None = None,
        delta_timestamps: Mapping[str, Sequence[float]] | None = None,
        delta_indices: Mapping[str, Sequence[int]] | None = None,
        keys: Sequence[str] | None = None,
        tolerance_s: float | None = None,
        timeout: float | None = None,
    ) -> Arrays:
        """The frames at these positions, or with these values of `index`."""
        view = View.of(keys, delta_timestamps, delta_indices, tolerance_s)
        view.check(self.spec)
        if bool(positions is None or len(positions) == 0) == bool(
            indices is None or len(indices) == 0
        ):
            raise InvalidRequestError("give either positions or indices, and at least one")
        if positions is not None and len(positions):
            return self._batch([self._at_position(int(p)) for p in positions], view)
        return self._batch([self._at_index(int(i)) for i in indices or ()], view)

    def read_columns(self, keys: Sequence[str], *, timeout: float | None = None) -> Arrays:
        """Whole columns, in position order."""
        return {key: self._column(key, self.in_position_order()) for key in keys}

    def eligible(self, drop_n_last_frames: int = 0) -> list[Frame]:
        """The frames that sampling may draw: so many frames of their episode follow them."""
        found = []
        for frame in self.frames:
            following = [f for f in self.episode_of(frame) if f[INDEX] > frame[INDEX]]
            if len(following) >= drop_n_last_frames:
                found.append(frame)
        return found

    def sample(
        self,
        batch_size: int,
        *,
        delta_timestamps: Mapping[str, Sequence[float]] | None = None,
        delta_indices: Mapping[str, Sequence[int]] | None = None,
        drop_n_last_frames: int = 0,
        keys: Sequence[str] | None = None,
        tolerance_s: float | None = None,
        min_frames: int = 1,
        seed: int | None = None,
        timeout: float | None = None,
    ) -> Arrays:
        """Frames drawn uniformly, with replacement, from the eligible ones."""
        view = View.of(keys, delta_timestamps, delta_indices, tolerance_s)
        SampleQuery(batch_size, view, drop_n_last_frames).check(self.spec)
        eligible = self.eligible(drop_n_last_frames)
        if len(self.frames) < min_frames or not eligible:
            raise DeadlineError("a server would wait for more frames")
        return self._batch(random.Random(seed).choices(eligible, k=batch_size), view)

    def sample_stream(
        self,
        batch_size: int,
        *,
        in_flight: int = 4,
        seed: int | None = None,
        memory: Memory = aligned_empty,
        **options: Any,
    ) -> NaiveStream:
        """Batches without end, as `sample` gives them."""
        return NaiveStream(self, batch_size, seed, memory, options)

    def _at_position(self, position: int) -> Frame:
        ordered = self.in_position_order()
        if not -len(ordered) <= position < len(ordered):
            raise FrameNotFoundError(f"position {position} is out of range of {len(ordered)}")
        return ordered[position]

    def _at_index(self, index: int) -> Frame:
        for frame in self.frames:
            if frame[INDEX] == index:
                return frame
        raise FrameNotFoundError(f"no live frame has index {index}")

    def _column(self, key: str, frames: Sequence[Frame]) -> np.ndarray:
        column = self.spec.column(key)
        values = np.empty((len(frames), *column.shape), column.dtype)
        for row, frame in enumerate(frames):
            values[row] = frame[key]
        return values

    def _batch(self, frames: Sequence[Frame], view: View) -> Arrays:
        keys = set(self.spec.by_name if view.keys is None else view.keys) | PRESET_NAMES
        keys -= {window.key for window in view.windows}
        arrays = {key: self._column(key, frames) for key in keys}
        for window in view.windows:
            found = [self._window(frame, window, view) for frame in frames]
            column = self.spec.column(window.key)
            values = [self._column(window.key, around) for around, _ in found]
            shape = (len(frames), window.length, *column.shape)
            arrays[window.key] = np.array(values, column.dtype).reshape(shape)
            arrays[f"{window.key}_is_pad"] = np.array([pads for _, pads in found], np.bool_)
        return {key: arrays[key] for key in sorted(arrays)}

    def _window(self, frame: Frame, window: Window, view: View) -> tuple[list[Frame], list[bool]]:
        episode = self.episode_of(frame)
        if window.frames is not None:
            found = [frame_at_offset(episode, frame, offset) for offset in window.frames]
        else:
            tolerance = self.spec.tolerance_s if view.tolerance_s is None else view.tolerance_s
            assert window.seconds is not None
            assert tolerance is not None, "View.check refuses seconds without fps"
            found = [frame_at_time(episode, frame, s, tolerance) for s in window.seconds]
        return [around for around, _ in found], [is_pad for _, is_pad in found]


class NaiveStream(BatchStream):
    """Batches of a `NaiveBuffer` without end; seeded, it repeats itself."""

    def __init__(
        self,
        buffer: NaiveBuffer,
        batch_size: int,
        seed: int | None,
        memory: Memory,
        options: dict[str, Any],
    ) -> None:
        self._buffer = buffer
        self._batch_size = batch_size
        self._memory = memory
        self._options = options
        self._seeds = random.Random(seed)
        self.closed = False

    def close(self) -> None:
        self.closed = True

    def _draw(self) -> Batch:
        if self.closed:
            raise ClosedError("the stream is closed")
        seed = self._seeds.getrandbits(32)
        next_index = self._buffer.info().next_index
        arrays = self._buffer.sample(self._batch_size, seed=seed, **self._options)
        return Batch(Pack.of(arrays, self._memory), next_index)

    def _poll(self) -> Batch:
        return self._draw()


def frame_at_offset(episode: Sequence[Frame], frame: Frame, offset: int) -> tuple[Frame, bool]:
    """The frame `offset` after `frame`, or the episode's nearest one; and whether it is padding."""
    wanted = int(frame[INDEX]) + offset
    for candidate in episode:
        if candidate[INDEX] == wanted:
            return candidate, False
    return (episode[0] if offset < 0 else episode[-1]), True


def frame_at_time(
    episode: Sequence[Frame], frame: Frame, offset: float, tolerance_s: float
) -> tuple[Frame, bool]:
    """The frame nearest in time to `frame` plus `offset` seconds; and whether it is padding.

    Raises:
        ToleranceError: it is further off than `tolerance_s`, and not because the episode ends.
    """
    times = [float(f[TIMESTAMP]) for f in episode]
    query = float(frame[TIMESTAMP]) + offset
    distances = [abs(query - time) for time in times]
    is_pad = min(distances) > tolerance_s
    if is_pad and times[0] <= query <= times[-1]:
        raise ToleranceError(f"nothing within {tolerance_s} s of {query} s inside the episode")
    nearest_time = times[distances.index(min(distances))]  # the earlier one when two are as near
    twins = [f for f, time in zip(episode, times, strict=True) if time == nearest_time]
    if query > nearest_time + ROUNDING_S:
        return twins[-1], is_pad
    if query < nearest_time - ROUNDING_S:
        return twins[0], is_pad
    return min(twins, key=lambda twin: abs(int(twin[INDEX]) - int(frame[INDEX]))), is_pad
