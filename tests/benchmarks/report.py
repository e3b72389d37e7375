"""Records as tables in the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from replayring.benchmark.turns import PERCENTILES
from tests.benchmarks.goals import Goal, Record, Verdict, verdicts


def report(records: Sequence[Record]) -> str:
    """Returns the figures, then the goals."""
    return f"{figures(records)}\n\n{goals(verdicts(records))}"


def figures(records: Iterable[Record]) -> str:
    """Returns a table of figures."""
    rows = [("workload", "part", "", "", "", "p50 ms", "p99 ms", "p99.9 ms")]
    for record in records:
        if record["kind"] == "figure":
            times = (record.get(f"{name}_us") for name in PERCENTILES)
            latencies = ("" if time is None else f"{time / 1e3:.2f}" for time in times)
            where = (record["workload"], record["part"], record["name"])
            rows.append((*where, f"{record['value']:,.0f}", record["unit"], *latencies))
    return table(rows, right=(3, 5, 6, 7))


def goals(found: Iterable[Verdict]) -> str:
    """Returns a table of goals."""
    rows = [("workload", "part", "", "compared with", "goal", "measured", "spread", "")]
    for verdict in found:
        goal, other = verdict.goal, verdict.other
        rows.append(
            (
                *(goal.workload, goal.part, goal.ours, other["name"] if other else ""),
                bound(goal),
                f"{verdict.ratio:.2f}",
                f"{verdict.ratios[0]:.2f} to {verdict.ratios[-1]:.2f}",
                ("met" if verdict.met else "NOT MET") + ("" if verdict.calm else " (disturbed)"),
            )
        )
    return table(rows, right=(5,))


def bound(goal: Goal) -> str:
    """Returns what a goal asks for."""
    return f">= {goal.at_least:g}" if goal.at_least is not None else f"<= {goal.at_most:g}"


def table(rows: Sequence[Sequence[str]], right: Sequence[int]) -> str:
    """Returns rows with their columns aligned, those numbered in `right` to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = (
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
