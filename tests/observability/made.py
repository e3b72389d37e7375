"""States of servers that are made up, for tests of what is made of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from replayring_proto.server_status import (
    BufferStatus,
    Durations,
    LimitUse,
    MethodStatus,
    ServerStatus,
    WriterStatus,
)

NONE = Durations((0.001, 1.0), (0, 0, 0), 0.0)
GIB = 1 << 30


def buffer(name: str = "online", **changes: Any) -> BufferStatus:
    status = BufferStatus(
        name=name,
        buffer_id=f"id of {name}",
        capacity=1000,
        oldest_index=0,
        next_index=250,
        num_episodes=5,
        next_episode_index=5,
        opened_index=0,
        opened_episode_index=0,
        durable_index=250,
        disk_bytes=1 << 20,
        duplicates=0,
        batches_sampled=0,
        frames_sampled=500,
        syncs=NONE,
        num_writers=2,
        writers_quiet=NONE,
        writers=(WriterStatus("robot", 95.0, 5, True), WriterStatus("other", 1.0, 2, False)),
    )
    return replace(status, **changes)


def method(name: str = "SampleBatch", **changes: Any) -> MethodStatus:
    return replace(MethodStatus(name, 1, {}, NONE), **changes)


def server(**changes: Any) -> ServerStatus:
    status = ServerStatus(
        version="1.2.3",
        uptime_s=4000.0,
        num_buffers=1,
        peers=3,
        received_bytes=0,
        sent_bytes=0,
        disk_free_bytes=70 * GIB,
        disk_size_bytes=100 * GIB,
        resident_bytes=240 << 20,
        buffers=(buffer(),),
        methods=(method(),),
        limits=(LimitUse("max_staging_bytes", 0, 2 * GIB), LimitUse("max_calls", 4, 100)),
    )
    return replace(status, **changes)
