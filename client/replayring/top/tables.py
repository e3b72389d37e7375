"""The tables of `replayring top`: what their columns are, and how many fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from replayring.top.figures import UNKNOWN, count, duration, size, span
from replayring.top.rates import BufferRates, MethodRates, Rates
from replayring_proto.server_status import BufferStatus, MethodStatus, ServerStatus

__all__ = ["BUFFERS", "BUFFERS_OVER_SHARDS", "METHODS", "SHARDS", "Column", "ShardRow", "table"]

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Column(Generic[T]):
    """One column: its heading, its width in characters, and what it has of a row."""

    heading: str
    width: int
    cell: Callable[[T, Rates], str]


@dataclass(frozen=True)
class ShardRow:
    """One shard.

    Attributes:
        name: its address.
        status: what it says; None while it is away, or does not let us in.
        away: seconds for which it has been away, as far as is known.
        refusal: what it says of not letting us in.
    """

    name: str
    status: ServerStatus | None
    away: float
    refusal: str | None = None

    @property
    def is_away(self) -> bool:
        """Whether nothing is heard of it."""
        return self.status is None and self.refusal is None


def table(
    columns: Sequence[Column[T]], rows: Sequence[T], rates: Rates, width: int, height: int
) -> RenderableType:
    """Returns a table of as many columns and rows as there is room for, the first ones first."""
    fitting: list[Column[T]] = []
    for column in columns:
        width -= column.width + 2
        if width < 0 and fitting:
            break
        fitting.append(column)
    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for number, column in enumerate(fitting):
        drawn.add_column(
            column.heading,
            justify="right" if number else "left",
            width=column.width,
            no_wrap=True,
            overflow="ellipsis",
        )
    few = rows if len(rows) <= height else rows[: max(height - 1, 0)]
    for row in few:
        drawn.add_row(*(column.cell(row, rates) for column in fitting))
    if len(few) < len(rows):
        return Group(drawn, Text(f"and {len(rows) - len(few):,} more", style="dim"))
    return drawn


def _of_buffer(rate: Callable[[BufferRates], float]) -> Callable[[BufferStatus, Rates], str]:
    return lambda buffer, rates: _rate(rates.of_buffer(buffer), rate)


def _of_method(rate: Callable[[MethodRates], float]) -> Callable[[MethodStatus, Rates], str]:
    return lambda method, rates: _rate(rates.of_method(method), rate)


def _rate(found: R | None, rate: Callable[[R], float]) -> str:
    return UNKNOWN if found is None else count(rate(found))


def _samples_per_insert(buffer: BufferStatus, _: Rates) -> str:
    ratio = buffer.samples_per_insert
    return UNKNOWN if ratio is None else f"{ratio:,.1f}"


def _quietest(buffer: BufferStatus, _: Rates) -> str:
    return span(buffer.writers[0].quiet_s) if buffer.writers else UNKNOWN


def _work(share: float) -> Callable[[MethodStatus, Rates], str]:
    def cell(method: MethodStatus, rates: Rates) -> str:
        found = rates.of_method(method)
        return duration(None if found is None else found.work.at_most(share))

    return cell


def _state(shard: ShardRow, _: Rates) -> str:
    if shard.refusal is not None:
        return "refuses"
    if shard.status is None:
        return f"away {span(shard.away)}"
    return f"up {span(shard.status.uptime_s)}"


def _of_status(figure: Callable[[ServerStatus], str]) -> Callable[[ShardRow, Rates], str]:
    return lambda shard, _: UNKNOWN if shard.status is None else figure(shard.status)


def _of_shard(rate: Callable[[BufferRates], float]) -> Callable[[ShardRow, Rates], str]:
    return lambda shard, rates: _rate(rates.of_shard(shard.name) if shard.status else None, rate)


_BATCHES: Column[BufferStatus] = Column("batches/s", 9, _of_buffer(lambda r: r.batches_sampled))
_SAMPLED: Column[BufferStatus] = Column("sampled/s", 9, _of_buffer(lambda r: r.frames_sampled))
BUFFERS: tuple[Column[BufferStatus], ...] = (
    Column("buffer", 16, lambda b, _: b.name),
    Column("fill", 4, lambda b, _: f"{b.num_frames / b.capacity:.0%}"),
    Column("frames/s", 8, _of_buffer(lambda r: r.frames_added)),
    _BATCHES,
    Column("per insert", 10, _samples_per_insert),
    Column("writers", 7, lambda b, _: count(b.num_writers)),
    Column("quietest", 8, _quietest),
    Column("frames", 8, lambda b, _: count(b.num_frames)),
    Column("capacity", 8, lambda b, _: count(b.capacity)),
    _SAMPLED,
    Column("episodes", 8, lambda b, _: count(b.num_episodes)),
    Column("not durable", 11, lambda b, _: count(b.next_index - b.durable_index)),
    Column("duplicates", 10, lambda b, _: count(b.duplicates)),
)
# What a shard sends ahead are blocks, and how many make a batch only the learner knows.
BUFFERS_OVER_SHARDS = tuple(
    _SAMPLED if column is _BATCHES else column for column in BUFFERS if column is not _SAMPLED
)
METHODS: tuple[Column[MethodStatus], ...] = (
    Column("method", 17, lambda m, _: m.name),
    Column("in flight", 9, lambda m, _: count(m.in_flight)),
    Column("done/s", 7, _of_method(lambda r: r.done)),
    Column("refused/s", 9, _of_method(lambda r: r.refused)),
    Column("half below", 10, _work(0.5)),
    Column("99% below", 9, _work(0.99)),
)
SHARDS: tuple[Column[ShardRow], ...] = (
    Column("shard", 21, lambda s, _: s.name),
    Column("state", 14, _state),
    Column("frames", 8, _of_status(lambda s: count(sum(b.num_frames for b in s.buffers)))),
    Column("frames/s", 8, _of_shard(lambda r: r.frames_added)),
    Column("sampled/s", 9, _of_shard(lambda r: r.frames_sampled)),
    Column("clients", 7, _of_status(lambda s: count(s.peers))),
    Column("memory", 8, _of_status(lambda s: size(s.resident_bytes))),
    Column("disk free", 9, _of_status(lambda s: size(s.disk_free_bytes))),
)
