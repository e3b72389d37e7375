"""The process of one role: reads its task, then takes turns.

    python -m replayring.benchmark.worker

The task comes over stdin: so a token, which a pickled client carries, is in no list of processes
and in no environment.
"""

from __future__ import annotations

import sys

from replayring.benchmark.roles import ROLES
from replayring.benchmark.tasks import Task
from replayring.benchmark.turns import take_turns

__all__ = ["main"]


def main() -> None:
    """Does the task on stdin until stdin ends."""
    task = Task.of(sys.stdin.readline())
    with task.buffer.client, ROLES[task.role](task.buffer, task.workload) as (step, settle):
        take_turns(step, settle)


if __name__ == "__main__":
    main()
