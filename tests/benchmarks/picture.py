"""The goals as a picture: each as a bar from its lowest to its highest ratio, with the median."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.goals import Record, Verdict, verdicts

MET, MISSED = "#2a7f62", "#b5472f"


def draw(path: Path, records: Sequence[Record]) -> None:
    """Draws how far each goal was met: at 1 it just is, to the right it is more than that."""
    # Half a second to import. A figure made by hand needs no screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = verdicts(records)[::-1]
    figure = Figure(figsize=(9, 0.9 + 0.28 * len(found)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for at, verdict in enumerate(found):
        colour = MET if verdict.met else MISSED
        ends = sorted(share(verdict, ratio) for ratio in (verdict.ratios[0], verdict.ratios[-1]))
        axes.plot(ends, (at, at), color=colour, linewidth=5, alpha=0.35, solid_capstyle="round")
        axes.plot(share(verdict, verdict.ratio), at, "o", color=colour)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(found)), [label(verdict) for verdict in found], fontsize=8)
    axes.set_xlabel("measured, in multiples of the goal")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110)


def share(verdict: Verdict, ratio: float) -> float:
    """Returns a ratio in multiples of the goal, so that more is better."""
    goal = verdict.goal
    return ratio / goal.at_least if goal.at_least is not None else (goal.at_most or 0) / ratio


def label(verdict: Verdict) -> str:
    """Returns what was compared with what."""
    goal, other = verdict.goal, verdict.other
    ours = f"{goal.workload}, {goal.part}: {goal.ours.removeprefix('replayring, ')}"
    return f"{ours} / {other['name']}" if other else ours
