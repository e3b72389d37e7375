"""How several servers are doing: sums, and what each of them says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Protocol, TypeVar

from replayring_proto.limits import MAX_STATUS_WRITERS
from replayring_proto.server_status import (
    BufferStatus,
    Durations,
    LimitUse,
    MethodStatus,
    ServerStatus,
)

__all__ = ["ShardedServerStatus"]


@dataclass(frozen=True, kw_only=True)
class ShardedServerStatus(ServerStatus):
    """The state of the shards that could be reached: sums of what these say, by name.

    Their counters begin anew when a shard does, and are missing while it is away. So rates are to
    be had of `shards`, one by one, and added then.

    What does not add up: `version` has each that there is, with commas between. `uptime_s` is the
    shortest. `num_buffers` counts a name once. `parameters` are the newest. Of `limits` each is as
    the shard has it that is nearest to it, as room elsewhere is no help there, but calls that wait
    are all. `warnings` begin with the shard's name. Shards that share a disk each count it.

    Learners make their batches of blocks that shards send ahead: `batches_sampled` counts blocks,
    and `frames_sampled` the frames in them.

    Attributes:
        shards: what each shard says, by name; None for one that could not be reached, or does not
            let this client in.
        refusals: what those of the latter kind say, by name.
    """

    shards: Mapping[str, ServerStatus | None]
    refusals: Mapping[str, str]


class _Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=_Named)


def total(
    names: Sequence[str], parts: Mapping[str, ServerStatus], refusals: Mapping[str, str] = {}
) -> ShardedServerStatus:
    """Returns what the shards that could be reached, at least one, say together.

    Args:
        names: all shards.
        parts: what those say that could be reached.
        refusals: why others that could be reached say nothing.
    """
    told = list(parts.values())
    buffers = _by_name(status.buffers for status in told)
    published = _by_name(status.parameters for status in told)
    return ShardedServerStatus(
        version=", ".join(sorted({status.version for status in told})),
        uptime_s=min(status.uptime_s for status in told),
        # No shard lists more than the first thousand.
        num_buffers=max(len(buffers), *(status.num_buffers for status in told)),
        peers=sum(status.peers for status in told),
        received_bytes=sum(status.received_bytes for status in told),
        sent_bytes=sum(status.sent_bytes for status in told),
        disk_free_bytes=sum(status.disk_free_bytes for status in told),
        disk_size_bytes=sum(status.disk_size_bytes for status in told),
        resident_bytes=sum(status.resident_bytes for status in told),
        buffers=tuple(_buffer(buffers[name]) for name in sorted(buffers)),
        parameters=tuple(
            max(published[name], key=lambda one: one.version) for name in sorted(published)
        ),
        methods=tuple(map(_method, _by_name(status.methods for status in told).values())),
        limits=tuple(map(_limit, _by_name(status.limits for status in told).values())),
        warnings=tuple(
            f"{name}: {warning}" for name, status in parts.items() for warning in status.warnings
        ),
        shards={name: parts.get(name) for name in names},
        refusals=refusals,
    )


def _by_name(lists: Iterable[Iterable[T]]) -> dict[str, list[T]]:
    found: dict[str, list[T]] = {}
    for one in chain.from_iterable(lists):
        found.setdefault(one.name, []).append(one)
    return found


def _buffer(parts: Sequence[BufferStatus]) -> BufferStatus:
    writers = chain.from_iterable(part.writers for part in parts)
    return BufferStatus(
        name=parts[0].name,
        buffer_id="+".join(part.buffer_id for part in parts),
        capacity=sum(part.capacity for part in parts),
        oldest_index=sum(part.oldest_index for part in parts),
        next_index=sum(part.next_index for part in parts),
        num_episodes=sum(part.num_episodes for part in parts),
        next_episode_index=sum(part.next_episode_index for part in parts),
        opened_index=sum(part.opened_index for part in parts),
        opened_episode_index=sum(part.opened_episode_index for part in parts),
        durable_index=sum(part.durable_index for part in parts),
        disk_bytes=sum(part.disk_bytes for part in parts),
        duplicates=sum(part.duplicates for part in parts),
        batches_sampled=sum(part.batches_sampled for part in parts),
        frames_sampled=sum(part.frames_sampled for part in parts),
        syncs=Durations.of_all(part.syncs for part in parts),
        num_writers=sum(part.num_writers for part in parts),
        writers_quiet=Durations.of_all(part.writers_quiet for part in parts),
        writers=tuple(sorted(writers, key=lambda one: -one.quiet_s)[:MAX_STATUS_WRITERS]),
    )


def _method(parts: Sequence[MethodStatus]) -> MethodStatus:
    finished: dict[str, int] = {}
    for code, count in chain.from_iterable(part.finished.items() for part in parts):
        finished[code] = finished.get(code, 0) + count
    return MethodStatus(
        name=parts[0].name,
        in_flight=sum(part.in_flight for part in parts),
        finished=finished,
        work=Durations.of_all(part.work for part in parts),
    )


def _limit(parts: Sequence[LimitUse]) -> LimitUse:
    nearest = max(parts, key=lambda part: part.ratio)
    return replace(nearest, waiting=sum(part.waiting for part in parts))
