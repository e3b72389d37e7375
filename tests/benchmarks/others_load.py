"""How much of the machine others use, while we measure."""

from __future__ import annotations

import os
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


class OthersLoad:
    """Cores that processes used which are neither this one nor come from it, since `begin`."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Starts anew."""
        self._at, self._others = time.perf_counter(), _busy() - _ours(os.getpid())

    def cores(self) -> float:
        """Returns how many there were on average."""
        used = _busy() - _ours(os.getpid()) - self._others
        return max(0.0, used / (time.perf_counter() - self._at))


def _busy() -> float:
    """Returns the seconds that all cores together have worked since the machine started."""
    user, nice, system, _idle, _wait, *interrupts = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + sum(interrupts)) / TICKS


def _ours(root: int) -> float:
    """Returns the seconds that a process, and all that come from it, have worked."""
    parents, seconds = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except (OSError, IndexError):
                continue  # it has just ended
            parents[int(entry.name)] = int(fields[1])
            # Its own, and those of its children that have ended.
            seconds[int(entry.name)] = sum(map(int, fields[11:15])) / TICKS
    total, family = 0.0, {root}
    while family:
        total += sum(seconds.get(pid, 0.0) for pid in family)
        family = {pid for pid, parent in parents.items() if parent in family}
    return total
