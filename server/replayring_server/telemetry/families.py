"""Every metric by name, unit and meaning, made of a server's status; what exporters translate.

Names follow Prometheus's practice: base units, and `_total` (which exporters add) for what only
grows. A label takes as many values as there are methods, status codes, buffers, parameters or
limits; of writers, the quietest 20 of each buffer.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeAlias, TypeVar

import grpc

from replayring_proto.server_status import (
    BufferStatus,
    Durations,
    LimitUse,
    MethodStatus,
    ParametersStatus,
    ServerStatus,
    WriterStatus,
)

T = TypeVar("T")

Labels: TypeAlias = "tuple[str, ...]"
Value: TypeAlias = "float | Durations"


class Kind(Enum):
    """How a metric's values behave."""

    GAUGE = "a number that goes up and down"
    COUNTER = "a number that only grows, from 0 when the server starts"
    HISTOGRAM = "`Durations` that only grow"
    DISTRIBUTION = "`Durations` of what there is at this moment"


@dataclass(frozen=True)
class Family:
    """One metric with all its values.

    Attributes:
        name: without the suffixes that exporters add to counters and histograms.
        kind: how its values behave.
        help: what it says.
        labels: names of its labels.
        values: by the labels' values.
    """

    name: str
    kind: Kind
    help: str
    labels: Labels
    values: Sequence[tuple[Labels, Value]]


def families_of(status: ServerStatus) -> Iterator[Family]:
    """Yields every metric of a server."""
    build = (status.version, platform.python_version(), grpc.__version__)
    yield from _families(_BUILD, ("version", "python", "grpcio"), [(build, status)])
    yield from _families(_SERVER, (), [((), status)])
    buffers = [((each.name,), each) for each in status.buffers]
    yield from _families(_BUFFER, ("buffer",), buffers)
    writers = [
        ((buffer.name, writer.writer_id), writer)
        for buffer in status.buffers
        for writer in buffer.writers
    ]
    yield from _families(_WRITER, ("buffer", "writer"), writers)
    parameters = [((each.name,), each) for each in status.parameters]
    yield from _families(_PARAMETERS, ("name",), parameters)
    methods = [((each.name,), each) for each in status.methods]
    yield from _families(_METHOD, ("method",), methods)
    finished = [
        ((method.name, code), count)
        for method in status.methods
        for code, count in sorted(method.finished.items())
    ]
    yield from _families(_FINISHED, ("method", "code"), finished)
    limits = [((each.name,), each) for each in status.limits]
    yield from _families(_LIMIT, ("limit",), limits)
    memory = [
        ((each.name.removeprefix("max_").removesuffix("_bytes"),), each)
        for each in status.limits
        if each.name in ("max_staging_bytes", "max_sending_bytes")
    ]
    yield from _families(_MEMORY, ("budget",), memory)


@dataclass(frozen=True)
class _Metric(Generic[T]):
    name: str
    kind: Kind
    help: str
    value: Callable[[T], Value]


_Metrics: TypeAlias = "tuple[_Metric[T], ...]"


def _families(
    metrics: _Metrics[T], labels: Labels, of: Sequence[tuple[Labels, T]]
) -> Iterator[Family]:
    for metric in metrics:
        values = [(label, metric.value(each)) for label, each in of]
        yield Family(f"replayring_{metric.name}", metric.kind, metric.help, labels, values)


_NOT_FROM_FILES = (
    "Clients on the server's machine that read frames from its files draw for themselves and are "
    "not counted."
)

