"""The process of one role: reads its task, then takes turns.

    python -m replayring.benchmark.worker

The task comes over stdin: so a token, which a pickled client carries, is in no list of processes
and in no environment.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from replayring.benchmark.roles import ROLES, Role
from replayring.benchmark.tasks import Task
from replayring.benchmark.turns import take_turns
from replayring_proto.errors import ReplayRingError

__all__ = ["main"]


def main(roles: Mapping[str, Role] = ROLES) -> None:
    """Does the task on stdin, in one of these roles, until stdin ends."""
    task = Task.of(sys.stdin.readline())
    try:
        with task.buffer.client, roles[task.role](task) as (step, settle):
            take_turns(step, settle)
    except ReplayRingError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
