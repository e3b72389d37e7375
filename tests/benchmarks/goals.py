"""The goals, and whether figures meet them. Knows records alone, not how they were measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

Record = dict[str, Any]

MEMORY_LIMIT_MB = 300


@dataclass(frozen=True)
class Goal:
    """That a figure is at least so many times another, turn by turn.

    Attributes:
        workload: of both figures.
        part: of both figures.
        ours: the figure's name.
        others: those that it is compared with; the best of them that was measured counts.
        at_least: the ratio wanted, or None.
        at_most: or the one that must not be exceeded.
    """

    workload: str
    part: str
    ours: str
    others: tuple[str, ...]
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True)
class Verdict:
    """A goal beside what was measured.

    Attributes:
        goal: the goal.
        other: which of the others counts.
        ratio: the median of the turns' ratios.
        lowest: the lowest of them.
        highest: the highest of them.
        ours: our figure, per second.
        theirs: the other's.
        unit: of both.
    """

    goal: Goal
    other: str
    ratio: float
    lowest: float
    highest: float
    ours: float
    theirs: float
    unit: str

    @property
    def met(self) -> bool:
        """Whether the goal is met."""
        if self.goal.at_least is not None:
            return self.ratio >= self.goal.at_least
        return self.goal.at_most is None or self.ratio <= self.goal.at_most


REMOTE = ("Reverb", "Reverb, packed", "TorchRL rpc")

GOALS = (
    Goal("small", "sample", "replayring", ("Reverb",), 15),
    Goal("small", "sample", "replayring", ("TorchRL rpc",), 4),
    Goal("small", "sample", "replayring", ("Arrow Flight", "Arrow Flight, exchange"), 0.9),
    Goal("pixels", "sample", "replayring", ("bare gRPC",), 0.85),
    Goal("pixels", "sample", "replayring", REMOTE, 1.5),
    Goal("sequence", "sample", "replayring", REMOTE, 5),
    *(
        goal
        for workload in ("small", "pixels", "sequence")
        for goal in (
            Goal(workload, "same-host", "replayring", ("numpy gather",), 0.8),
            Goal(workload, "same-host", "replayring", ("TorchRL in process",), 2),
        )
    ),
    Goal("small", "insert", "replayring", REMOTE, 8),
    Goal("pixels", "insert", "replayring", ("bare gRPC",), 0.7),
    *(
        Goal(workload, "together", f"{role}, both", (f"{role}, alone",), 0.4)
        for workload in ("small", "pixels", "sequence")
        for role in ("insert", "sample")
    ),
    Goal("small", "capacity", "10^4 frames", ("10^7 frames",), at_most=1.2),
    Goal("small", "loader", "replayring", ("LeRobot OnlineBuffer",), 10),
    Goal("small", "loader", "replayring, same host", ("LeRobot OnlineBuffer",), 10),
)


def verdicts(records: Iterable[Record]) -> list[Verdict]:
    """Returns what these records say about each goal whose figures are among them."""
    figures = {
        (record["workload"], record["part"], record["name"]): record
        for record in records
        if record["kind"] == "figure"
    }
    found = []
    for goal in GOALS:
        ours = figures.get((goal.workload, goal.part, goal.ours))
        theirs = [figures.get((goal.workload, goal.part, name)) for name in goal.others]
        if ours and (measured := [record for record in theirs if record]):
            found.append(_verdict(goal, ours, measured))
    return found


def _verdict(goal: Goal, ours: Record, others: Sequence[Record]) -> Verdict:
    best = max(others, key=lambda record: record["per_second"])
    ratios = [a / b for a, b in zip(ours["turns"], best["turns"], strict=True)]
    return Verdict(
        goal,
        best["name"],
        median(ratios),
        min(ratios),
        max(ratios),
        ours["per_second"],
        best["per_second"],
        ours["unit"],
    )
