"""How often a read that writers overtook is begun anew, and for how long."""

from __future__ import annotations

import time

MOST = 1000

# Beyond so many attempts it is a matter of time. A thousand at a large batch take minutes, and
# whoever waits for it, and for the thread that gathers it, should rather know.
_FEW = 4
_SECONDS = 5.0


class Patience:
    """That of one read. Making one is cheap: most reads never need it.

    Attributes:
        overtaken: attempts that writers overtook.
    """

    __slots__ = ("_since", "overtaken")

    def __init__(self) -> None:
        self.overtaken = 0

    def ends(self) -> bool:
        """Counts an attempt that writers overtook; returns whether it was the last."""
        if not self.overtaken:
            self._since = time.monotonic()
        self.overtaken += 1
        if self.overtaken < _FEW:
            return False
        return self.overtaken >= MOST or time.monotonic() - self._since > _SECONDS
