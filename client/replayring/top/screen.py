"""What `replayring top` shows of one reading: made of rich's tables, to fit the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from replayring.top.rates import Rates, Reading
from replayring_proto.server_status import BufferStatus, LimitUse, MethodStatus, ServerStatus

__all__ = ["Screen"]

NEAR = 0.8
"""The share of a limit from which on it is near."""

_UNKNOWN = "-"

LITTLE_DISK = 0.05
"""The share of the disk below which what is free is little; alerts.yaml has the same."""

_FIXED_LINES = 5
"""Lines that are always there: the tables' own headings, gaps above them, and one in reserve."""

_ENDLESS = 10_000
"""Lines of what is no terminal."""

T = TypeVar("T")


@dataclass(frozen=True)
class _Column(Generic[T]):
    heading: str
    width: int
    cell: Callable[[T, Rates], str]


class Screen:
    """One reading, for rich to print. Drawn anew for each, at whatever size the terminal has."""

    def __init__(
        self, address: str, reading: Reading, before: Reading | None, trouble: str | None = None
    ) -> None:
        """Prepares to show a reading.

        Args:
            address: the server's.
            reading: what to show.
            before: the reading before, for rates; None for none.
            trouble: why there is no newer reading, if there should be one.
        """
        self._address = address
        self._status = reading.status
        self._rates = Rates(before, reading)
        self._trouble = trouble

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, rates = options.max_width, self._rates
        heading = list(_lines(_heading(self._address, self._status, rates), width))
        warnings = list(_warnings(self._status, self._trouble))
        height = options.max_height if console.is_terminal else _ENDLESS
        room = max(4, height - len(heading) - len(warnings) - _FIXED_LINES)
        methods = sorted(filter(_calls, self._status.methods), key=_calls, reverse=True)
        shown = min(len(methods), room // 2)
        yield Group(
            *(Text(line, "bold", no_wrap=True) for line in heading),
            *(Text(line, "bold yellow", no_wrap=True, overflow="ellipsis") for line in warnings),
            Text(),
            _table(_BUFFERS, self._status.buffers, rates, width, room - shown),
            Text(),
            _table(_METHODS, methods, rates, width, shown),
        )


def _heading(address: str, status: ServerStatus, rates: Rates) -> list[str]:
    calls = sum(method.in_flight for method in status.methods)
    memory = {limit.name: limit for limit in status.limits}
    return [
        f"replayring {status.version} at {address}",
        f"up {_span(status.uptime_s)}",
        f"{status.peers:,} connections, {calls:,} calls",
        f"in {_per_second(rates.received_bytes)}",
        f"out {_per_second(rates.sent_bytes)}",
        *(
            f"{what} {_size(memory[name].used)} of {_size(memory[name].limit)}"
            for what, name in (("staging", "max_staging_bytes"), ("sending", "max_sending_bytes"))
            if name in memory
        ),
        f"memory {_size(status.resident_bytes)}",
        f"disk {_size(status.disk_free_bytes)} free",
    ]


def _lines(parts: Iterable[str], width: int) -> Iterator[str]:
    """Yields lines of as many parts as fit; no part is broken."""
    line = ""
    for part in parts:
        if line and len(line) + len(part) + 2 > width:
            yield line
            line = ""
        line += f"  {part}" if line else part
    yield line


def _calls(method: MethodStatus) -> int:
    """Calls of a method that there ever were."""
    return method.in_flight + sum(method.finished.values())


def _warnings(status: ServerStatus, trouble: str | None) -> Iterable[str]:
    if trouble is not None:
        yield trouble
    yield from status.warnings
    for limit in status.limits:
        if limit.ratio >= NEAR or limit.waiting:
            yield _near(limit)
    if status.disk_free_bytes < status.disk_size_bytes * LITTLE_DISK:
        yield f"the disk has {_size(status.disk_free_bytes)} left: new buffers may be refused"


def _near(limit: LimitUse) -> str:
    shown = _size if limit.name.endswith("_bytes") else _count
    waiting = f"; calls that wait: {limit.waiting:,}" if limit.waiting else ""
    return (
        f"{limit.name}: {shown(limit.used)} of {shown(limit.limit)} are in use "
        f"({limit.ratio:.0%}){waiting}"
    )


def _table(
    columns: Sequence[_Column[T]], rows: Sequence[T], rates: Rates, width: int, height: int
) -> RenderableType:
    """Returns a table of as many columns and rows as there is room for, the first ones first."""
    fitting: list[_Column[T]] = []
    for column in columns:
        width -= column.width + 2
        if width < 0 and fitting:
            break
        fitting.append(column)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for number, column in enumerate(fitting):
        table.add_column(
            column.heading,
            justify="right" if number else "left",
            width=column.width,
            no_wrap=True,
            overflow="ellipsis",
        )
    few = rows if len(rows) <= height else rows[: max(height - 1, 0)]
    for row in few:
        table.add_row(*(column.cell(row, rates) for column in fitting))
    if len(few) < len(rows):
        return Group(table, Text(f"and {len(rows) - len(few):,} more", style="dim"))
    return table


def _frames_added(buffer: BufferStatus, rates: Rates) -> str:
    found = rates.of_buffer(buffer)
    return _UNKNOWN if found is None else _count(found.frames_added)


def _batches_sampled(buffer: BufferStatus, rates: Rates) -> str:
    found = rates.of_buffer(buffer)
    return _UNKNOWN if found is None else _count(found.batches_sampled)


def _frames_sampled(buffer: BufferStatus, rates: Rates) -> str:
    found = rates.of_buffer(buffer)
    return _UNKNOWN if found is None else _count(found.frames_sampled)


def _samples_per_insert(buffer: BufferStatus, _: Rates) -> str:
    ratio = buffer.samples_per_insert
    return _UNKNOWN if ratio is None else f"{ratio:,.1f}"


def _quietest(buffer: BufferStatus, _: Rates) -> str:
    return _span(buffer.writers[0].quiet_s) if buffer.writers else _UNKNOWN


def _done(method: MethodStatus, rates: Rates) -> str:
    found = rates.of_method(method)
    return _UNKNOWN if found is None else _count(found.done)


def _refused(method: MethodStatus, rates: Rates) -> str:
    found = rates.of_method(method)
    return _UNKNOWN if found is None else _count(found.refused)


def _work(share: float) -> Callable[[MethodStatus, Rates], str]:
    def cell(method: MethodStatus, rates: Rates) -> str:
        found = rates.of_method(method)
        return _time(None if found is None else found.work.at_most(share))

    return cell


_BUFFERS: tuple[_Column[BufferStatus], ...] = (
    _Column("buffer", 16, lambda b, _: b.name),
    _Column("fill", 4, lambda b, _: f"{b.num_frames / b.capacity:.0%}"),
    _Column("frames/s", 8, _frames_added),
    _Column("batches/s", 9, _batches_sampled),
    _Column("per insert", 10, _samples_per_insert),
    _Column("writers", 7, lambda b, _: _count(b.num_writers)),
    _Column("quietest", 8, _quietest),
    _Column("frames", 8, lambda b, _: _count(b.num_frames)),
    _Column("capacity", 8, lambda b, _: _count(b.capacity)),
    _Column("sampled/s", 9, _frames_sampled),
    _Column("episodes", 8, lambda b, _: _count(b.num_episodes)),
    _Column("not durable", 11, lambda b, _: _count(b.next_index - b.durable_index)),
    _Column("duplicates", 10, lambda b, _: _count(b.duplicates)),
)
_METHODS: tuple[_Column[MethodStatus], ...] = (
    _Column("method", 17, lambda m, _: m.name),
    _Column("in flight", 9, lambda m, _: _count(m.in_flight)),
    _Column("done/s", 7, _done),
    _Column("refused/s", 9, _refused),
    _Column("half below", 10, _work(0.5)),
    _Column("99% below", 9, _work(0.99)),
)


def _count(number: float) -> str:
    """Returns a number in at most 6 characters, more or less exactly."""
    if number < 10 and number != int(number):
        return f"{number:.1f}"
    if number < 100_000:
        return f"{number:,.0f}"
    return _scaled(number, 1000, ("", "k", "M", "G", "T"))


def _size(nbytes: float) -> str:
    return _scaled(nbytes, 1024, (" B", " KiB", " MiB", " GiB", " TiB"))


def _scaled(number: float, base: int, units: Sequence[str]) -> str:
    power = 0
    while number >= base and power < len(units) - 1:
        number /= base
        power += 1
    return (
        f"{number:.0f}{units[power]}"
        if number >= 100 or not power
        else f"{number:.1f}{units[power]}"
    )


def _per_second(nbytes: float | None) -> str:
    return _UNKNOWN if nbytes is None else f"{_size(nbytes)}/s"


def _span(seconds: float) -> str:
    """Returns a time in its two largest units."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} m"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return _UNKNOWN
    if math.isinf(seconds):
        return "long"
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.0f} s"