_BUILD: _Metrics[ServerStatus] = (
    _Metric("build_info", Kind.GAUGE, "1; the labels say what runs.", lambda _: 1),
)
_SERVER: _Metrics[ServerStatus] = (
    _Metric(
        "uptime_seconds", Kind.GAUGE, "Seconds since the server started.", lambda s: s.uptime_s
    ),
    _Metric(
        "warnings",
        Kind.GAUGE,
        "What the server warns of, such as damaged buffers: `replayring top` shows the sentences.",
        lambda s: len(s.warnings),
    ),
    _Metric("peers", Kind.GAUGE, "Connections that have a call in flight.", lambda s: s.peers),
    _Metric(
        "received_bytes",
        Kind.COUNTER,
        "Bytes of all messages taken from callers.",
        lambda s: s.received_bytes,
    ),
    _Metric(
        "sent_bytes",
        Kind.COUNTER,
        "Bytes of all messages sent to callers.",
        lambda s: s.sent_bytes,
    ),
    _Metric(
        "data_dir_free_bytes",
        Kind.GAUGE,
        "Bytes free for the server on the data directory's file system.",
        lambda s: s.disk_free_bytes,
    ),
    _Metric(
        "data_dir_size_bytes",
        Kind.GAUGE,
        "Bytes of the data directory's file system.",
        lambda s: s.disk_size_bytes,
    ),
)
_BUFFER: _Metrics[BufferStatus] = (
    _Metric("buffer_frames", Kind.GAUGE, "Live frames.", lambda b: b.num_frames),
    _Metric(
        "buffer_capacity_frames",
        Kind.GAUGE,
        "Live frames that the buffer keeps at most.",
        lambda b: b.capacity,
    ),
    _Metric(
        "buffer_episodes",
        Kind.GAUGE,
        "Episodes with at least one live frame.",
        lambda b: b.num_episodes,
    ),
    _Metric(
        "buffer_frames_added",
        Kind.COUNTER,
        "Frames added since the server started.",
        lambda b: b.frames_added,
    ),
    _Metric(
        "buffer_episodes_added",
        Kind.COUNTER,
        "Episodes added since the server started.",
        lambda b: b.episodes_added,
    ),
    _Metric(
        "buffer_duplicate_episodes",
        Kind.COUNTER,
        "Episodes that were sent again and recognised, so not stored again.",
        lambda b: b.duplicates,
    ),
    _Metric(
        "buffer_frames_sampled",
        Kind.COUNTER,
        f"Frames in the batches that the server drew. {_NOT_FROM_FILES}",
        lambda b: b.frames_sampled,
    ),
    _Metric(
        "buffer_batches_sampled",
        Kind.COUNTER,
        "Batches that the server drew; for learners over shards blocks, several of which make a "
        f"batch. {_NOT_FROM_FILES}",
        lambda b: b.batches_sampled,
    ),
    # Ever added is no counter: a power loss may set it back a little, and whoever takes that for a
    # restart from 0 would count all of it again.
    _Metric(
        "buffer_next_index",
        Kind.GAUGE,
        "`index` that the next frame gets: frames ever added, less what power losses took.",
        lambda b: b.next_index,
    ),
    _Metric(
        "buffer_durable_index",
        Kind.GAUGE,
        "Frames below this `index` survive a power loss; next_index less this is how many do not.",
        lambda b: b.durable_index,
    ),
    _Metric("buffer_disk_bytes", Kind.GAUGE, "Bytes reserved on the disk.", lambda b: b.disk_bytes),
    _Metric(
        "buffer_sync_seconds",
        Kind.HISTOGRAM,
        "Seconds that each sync to the disk took.",
        lambda b: b.syncs,
    ),
    _Metric(
        "buffer_writers",
        Kind.GAUGE,
        "Writers that have a call open, or sent an episode within the last 10 minutes.",
        lambda b: b.num_writers,
    ),
    _Metric(
        "buffer_writers_quiet_seconds",
        Kind.DISTRIBUTION,
        "How many of these writers have been quiet for how long, at this moment: no rate is due.",
        lambda b: b.writers_quiet,
    ),
)
_WRITER: _Metrics[WriterStatus] = (
    _Metric(
        "writer_quiet_seconds",
        Kind.GAUGE,
        "Seconds since the writer's last episode was acknowledged, or since it appeared. The "
        "quietest 20 of each buffer.",
        lambda w: w.quiet_s,
    ),
    _Metric(
        "writer_sequence",
        Kind.GAUGE,
        "The writer's last acknowledged sequence; 0 for none since the server started. The "
        "quietest 20 of each buffer.",
        lambda w: w.sequence,
    ),
    _Metric(
        "writer_connected", Kind.GAUGE, "1 if the writer has a call open.", lambda w: w.connected
    ),
)
_PARAMETERS: _Metrics[ParametersStatus] = (
    _Metric("parameters_version", Kind.GAUGE, "The newest version.", lambda p: p.version),
    _Metric("parameters_bytes", Kind.GAUGE, "Bytes of its tensors.", lambda p: p.nbytes),
)
_METHOD: _Metrics[MethodStatus] = (
    _Metric(
        "calls_in_flight",
        Kind.GAUGE,
        "Calls that have begun and not ended.",
        lambda m: m.in_flight,
    ),
    _Metric(
        "work_seconds",
        Kind.HISTOGRAM,
        "Seconds that a method's work took where it succeeded. AddEpisodes: the episodes that came "
        "whole in one message, or one that took several, from the last byte until they are stored. "
        "SampleBatch: a draw, without waiting for frames and without sending. GetItem: a request, "
        "until it is sent. WatchParameters: never. Others: the whole call.",
        lambda m: m.work,
    ),
)
_FINISHED: _Metrics[int] = (
    _Metric(
        "calls_finished",
        Kind.COUNTER,
        "Calls that have ended, by status code; those that the caller gave up are CANCELLED.",
        lambda count: count,
    ),
)
_LIMIT: _Metrics[LimitUse] = (
    _Metric(
        "limit_used_ratio",
        Kind.GAUGE,
        "What is used of a limit of the server, from 0 to 1. Beyond memory (max_staging_bytes, "
        "max_sending_bytes) calls wait; beyond the others they are refused.",
        lambda limit: limit.ratio,
    ),
)
_MEMORY: _Metrics[LimitUse] = (
    _Metric(
        "memory_used_bytes",
        Kind.GAUGE,
        "Bytes held by packs that come in (staging) and that go out (sending).",
        lambda limit: limit.used,
    ),
    _Metric(
        "memory_limit_bytes", Kind.GAUGE, "Bytes that these may hold.", lambda limit: limit.limit
    ),
    _Metric(
        "memory_waiting_calls",
        Kind.GAUGE,
        "Calls that wait until less is held.",
        lambda limit: limit.waiting,
    ),
)
