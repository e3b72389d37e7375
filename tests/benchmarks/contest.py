"""Measuring in turns: all that is compared works for a moment, one after the other, repeatedly.

So a ratio is one of neighbouring turns, and what slows the machine down for a minute slows down
both sides of it. A turn beside which others used the machine is repeated, a bounded number of
times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from replayring.benchmark.processes import Worker, summed, together
from replayring.benchmark.turns import PERCENTILES
from tests.benchmarks.goals import MAX_OTHERS
from tests.benchmarks.others_load import OthersLoad


@dataclass(frozen=True)
class Contender:
    """Workers that work at once, in a turn of their own.

    Attributes:
        figures: for each figure that comes of it, the workers whose sum it is.
    """

    figures: Mapping[str, Sequence[Worker]]

    @property
    def workers(self) -> list[Worker]:
        """All of them."""
        return [worker for workers in self.figures.values() for worker in workers]

    def turn(self, seconds: float) -> dict[str, dict[str, float]]:
        """Lets them work, and returns what came of each figure."""
        results = iter(together(self.workers, seconds))
        return {
            name: summed([next(results) for _ in workers]) for name, workers in self.figures.items()
        }


@dataclass
class Figure:
    """What came of some workers, in each of their turns.

    Attributes:
        per_second: frames, windows or batches.
        latencies: seconds that a step took, by percentile.
        others: cores that others used meanwhile.
    """

    per_second: list[float] = field(default_factory=list)
    latencies: dict[str, list[float]] = field(default_factory=lambda: {n: [] for n in PERCENTILES})
    others: list[float] = field(default_factory=list)

    def add(self, result: Mapping[str, float], others: float) -> None:
        """Adds a turn."""
        self.per_second.append(result["per_second"])
        self.others.append(others)
        for name, values in self.latencies.items():
            values.append(result[name])

    def record(self) -> dict[str, Any]:
        """Returns it as it is written down."""
        return {
            "value": round(median(self.per_second), 1),
            "turns": [round(value, 1) for value in self.per_second],
            "others_cores": [round(value, 2) for value in self.others],
        } | {f"{n}_us": round(median(v) * 1e6, 1) for n, v in self.latencies.items()}


def compete(
    contenders: Sequence[Contender], *, rounds: int, seconds: float, repeats: int
) -> dict[str, Figure]:
    """Lets contenders take turns.

    Args:
        contenders: who; each is given `rounds` turns.
        rounds: how often each has its turn. Every other round goes backwards, so that what drifts
            does so for nobody alone.
        seconds: of each turn.
        repeats: turns that may be repeated in all.
    """
    figures = {name: Figure() for contender in contenders for name in contender.figures}
    for worker in (worker for contender in contenders for worker in contender.workers):
        worker.wait_until_ready()
    load = OthersLoad()
    for number in range(rounds):
        for contender in contenders[:: -1 if number % 2 else 1]:
            while True:
                load.begin()
                results, others = contender.turn(seconds), load.cores()
                if others <= MAX_OTHERS or not repeats:
                    break
                repeats -= 1
            for name, result in results.items():
                figures[name].add(result, others)
    return figures
