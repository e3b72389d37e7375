"""What is known of a buffer over several servers: sums, and what each of them says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from replayring_proto.errors import (
    InvalidRequestError,
    InvalidSpecError,
    NotFoundError,
    ReplayRingError,
)
from replayring_proto.messages import BufferInfo
from replayring_proto.spec import BufferSpec

__all__ = ["ShardedBufferInfo"]

_AWAY = "it cannot be reached"
_LACKING = "it has no buffer of that name; create_buffer makes it there"


@dataclass(frozen=True, kw_only=True)
class ShardedBufferInfo(BufferInfo):
    """A buffer's state over the shards that could be reached and have it: sums of what these say.

    `oldest_index` is how many frames are no longer alive and `next_index` how many were ever added,
    so that `num_frames` is their difference as always; no frame has such an `index`. `path` is
    empty, and `same_host` says whether all of them are read from their files.

    Attributes:
        shards: what each shard says, by name; None for one that could not be reached, has no such
            buffer, or does not give it.
        missing: for each of those, which it is, in words.
    """

    shards: Mapping[str, BufferInfo | None]
    missing: Mapping[str, str]


def total(
    names: Sequence[str],
    spec: BufferSpec,
    parts: Mapping[str, BufferInfo],
    without: Mapping[str, ReplayRingError] = {},
) -> BufferInfo:
    """Returns what shards say together.

    Args:
        names: all shards.
        spec: of the buffer, over all of them.
        parts: what those say that have it, at least one.
        without: those that could be reached and do not, and what they said.

    Raises:
        InvalidRequestError: two of those that have it are one and the same.
    """
    check_distinct(next(iter(parts.values())).name, {s: i.buffer_id for s, i in parts.items()})
    infos = list(parts.values())
    return ShardedBufferInfo(
        name=infos[0].name,
        buffer_id="+".join(info.buffer_id for info in infos),
        spec=spec,
        oldest_index=sum(info.oldest_index for info in infos),
        next_index=sum(info.next_index for info in infos),
        num_episodes=sum(info.num_episodes for info in infos),
        next_episode_index=sum(info.next_episode_index for info in infos),
        physical_rows=sum(info.physical_rows for info in infos),
        disk_bytes=sum(info.disk_bytes for info in infos),
        path="",
        same_host=all(info.same_host for info in infos),
        shards={name: parts.get(name) for name in names},
        missing={name: _why(without.get(name)) for name in names if name not in parts},
    )


def _why(failure: ReplayRingError | None) -> str:
    if failure is None:
        return _AWAY
    return _LACKING if isinstance(failure, NotFoundError) else f"it does not give it: {failure}"


def check_distinct(name: str, ids: Mapping[str, str]) -> None:
    """Checks that no two shards have the very same buffer, whose frames would count twice.

    Args:
        name: the buffer's name.
        ids: its identity at each shard, by the shard's name.

    Raises:
        InvalidRequestError: two do.
    """
    shards: dict[str, str] = {}
    for shard, buffer_id in ids.items():
        other = shards.setdefault(buffer_id, shard)
        if other != shard:
            raise InvalidRequestError(
                f"buffer {name!r} is one and the same at {other} and at {shard}: these are two "
                "names of one server, or one serves a copy of the other's files. Name each server "
                "once; a snapshot that is restored is a buffer of its own, a copy is not"
            )


def share_of(spec: BufferSpec, shards: int) -> BufferSpec:
    """Returns what each shard is to hold of a buffer."""
    return replace(spec, capacity=-(-spec.capacity // shards))


def whole_of(share: BufferSpec, shards: int) -> BufferSpec:
    """Returns what all shards together hold, if each holds `share`."""
    return replace(share, capacity=share.capacity * shards)


def agreed(name: str, specs: Mapping[str, BufferSpec]) -> BufferSpec:
    """Returns the spec that shards, by name, have of a buffer.

    Raises:
        InvalidSpecError: they do not agree.
    """
    first, *others = specs
    for other in others:
        if specs[other] != specs[first]:
            raise InvalidSpecError(
                f"the shards do not agree on buffer {name!r}; connect to those that belong "
                f"together, or delete it where it is not as it should be: {first} has "
                f"{specs[first].differences(specs[other], other)}"
            )
    return specs[first]
