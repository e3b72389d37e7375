"""What `replayring top` shows of one reading: made of rich's tables, to fit the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from replayring.sharded import ShardedServerStatus
from replayring.top.figures import count, per_second, size, span
from replayring.top.rates import Rates, Reading
from replayring.top.tables import BUFFERS, BUFFERS_OVER_SHARDS, METHODS, SHARDS, ShardRow, table
from replayring_proto.server_status import LimitUse, MethodStatus, ServerStatus

__all__ = ["Screen"]

NEAR = 0.8
"""The share of a limit from which on it is near."""

LITTLE_DISK = 0.05
"""The share of the disk below which what is free is little; alerts.yaml has the same."""

_TABLE_LINES = 2
"""Lines of each table besides its rows: a gap above it, and its heading."""

_ENDLESS = 10_000
"""Lines of what is no terminal."""


class Screen:
    """One reading, for rich to print. Drawn anew for each, at whatever size the terminal has."""

    def __init__(
        self,
        address: str,
        reading: Reading,
        before: Reading | None,
        trouble: str | None = None,
        away: Mapping[str, float] | None = None,
    ) -> None:
        """Prepares to show a reading.

        Args:
            address: the server's.
            reading: what to show.
            before: the reading before, for rates; None for none.
            trouble: why there is no newer reading, if there should be one.
            away: seconds for which each shard that cannot be reached has been away.
        """
        self._address = address
        self._status = reading.status
        self._rates = Rates(before, reading)
        self._trouble = trouble
        self._away = away or {}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, height = options.max_width, options.max_height
        shards = _shards(self._status, self._away)
        heading = list(_lines(self._heading(), width))
        warnings = list(_warnings(self._status, shards, self._trouble))
        if not console.is_terminal:
            height = _ENDLESS
        yield Group(
            *(Text(line, "bold", no_wrap=True) for line in heading),
            *(Text(line, "bold yellow", no_wrap=True, overflow="ellipsis") for line in warnings),
            # One line is in reserve.
            *self._tables(shards, width, height - len(heading) - len(warnings) - 1),
        )

    def _heading(self) -> list[str]:
        if isinstance(self._status, ShardedServerStatus):
            return _heading_of_several(self._status, self._rates)
        return _heading(self._address, self._status, self._rates)

    def _tables(self, shards: list[ShardRow], width: int, height: int) -> Iterator[RenderableType]:
        """Yields the tables; methods have half of the room at most, shards a third."""
        tables = 3 if shards else 2
        room = max(2 * tables, height - _TABLE_LINES * tables)
        few_shards = min(len(shards), max(room // 3, 2))
        room -= few_shards
        methods = sorted(filter(_calls, self._status.methods), key=_calls, reverse=True)
        few_methods = min(len(methods), room // 2)
        buffers = BUFFERS_OVER_SHARDS if shards else BUFFERS
        yield Text()
        yield table(buffers, self._status.buffers, self._rates, width, room - few_methods)
        if shards:
            yield Text()
            yield table(SHARDS, shards, self._rates, width, few_shards)
        yield Text()
        yield table(METHODS, methods, self._rates, width, few_methods)


def _heading(address: str, status: ServerStatus, rates: Rates) -> list[str]:
    memory = {limit.name: limit for limit in status.limits}
    return [
        f"replayring {status.version} at {address}",
        f"up {span(status.uptime_s)}",
        *_traffic(status, rates),
        *(
            f"{what} {size(memory[name].used)} of {size(memory[name].limit)}"
            for what, name in (("staging", "max_staging_bytes"), ("sending", "max_sending_bytes"))
            if name in memory
        ),
        f"memory {size(status.resident_bytes)}",
        f"disk {size(status.disk_free_bytes)} free",
    ]


def _heading_of_several(status: ShardedServerStatus, rates: Rates) -> list[str]:
    """Returns what adds up; how long each is up and what it has left is in the table of shards."""
    there = sum(one is not None for one in status.shards.values())
    return [
        f"replayring {status.version} at {there:,} of {len(status.shards):,} shards",
        *_traffic(status, rates),
        f"memory {size(status.resident_bytes)}",
    ]


def _traffic(status: ServerStatus, rates: Rates) -> list[str]:
    calls = sum(method.in_flight for method in status.methods)
    return [
        f"{status.peers:,} connections, {calls:,} calls",
        f"in {per_second(rates.received_bytes)}",
        f"out {per_second(rates.sent_bytes)}",
    ]


def _shards(status: ServerStatus, away: Mapping[str, float]) -> list[ShardRow]:
    """Returns the shards in their order; of one server none."""
    if not isinstance(status, ShardedServerStatus):
        return []
    return [
        ShardRow(
            name,
            None if name in away else one,
            away.get(name, 0.0),
            None if name in away else status.refusals.get(name),
        )
        for name, one in status.shards.items()
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


def _warnings(
    status: ServerStatus, shards: Sequence[ShardRow], trouble: str | None
) -> Iterator[str]:
    """Yields what somebody should know; what a shard says of its limits and disk with its name."""
    if trouble is not None:
        yield trouble
    elif away := [f"{shard.name} ({span(shard.away)})" for shard in shards if shard.is_away]:
        yield f"away, and not counted: {', '.join(away)}"
    for shard in shards:
        if shard.refusal is not None:
            yield f"not counted: {shard.name}: {shard.refusal}"
    yield from status.warnings
    if not isinstance(status, ShardedServerStatus):
        yield from _shortages(status)
    for shard in shards:
        if shard.status is not None:
            yield from (f"{shard.name}: {shortage}" for shortage in _shortages(shard.status))


def _shortages(status: ServerStatus) -> Iterator[str]:
    for limit in status.limits:
        if limit.ratio >= NEAR or limit.waiting:
            yield _near(limit)
    if status.disk_free_bytes < status.disk_size_bytes * LITTLE_DISK:
        yield f"the disk has {size(status.disk_free_bytes)} left: new buffers may be refused"


def _near(limit: LimitUse) -> str:
    shown = size if limit.name.endswith("_bytes") else count
    waiting = f"; calls that wait: {limit.waiting:,}" if limit.waiting else ""
    return (
        f"{limit.name}: {shown(limit.used)} of {shown(limit.limit)} are in use "
        f"({limit.ratio:.0%}){waiting}"
    )
