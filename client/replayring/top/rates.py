"""What happened between two readings: of one server, or of several, whose rates are added.

Counters are compared server by server, and by that server's own clock. So a shard that left, came
back or was restarted changes the sum by its own share only, and one that had the others' answers
wait does not make them look faster.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from replayring.sharded.statuses import ShardedServerStatus
from replayring_proto.server_status import (
    BufferStatus,
    Durations,
    MethodStatus,
    ServerStatus,
)

__all__ = ["BufferRates", "MethodRates", "Rates", "Reading"]


@dataclass(frozen=True)
class Reading:
    """The state of a server, or of several, as it was at some moment between two.

    Attributes:
        asked: when it was asked for, in seconds on this side's monotonic clock.
        answered: when all had answered.
        status: the state.
    """

    asked: float
    answered: float
    status: ServerStatus


@dataclass(frozen=True)
class BufferRates:
    """Rates of one buffer or several, per second."""

    frames_added: float
    frames_sampled: float
    batches_sampled: float


@dataclass(frozen=True)
class MethodRates:
    """One method's rates, per second, and how long its work took meanwhile.

    Done are calls that succeeded; of AddEpisodes episodes, of SampleBatch draws.
    """

    done: float
    refused: float
    work: Durations


class Rates:
    """What happened from one reading to the next. Nothing is known of what has no counterpart.

    A server that was restarted or away, and a buffer made anew, have none; sums are without them.
    """

    def __init__(self, before: Reading | None, now: Reading) -> None:
        """Compares two readings; `before` is None for the first one."""
        earlier = {} if before is None else _servers(before.status)
        self._stretches = {
            name: _Stretch(earlier[name], status)
            for name, status in _servers(now.status).items()
            if before and name in earlier and _same_life(before, earlier[name], now, status)
        }

    @property
    def received_bytes(self) -> float | None:
        """Bytes per second that were taken."""
        return _sum(each.received_bytes for each in self._stretches.values())

    @property
    def sent_bytes(self) -> float | None:
        """Bytes per second that were sent."""
        return _sum(each.sent_bytes for each in self._stretches.values())

    def of_buffer(self, buffer: BufferStatus) -> BufferRates | None:
        """Returns the rates of a buffer of the later reading."""
        stretches, name = self._stretches.values(), buffer.name
        return _added(each.buffers[name] for each in stretches if name in each.buffers)

    def of_method(self, method: MethodStatus) -> MethodRates | None:
        """Returns the rates of a method of the later reading."""
        stretches = self._stretches.values()
        found = [each.methods[method.name] for each in stretches if method.name in each.methods]
        if not found:
            return None
        return MethodRates(
            sum(each.done for each in found),
            sum(each.refused for each in found),
            Durations.of_all(each.work for each in found),
        )

    def of_shard(self, name: str) -> BufferRates | None:
        """Returns the rates of one shard over all its buffers."""
        stretch = self._stretches.get(name)
        if stretch is None:
            return None
        return _added(stretch.buffers.values()) or BufferRates(0.0, 0.0, 0.0)


class _Stretch:
    """What happened on one server from one reading of its counters to another of the same life."""

    def __init__(self, old: ServerStatus, new: ServerStatus) -> None:
        # By its clock, which was read with the counters: answers may have come late.
        seconds = new.uptime_s - old.uptime_s
        self.received_bytes = (new.received_bytes - old.received_bytes) / seconds
        self.sent_bytes = (new.sent_bytes - old.sent_bytes) / seconds
        buffers = {each.buffer_id: each for each in old.buffers}
        self.buffers = {
            each.name: _buffer_rates(buffers[each.buffer_id], each, seconds)
            for each in new.buffers
            if each.buffer_id in buffers
        }
        methods = {each.name: each for each in old.methods}
        self.methods = {
            each.name: _method_rates(methods[each.name], each, seconds)
            for each in new.methods
            if each.name in methods
        }


def _servers(status: ServerStatus) -> Mapping[str, ServerStatus]:
    """Returns the servers that answered, by name; of one alone no name is known."""
    if not isinstance(status, ShardedServerStatus):
        return {"": status}
    return {name: one for name, one in status.shards.items() if one is not None}


def _same_life(before: Reading, earlier: ServerStatus, now: Reading, later: ServerStatus) -> bool:
    """Whether a server was not restarted between two readings, and time has passed.

    What tells is whether the life that answers now had begun when the earlier reading was asked
    for: a new one may well be older by now than the one before it was then.
    """
    begun = now.answered - later.uptime_s
    return begun < before.asked and earlier.uptime_s < later.uptime_s


def _buffer_rates(old: BufferStatus, new: BufferStatus, seconds: float) -> BufferRates:
    return BufferRates(
        (new.next_index - old.next_index) / seconds,
        (new.frames_sampled - old.frames_sampled) / seconds,
        (new.batches_sampled - old.batches_sampled) / seconds,
    )


def _method_rates(old: MethodStatus, new: MethodStatus, seconds: float) -> MethodRates:
    work = new.work.since(old.work)
    refused = _refused(new) - _refused(old)
    return MethodRates(work.count / seconds, refused / seconds, work)


def _refused(method: MethodStatus) -> int:
    """Calls that ended with an error; one that its caller gave up is none."""
    return sum(count for code, count in method.finished.items() if code not in ("OK", "CANCELLED"))


def _sum(parts: Iterable[float]) -> float | None:
    """Returns a sum, or None where there is nothing to add."""
    known = list(parts)
    return sum(known) if known else None


def _added(parts: Iterable[BufferRates]) -> BufferRates | None:
    known = list(parts)
    if not known:
        return None
    return BufferRates(
        sum(each.frames_added for each in known),
        sum(each.frames_sampled for each in known),
        sum(each.batches_sampled for each in known),
    )
