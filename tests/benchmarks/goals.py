"""The goals, and whether figures meet them. Knows records alone, not how they were measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

Record = dict[str, Any]

MAX_OTHERS = 0.25
"""Cores that others may use beside a turn before it counts as disturbed."""

MEMORY = "server's memory beyond page cache"


@dataclass(frozen=True)
class Goal:
    """That a figure is at least, or at most, so many times another, turn by turn.

    Attributes:
        workload: of both figures.
        part: of both figures.
        ours: the figure's name.
        others: those that it is compared with; the best of them that was measured counts. None at
            all: the figure itself is what is to be bounded.
        at_least: the ratio wanted, or None.
        at_most: or the one that must not be exceeded.
    """

    workload: str
    part: str
    ours: str
    others: tuple[str, ...] = ()
    at_least: float | None = None
    at_most: float | None = None

    def met(self, ratio: float) -> bool:
        """Returns whether a ratio is good enough."""
        if self.at_least is not None:
            return ratio >= self.at_least
        return self.at_most is None or ratio <= self.at_most


@dataclass(frozen=True)
class Verdict:
    """A goal beside what was measured.

    Attributes:
        goal: the goal.
        ratios: one for each turn, in order of size.
        ours: our figure.
        other: the one that it was compared with, or None.
        calm: whether others left the machine alone meanwhile.
    """

    goal: Goal
    ratios: tuple[float, ...]
    ours: Record
    other: Record | None
    calm: bool

    @property
    def ratio(self) -> float:
        """What counts: the median."""
        return median(self.ratios)

    @property
    def met(self) -> bool:
        """Whether the goal is met."""
        return self.goal.met(self.ratio)


REMOTE = ("Reverb", "Reverb, packed", "TorchRL rpc")
FLIGHT = ("Arrow Flight", "Arrow Flight, exchange")
ALL = ("small", "pixels", "sequence")

GOALS = (
    Goal("small", "sample", "replayring", ("Reverb",), at_least=15),
    Goal("small", "sample", "replayring", ("TorchRL rpc",), at_least=4),
    Goal("small", "sample", "replayring", FLIGHT, at_least=0.9),
    Goal("pixels", "sample", "replayring", ("bare gRPC",), at_least=0.85),
    Goal("pixels", "sample", "replayring", REMOTE, at_least=1.5),
    Goal("sequence", "sample", "replayring", REMOTE, at_least=5),
    *(Goal(name, "same-host", "replayring", ("numpy gather",), at_least=0.8) for name in ALL),
    *(Goal(name, "same-host", "replayring", ("TorchRL in process",), at_least=2) for name in ALL),
    Goal("small", "insert", "replayring", REMOTE, at_least=8),
    Goal("pixels", "insert", "replayring", ("bare gRPC",), at_least=0.7),
    *(Goal(name, "together", "insert, both", ("insert, alone",), at_least=0.4) for name in ALL),
    *(Goal(name, "together", "sample, both", ("sample, alone",), at_least=0.4) for name in ALL),
    # A sample's cost is one over its rate.
    Goal("small", "capacity", "10^4 frames", ("10^7 frames",), at_most=1.2),
    Goal("small", "capacity", "same host, 10^4 frames", ("same host, 10^7 frames",), at_most=1.2),
    Goal("small", "loader", "replayring", ("LeRobot OnlineBuffer",), at_least=10),
    Goal("small", "loader", "replayring, same host", ("LeRobot OnlineBuffer",), at_least=10),
    *(Goal(name, "together", MEMORY, at_most=300) for name in ALL),
)


def verdicts(records: Iterable[Record]) -> list[Verdict]:
    """Returns what these records say about each goal whose figures are among them.

    Of figures that were measured more than once, the last counts.
    """
    figures = {
        (record["workload"], record["part"], record["name"]): record
        for record in records
        if record["kind"] == "figure"
    }
    found = []
    for goal in GOALS:
        ours = figures.get((goal.workload, goal.part, goal.ours))
        others = [figures.get((goal.workload, goal.part, name)) for name in goal.others]
        measured = [record for record in others if record]
        if ours and (measured or not goal.others):
            found.append(_verdict(goal, ours, measured))
    return found


def _verdict(goal: Goal, ours: Record, others: Sequence[Record]) -> Verdict:
    if not others:
        return Verdict(goal, tuple(sorted(ours["turns"])), ours, None, True)
    best = max(others, key=lambda record: record["value"])
    ratios = [mine / its for mine, its in zip(ours["turns"], best["turns"], strict=True)]
    undisturbed = [ratio for ratio, calm in zip(ratios, _calm(ours, best), strict=True) if calm]
    # What others do to a ratio is noise; but a turn or two without it are no measurement either.
    enough = len(undisturbed) * 2 > len(ratios)
    return Verdict(goal, tuple(sorted(undisturbed if enough else ratios)), ours, best, enough)


def _calm(ours: Record, other: Record) -> list[bool]:
    """Returns for each round whether others left both turns alone."""
    pairs = zip(ours["others_cores"], other["others_cores"], strict=True)
    return [max(pair) <= MAX_OTHERS for pair in pairs]
