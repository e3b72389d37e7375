"""How the demo's own processes end: an exit code, and on failure one line on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable

import replayring

__all__ = ["exit_code_of"]


def exit_code_of(work: Callable[[], None]) -> int:
    """Do a process's work; errors that replayring foresees become one line, not a traceback."""
    try:
        work()
    except KeyboardInterrupt:
        return 130
    except replayring.ReplayRingError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
