"""What a worker is told to do."""

from __future__ import annotations

import base64
import pickle
import sys
from dataclasses import dataclass

from replayring.benchmark.workloads import Workload
from replayring.buffer import Buffer

__all__ = ["Task"]


@dataclass(frozen=True)
class Task:
    """What a worker does.

    Attributes:
        role: one of `roles.ROLES`, or of what the process has instead.
        buffer: with which buffer.
        workload: with what data.
    """

    role: str
    buffer: Buffer
    workload: Workload

    @staticmethod
    def command(module: str = "replayring.benchmark.worker") -> list[str]:
        """Returns the command line of a process that waits for a task's `line` on its stdin."""
        return [sys.executable, "-m", module]

    def line(self) -> str:
        """Returns it as one line of text, which says as much as the client's token."""
        return base64.b64encode(pickle.dumps(self)).decode()

    @staticmethod
    def of(line: str) -> Task:
        """Returns what `line` returned; only for lines of the process that started this one."""
        task: Task = pickle.loads(base64.b64decode(line))
        return task
