"""Protobuf messages to and from the values that the rest of replayring handles.

The only module that touches fields of buffer and view messages; both sides use it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from replayring_proto import limits
from replayring_proto.errors import MalformedMessageError
from replayring_proto.limits import check_limit
from replayring_proto.query import SampleQuery, View, Window
from replayring_proto.spec import BufferSpec, Column, dtype_of
from replayring_proto.v1 import buffer_pb2, replay_pb2

M = TypeVar("M", bound=Message)

_DURABILITIES = {
    "none": buffer_pb2.DURABILITY_NONE,
    "interval": buffer_pb2.DURABILITY_INTERVAL,
    "commit": buffer_pb2.DURABILITY_COMMIT,
}


@dataclass(frozen=True, kw_only=True)
class BufferInfo:
    """A buffer's spec and where its ring stands.

    Attributes:
        name: the buffer's name.
        buffer_id: identity given at creation; a buffer made anew under the name differs.
        spec: columns, capacity, fps.
        oldest_index: `index` of the oldest live frame.
        next_index: `index` that the next frame gets: frames ever added.
        num_episodes: episodes with a live frame.
        next_episode_index: number that the next episode gets: episodes ever added.
        physical_rows: rows of each column file.
        disk_bytes: bytes reserved on disk.
        path: the buffer's directory on the server's machine.
        same_host: whether the client that asked reads frames straight from these files.
    """

    name: str
    buffer_id: str
    spec: BufferSpec
    oldest_index: int
    next_index: int
    num_episodes: int
    next_episode_index: int
    physical_rows: int
    disk_bytes: int
    path: str
    same_host: bool = False

    @property
    def num_frames(self) -> int:
        """Live frames."""
        return self.next_index - self.oldest_index

    @property
    def capacity(self) -> int:
        """Live frames kept at most."""
        return self.spec.capacity

    @property
    def fps(self) -> float | None:
        """Frames per second, or None."""
        return self.spec.fps

    @property
    def durability(self) -> str:
        """What survives a power loss: "none", "interval" or "commit"."""
        return self.spec.durability


def parse(kind: type[M], encoded: bytes) -> M:
    """Parses a message.

    Raises:
        MalformedMessageError: the bytes are no such message.
    """
    try:
        return kind.FromString(encoded)
    except DecodeError:
        raise MalformedMessageError(f"the bytes are no {kind.DESCRIPTOR.full_name}") from None


def spec_to_message(spec: BufferSpec) -> buffer_pb2.BufferSpec:
    """Returns the message for `spec`."""
    return buffer_pb2.BufferSpec(
        columns=[
            buffer_pb2.ColumnSpec(name=c.name, dtype=c.dtype.name, shape=c.shape)
            for c in spec.columns
        ],
        capacity=spec.capacity,
        fps=spec.fps,
        durability=_DURABILITIES[spec.durability],
    )


def spec_from_message(message: buffer_pb2.BufferSpec) -> BufferSpec:
    """Returns the spec in `message`, checked.

    Raises:
        InvalidSpecError: it breaks a rule.
        LimitExceededError: it has too many columns.
    """
    count = len(message.columns)  # before half a million of them become objects
    check_limit(count, limits.MAX_COLUMNS, "columns of a buffer", "merge some of them")
    return BufferSpec(
        tuple(Column(c.name, dtype_of(c.dtype), tuple(c.shape)) for c in message.columns),
        message.capacity,
        message.fps if message.HasField("fps") else None,
        _durability_of(message.durability),
    )


def info_to_message(info: BufferInfo) -> buffer_pb2.BufferInfo:
    """Returns the message for `info`."""
    return buffer_pb2.BufferInfo(
        name=info.name,
        buffer_id=info.buffer_id,
        spec=spec_to_message(info.spec),
        oldest_index=info.oldest_index,
        next_index=info.next_index,
        num_episodes=info.num_episodes,
        next_episode_index=info.next_episode_index,
        physical_rows=info.physical_rows,
        disk_bytes=info.disk_bytes,
        path=info.path,
    )


def info_from_message(message: buffer_pb2.BufferInfo) -> BufferInfo:
    """Returns the info in `message`."""
    return BufferInfo(
        name=message.name,
        buffer_id=message.buffer_id,
        spec=spec_from_message(message.spec),
        oldest_index=message.oldest_index,
        next_index=message.next_index,
        num_episodes=message.num_episodes,
        next_episode_index=message.next_episode_index,
        physical_rows=message.physical_rows,
        disk_bytes=message.disk_bytes,
        path=message.path,
    )


def view_to_message(view: View) -> buffer_pb2.View:
    """Returns the message for `view`.

    A view of no columns at all cannot be said on the wire, where no keys mean all of them; the
    presets always come, so naming one says the same.
    """
    keys = ("index",) if view.keys == () else view.keys or ()
    return buffer_pb2.View(
        keys=keys,
        windows=[_window_to_message(window) for window in view.windows],
        tolerance_s=view.tolerance_s,
    )


def view_from_message(message: buffer_pb2.View) -> View:
    """Returns the view in `message`, not yet checked against a spec.

    Raises:
        LimitExceededError: it names more columns than there can be.
    """
    for count, what in ((len(message.keys), "keys"), (len(message.windows), "windows")):
        check_limit(count, limits.MAX_VIEW_KEYS, f"{what} of a view", "name each column once")
    return View(
        tuple(message.keys) or None,
        tuple(_window_from_message(window) for window in message.windows),
        message.tolerance_s if message.HasField("tolerance_s") else None,
    )


def query_from_message(message: replay_pb2.SampleSpec) -> SampleQuery:
    """Returns the query in `message`, not yet checked against a spec."""
    return SampleQuery(
        message.batch_size, view_from_message(message.view), message.drop_n_last_frames
    )


def _durability_of(value: int) -> str:
    if value == buffer_pb2.DURABILITY_UNSPECIFIED:
        return "interval"
    # A value of a newer protocol is no durability that this one could promise.
    return next((name for name, known in _DURABILITIES.items() if known == value), str(value))


def _window_to_message(window: Window) -> buffer_pb2.Window:
    if window.seconds is not None:
        return buffer_pb2.Window(
            key=window.key, seconds=buffer_pb2.TimeOffsets(values=window.seconds)
        )
    return buffer_pb2.Window(key=window.key, frames=buffer_pb2.FrameOffsets(values=window.frames))


def _window_from_message(message: buffer_pb2.Window) -> Window:
    if message.WhichOneof("offsets") == "seconds":
        return Window(message.key, seconds=tuple(message.seconds.values))
    return Window(message.key, frames=tuple(message.frames.values))
