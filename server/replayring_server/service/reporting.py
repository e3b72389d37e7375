"""How the server is doing: what files, calls and counters say, put together at one moment."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

from replayring_proto.limits import MAX_STATUS_ENTRIES, MAX_STATUS_WRITERS
from replayring_proto.server_status import (
    BufferStatus,
    LimitUse,
    MethodStatus,
    ParametersStatus,
    ServerStatus,
)
from replayring_server.engine import Buffer, Store
from replayring_server.service.budget import Budget
from replayring_server.service.calls import Calls
from replayring_server.tally import quiet_of

_PAGE_BYTES = os.sysconf("SC_PAGESIZE")


class Reporter:
    """Reports on one store and the calls to it. Belongs to the calls' event loop.

    A report costs tens of microseconds for each buffer and takes no lock.
    """

    def __init__(self, store: Store, calls: Calls) -> None:
        self._store = store
        self._calls = calls
        self._begun = time.monotonic()
        self._version = version("replayring")

    def status(self) -> ServerStatus:
        """Returns how the server is doing."""
        disk = shutil.disk_usage(self._store.data_dir)
        buffers = self._store.buffers()
        return ServerStatus(
            version=self._version,
            uptime_s=time.monotonic() - self._begun,
            num_buffers=len(buffers),
            peers=len({call.peer for call in self._calls}),
            received_bytes=self._calls.tally.received_bytes,
            sent_bytes=self._calls.tally.sent_bytes,
            disk_free_bytes=disk.free,
            disk_size_bytes=disk.total,
            resident_bytes=_resident_bytes(),
            buffers=tuple(map(_buffer, buffers[:MAX_STATUS_ENTRIES])),
            parameters=self._parameters(),
            methods=self._methods(),
            limits=self._limits(len(buffers)),
            warnings=tuple(map(_printable, self._store.warnings())),
        )

    def _parameters(self) -> tuple[ParametersStatus, ...]:
        newest = list(self._store.parameters.newest().items())
        return tuple(
            ParametersStatus(name, each.version, each.pack.layout.nbytes)
            for name, each in newest[:MAX_STATUS_ENTRIES]
        )

    def _methods(self) -> tuple[MethodStatus, ...]:
        tally = self._calls.tally
        in_flight = Counter(call.method for call in self._calls)
        finished: dict[str, dict[str, int]] = {method: {} for method in tally.work}
        for (method, code), count in tally.finished.items():
            finished[method][code] = count
        return tuple(
            MethodStatus(method, in_flight[method], finished[method], work.durations())
            for method, work in tally.work.items()
        )

    def _limits(self, buffers: int) -> tuple[LimitUse, ...]:
        calls, limits = self._calls, self._store.limits
        parameter_sets = len(self._store.parameters.newest())
        return (
            _memory("max_staging_bytes", calls.staging),
            _memory("max_sending_bytes", calls.sending),
            LimitUse("max_calls", len(calls), limits.max_calls),
            LimitUse("max_watchers", calls.watchers, limits.max_watchers),
            LimitUse("max_buffers", buffers, limits.max_buffers),
            LimitUse("max_parameter_sets", parameter_sets, limits.max_parameter_sets),
        )


def _buffer(buffer: Buffer) -> BufferStatus:
    info, tally = buffer.info(), buffer.tally
    writers = tally.writers.statuses()
    return BufferStatus(
        name=info.name,
        buffer_id=info.buffer_id,
        capacity=info.capacity,
        oldest_index=info.oldest_index,
        next_index=info.next_index,
        num_episodes=info.num_episodes,
        next_episode_index=info.next_episode_index,
        opened_index=buffer.opened_index,
        opened_episode_index=buffer.opened_episode_index,
        durable_index=buffer.durable_index,
        disk_bytes=info.disk_bytes,
        duplicates=tally.duplicates,
        batches_sampled=tally.batches_sampled,
        frames_sampled=tally.frames_sampled,
        syncs=tally.syncs.durations(),
        num_writers=len(writers),
        writers_quiet=quiet_of(writers),
        writers=tuple(writers[:MAX_STATUS_WRITERS]),
    )


def _memory(name: str, budget: Budget) -> LimitUse:
    return LimitUse(name, budget.nbytes - budget.free, budget.nbytes, budget.waiting)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES


def _printable(text: str) -> str:
    """Returns a text that can be sent: a path in it need not be valid UTF-8."""
    return text.encode(errors="replace").decode()
