"""A process that works in turns: the side of the worker.

It says "ready", reads for how many seconds to work, says what it did as a line of JSON, and waits
for the next turn, until its stdin ends. Between turns it is idle, so that others can be measured.
Knows nothing of what is done in a turn. The other side is `processes`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence

__all__ = ["PERCENTILES", "READY", "Step", "percentile", "take_turns", "turn"]

Step = Callable[[], int]
"""Does something once, and returns how many frames, windows or batches that was."""

READY = "ready"
WARM_UP = 0.1
"""Part of a turn that is not counted: what was fetched ahead while idle is used up in it."""

_PARENT = os.getppid()

PERCENTILES = {"p50": 0.5, "p99": 0.99, "p999": 0.999}


def take_turns(step: Step, settle: Callable[[], None] | None = None) -> None:
    """Takes turns until stdin ends.

    Args:
        step: what is repeated in a turn.
        settle: waits for what steps have left under way; counts as part of the turn.
    """
    step()
    print(READY, flush=True)
    for line in sys.stdin:
        print(json.dumps(turn(step, settle, float(line))), flush=True)


def turn(step: Step, settle: Callable[[], None] | None, seconds: float) -> dict[str, float]:
    """Repeats `step` for some seconds.

    Returns:
        `per_second`, and the percentiles of the seconds that a step took.
    """
    _repeat(step, seconds * WARM_UP)
    if settle:
        settle()
    begin = time.perf_counter()
    count, times = _repeat(step, seconds)
    if settle:
        settle()
    elapsed = time.perf_counter() - begin
    return {"per_second": count / elapsed} | {
        name: percentile(times, part) for name, part in PERCENTILES.items()
    }


def _repeat(step: Step, seconds: float) -> tuple[int, list[float]]:
    """Returns the sum of what `step` returned, and the seconds of each. Ends with its parent."""
    count, times = 0, []
    last = time.perf_counter()
    end = last + seconds
    # Whoever is killed in the middle of a long turn leaves no load behind.
    while last < end and os.getppid() == _PARENT:
        count += step()
        now = time.perf_counter()
        times.append(now - last)
        last = now
    times.sort()
    return count, times


def percentile(ordered: Sequence[float], part: float) -> float:
    """Returns the value that this part of an ordered, non-empty sequence does not exceed."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]
