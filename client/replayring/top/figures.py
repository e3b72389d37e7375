"""Numbers as `replayring top` shows them: short, and exact enough."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["UNKNOWN", "count", "duration", "per_second", "size", "span"]

UNKNOWN = "-"


def count(number: float) -> str:
    """Returns a number in at most 6 characters, more or less exactly."""
    if number < 10 and number != int(number):
        return f"{number:.1f}"
    if number < 100_000:
        return f"{number:,.0f}"
    return _scaled(number, 1000, ("", "k", "M", "G", "T"))


def size(nbytes: float) -> str:
    """Returns a number of bytes in its unit."""
    return _scaled(nbytes, 1024, (" B", " KiB", " MiB", " GiB", " TiB"))


def _scaled(number: float, base: int, units: Sequence[str]) -> str:
    power = 0
    while number >= base and power < len(units) - 1:
        number /= base
        power += 1
    return (
        f"{number:.0f}{units[power]}"
        if number >= 100 or not power
        else f"{number:.1f}{units[power]}"
    )


def per_second(nbytes: float | None) -> str:
    """Returns a rate of bytes, where it is known."""
    return UNKNOWN if nbytes is None else f"{size(nbytes)}/s"


def span(seconds: float) -> str:
    """Returns a time in its two largest units."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} m"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def duration(seconds: float | None) -> str:
    """Returns how long work took, where it is known."""
    if seconds is None:
        return UNKNOWN
    if math.isinf(seconds):
        return "long"
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.0f} s"
