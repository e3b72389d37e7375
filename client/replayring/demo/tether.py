"""Runs a command that ends when its parent does, even if the parent is killed without warning.

    python tether.py PARENT_PID COMMAND [ARGUMENT...]

Linux sends a process a signal of its choice when its parent dies (`prctl(PR_SET_PDEATHSIG)`), and
the choice outlives `execve`. So this file asks for SIGTERM and becomes the command, which needs to
know nothing about it. "Parent" means the thread that started it: start it from the main thread.
Run by its path, it imports nothing of replayring and costs a few hundredths of a second. On other
systems the command runs untethered.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

__all__ = ["tethered"]

PR_SET_PDEATHSIG = 1


def tethered(command: Sequence[str]) -> list[str]:
    """The command line that runs this command as a child which ends with the calling process."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def main() -> None:
    """Tie this process to its parent, then become the command."""
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(parent):  # it died before the tie was made
        raise SystemExit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
