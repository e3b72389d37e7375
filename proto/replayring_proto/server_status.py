"""How a server is doing, as values: what GetServerStatus carries and every exporter reads.

Fields have the names, units and meaning that server_status.proto gives them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.message import Message

from replayring_proto.v1 import server_status_pb2

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


@dataclass(frozen=True)
class Durations:
    """How long something took, all times that it happened."""

    bounds_s: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    sum_s: float = 0.0

    @property
    def count(self) -> int:
        """How often it happened."""
        return sum(self.counts)

    def since(self, earlier: Durations) -> Durations:
        """Returns what came after `earlier`, of the same life of the same server."""
        if earlier.bounds_s != self.bounds_s:
            return self
        counts = zip(self.counts, earlier.counts, strict=True)
        return Durations(
            self.bounds_s, tuple(new - old for new, old in counts), self.sum_s - earlier.sum_s
        )

    @classmethod
    def of_all(cls, parts: Iterable[Durations]) -> Durations:
        """Returns what several say together, also where servers of two versions have other bounds.

        Each count stays below the bound that it had, so `at_most` is as true as it was.
        """
        known = list(parts)
        bounds = sorted({bound for part in known for bound in part.bounds_s})
        counts = dict.fromkeys([*bounds, float("inf")], 0)
        for part in known:
            for bound, count in zip((*part.bounds_s, float("inf")), part.counts, strict=False):
                counts[bound] += count
        return cls(tuple(bounds), tuple(counts.values()), sum(part.sum_s for part in known))

    def at_most(self, share: float) -> float | None:
        """Returns the bound in seconds below which this share of all times lies.

        None where nothing happened; infinity where they took longer than every bound.
        """
        missing = share * self.count
        if not missing:
            return None
        for bound, count in zip(self.bounds_s, self.counts, strict=False):
            missing -= count
            if missing <= 0:
                return bound
        return float("inf")


@dataclass(frozen=True)
class WriterStatus:
    """One writer of a buffer."""

    writer_id: str
    quiet_s: float
    sequence: int
    connected: bool


@dataclass(frozen=True)
class BufferStatus:
    """One buffer."""

    name: str
    buffer_id: str
    capacity: int
    oldest_index: int
    next_index: int
    num_episodes: int
    next_episode_index: int
    opened_index: int
    opened_episode_index: int
    durable_index: int
    disk_bytes: int
    duplicates: int
    batches_sampled: int
    frames_sampled: int
    syncs: Durations
    num_writers: int
    writers_quiet: Durations
    writers: tuple[WriterStatus, ...]

    @property
    def num_frames(self) -> int:
        """Live frames."""
        return self.next_index - self.oldest_index

    @property
    def frames_added(self) -> int:
        """Frames added since the server opened the buffer."""
        return self.next_index - self.opened_index

    @property
    def episodes_added(self) -> int:
        """Episodes added since the server opened the buffer."""
        return self.next_episode_index - self.opened_episode_index

    @property
    def samples_per_insert(self) -> float | None:
        """How often each frame was sampled, over all added since the server opened the buffer.

        None if none was added.
        """
        return self.frames_sampled / self.frames_added if self.frames_added else None


@dataclass(frozen=True)
class ParametersStatus:
    """The newest version of published parameters."""

    name: str
    version: int
    nbytes: int


@dataclass(frozen=True)
class MethodStatus:
    """One method of the service."""

    name: str
    in_flight: int
    finished: Mapping[str, int]
    work: Durations


@dataclass(frozen=True)
class LimitUse:
    """What is used of one of the server's limits."""

    name: str
    used: int
    limit: int
    waiting: int = 0

    @property
    def ratio(self) -> float:
        """The share of it that is used."""
        return self.used / self.limit


@dataclass(frozen=True)
class ServerStatus:
    """A server at one moment."""

    version: str
    uptime_s: float
    num_buffers: int
    peers: int
    received_bytes: int
    sent_bytes: int
    disk_free_bytes: int
    disk_size_bytes: int
    resident_bytes: int
    buffers: tuple[BufferStatus, ...] = ()
    parameters: tuple[ParametersStatus, ...] = ()
    methods: tuple[MethodStatus, ...] = ()
    limits: tuple[LimitUse, ...] = ()
    warnings: tuple[str, ...] = ()


def status_to_message(status: ServerStatus) -> server_status_pb2.ServerStatus:
    """Returns the message that says the same."""
    return server_status_pb2.ServerStatus(**asdict(status))


def status_from_message(message: server_status_pb2.ServerStatus) -> ServerStatus:
    """Returns what a message says. Limits are left out that a newer server has none of."""
    return _value(
        ServerStatus,
        message,
        buffers=tuple(map(_buffer, message.buffers)),
        parameters=tuple(_value(ParametersStatus, each) for each in message.parameters),
        methods=tuple(map(_method, message.methods)),
        limits=tuple(_value(LimitUse, each) for each in message.limits if each.limit),
        warnings=tuple(message.warnings),
    )


def _buffer(message: server_status_pb2.BufferStatus) -> BufferStatus:
    return _value(
        BufferStatus,
        message,
        syncs=_durations(message.syncs),
        writers_quiet=_durations(message.writers_quiet),
        writers=tuple(_value(WriterStatus, each) for each in message.writers),
    )


def _method(message: server_status_pb2.MethodStatus) -> MethodStatus:
    return _value(
        MethodStatus, message, finished=dict(message.finished), work=_durations(message.work)
    )


def _durations(message: server_status_pb2.Durations) -> Durations:
    return Durations(tuple(message.bounds_s), tuple(message.counts), message.sum_s)


def _value(cls: type[T], message: Message, **nested: Any) -> T:
    """Returns a dataclass of a message: its plain fields as they are, the others as given."""
    names = {each.name for each in fields(cls)} - nested.keys()
    return cls(**{name: getattr(message, name) for name in names}, **nested)
