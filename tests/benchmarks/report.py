"""Records as tables in the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tests.benchmarks.goals import Record, Verdict, verdicts


def report(records: Sequence[Record]) -> str:
    """Returns the figures, then the goals."""
    return f"{figures(records)}\n\n{goals(verdicts(records))}"


def figures(records: Iterable[Record]) -> str:
    """Returns a table of figures."""
    rows = [("workload", "part", "", "per second", "", "p50 ms", "p99 ms", "p99.9 ms")]
    for record in records:
        if record["kind"] == "figure":
            latencies = (f"{record[f'{name}_us'] / 1e3:.2f}" for name in ("p50", "p99", "p999"))
            number = f"{record['per_second']:,.0f}"
            where = (record["workload"], record["part"], record["name"])
            rows.append((*where, number, record["unit"], *latencies))
        elif record["kind"] == "memory":
            what = "server's memory beyond page cache"
            number = f"{record['most_mib']:,.0f}"
            rows.append((record["workload"], record["part"], what, number, "MiB", "", "", ""))
    return table(rows, right=(3, 5, 6, 7))


def goals(found: Iterable[Verdict]) -> str:
    """Returns a table of goals."""
    rows = [("workload", "part", "ours", "compared with", "goal", "measured", "spread", "")]
    for verdict in found:
        goal = verdict.goal
        bound = f">= {goal.at_least:g}" if goal.at_least is not None else f"<= {goal.at_most:g}"
        spread = f"{verdict.lowest:.2f} to {verdict.highest:.2f}"
        measured = f"{verdict.ratio:.2f}"
        met = "met" if verdict.met else "NOT MET"
        where = (goal.workload, goal.part, goal.ours, verdict.other)
        rows.append((*where, bound, measured, spread, met))
    return table(rows, right=(5,))


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
