"""What happened between two readings of a server's counters, by this side's monotonic clock."""

from __future__ import annotations

from dataclasses import dataclass

from replayring_proto.server_status import (
    BufferStatus,
    Durations,
    MethodStatus,
    ServerStatus,
)

__all__ = ["BufferRates", "MethodRates", "Rates", "Reading"]


@dataclass(frozen=True)
class Reading:
    """A server's state, and when it was read.

    Attributes:
        at: seconds on the monotonic clock.
        status: the state.
    """

    at: float
    status: ServerStatus


@dataclass(frozen=True)
class BufferRates:
    """One buffer's rates, per second."""

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

    A server that was restarted in between, and a buffer made anew, have none.
    """

    def __init__(self, before: Reading | None, now: Reading) -> None:
        """Compares two readings; `before` is None for the first one."""
        comparable = (
            before is not None
            and before.at < now.at
            and before.status.uptime_s <= now.status.uptime_s
        )
        self._before = before.status if before is not None and comparable else None
        self._now = now.status
        self._seconds = 0.0 if before is None else now.at - before.at
        self._buffers = (
            {each.buffer_id: each for each in self._before.buffers} if self._before else {}
        )
        self._methods = {each.name: each for each in self._before.methods} if self._before else {}

    @property
    def received_bytes(self) -> float | None:
        """Bytes per second that the server took."""
        if self._before is None:
            return None
        return (self._now.received_bytes - self._before.received_bytes) / self._seconds

    @property
    def sent_bytes(self) -> float | None:
        """Bytes per second that the server sent."""
        if self._before is None:
            return None
        return (self._now.sent_bytes - self._before.sent_bytes) / self._seconds

    def of_buffer(self, buffer: BufferStatus) -> BufferRates | None:
        """Returns the rates of a buffer of the later reading."""
        old = self._buffers.get(buffer.buffer_id)
        if old is None:
            return None
        return BufferRates(
            (buffer.next_index - old.next_index) / self._seconds,
            (buffer.frames_sampled - old.frames_sampled) / self._seconds,
            (buffer.batches_sampled - old.batches_sampled) / self._seconds,
        )

    def of_method(self, method: MethodStatus) -> MethodRates | None:
        """Returns the rates of a method of the later reading."""
        old = self._methods.get(method.name)
        if old is None:
            return None
        work = method.work.since(old.work)
        refused = _refused(method) - _refused(old)
        return MethodRates(work.count / self._seconds, refused / self._seconds, work)


def _refused(method: MethodStatus) -> int:
    """Calls that ended with an error; one that its caller gave up is none."""
    return sum(count for code, count in method.finished.items() if code not in ("OK", "CANCELLED"))
