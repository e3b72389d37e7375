"""What options of commands may be, as `type` of argparse: refused in plain words."""

from __future__ import annotations

import argparse
from collections.abc import Callable

MAX_SECONDS = 3600.0


def folder(text: str) -> str:
    """Returns the name of a folder, which an unset variable of a shell script is not.

    Raises:
        argparse.ArgumentTypeError: it is empty, which would mean the working directory.
    """
    if not text:
        raise argparse.ArgumentTypeError("'' is no folder; the working directory is '.'")
    return text


def natural(text: str) -> int:
    """Returns a whole number, not negative.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def positive(text: str) -> int:
    """Returns a whole number above zero.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    number = natural(text)
    if number == 0:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def seconds(low: float) -> Callable[[str], float]:
    """Returns what takes a number of seconds from `low` to an hour, and refuses any other."""

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = 0.0
        if not low <= number <= MAX_SECONDS:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a number of seconds from {low:g} to {MAX_SECONDS:g}"
            )
        return number

    return parse
