"""What is logged of refused calls: the first of a kind as it is, those like it as a number.

A peer that makes one mistake in a loop makes it thousands of times a second. A line for each would
fill the disk, and say no more than the first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import grpc

logger = logging.getLogger(__name__)

Later: TypeAlias = "Callable[[float, Callable[[], object]], object]"

EVERY_S = 60.0
"""So often is said how many calls of a kind were refused."""

MAX_KINDS = 256
"""Kinds that are told apart at a time; those beyond are counted together, whichever host's."""

_OTHERS = "other hosts"


class RefusalLog:
    """Logs refused calls of one server. Belongs to its event loop.

    Those of one method that end with one status code, for one host, are of a kind.
    """

    def __init__(self, later: Later | None = None) -> None:
        """Begins with none.

        Args:
            later: has something called after so many seconds; None for the running loop's own way.
        """
        self._later = later
        # How often each kind came since its last line, and what the last of them was told.
        self._repeated: dict[tuple[str, str, str], tuple[int, str]] = {}

    def add(self, method: str, peer: str, code: grpc.StatusCode, message: str) -> None:
        """Logs a refused call, or counts it if one of its kind was logged lately.

        Args:
            method: what was called.
            peer: whose connection it came on, as gRPC writes it.
            code: the status that it ended with.
            message: its message.
        """
        kind = method, code.name, peer.rpartition(":")[0]
        if kind not in self._repeated and len(self._repeated) >= MAX_KINDS:
            kind = method, code.name, _OTHERS
        if kind in self._repeated:
            times, _ = self._repeated[kind]
            self._repeated[kind] = times + 1, message
            return
        fields = {"method": method, "peer": peer, "code": code.name}
        logger.info("%s from %s: %s: %s", *fields.values(), message, extra=fields)
        self._begin(kind)

    def close(self) -> None:
        """Says what was not said yet."""
        for kind in list(self._repeated):
            self._say(kind)

    def _begin(self, kind: tuple[str, str, str]) -> None:
        self._repeated[kind] = 0, ""
        later = self._later or asyncio.get_running_loop().call_later
        later(EVERY_S, partial(self._look, kind))

    def _look(self, kind: tuple[str, str, str]) -> None:
        """Goes on counting a kind that still comes; what does not is news when it comes again."""
        if self._say(kind):
            self._begin(kind)

    def _say(self, kind: tuple[str, str, str]) -> int:
        """Says how often a kind came since its last line, if it did, and forgets it."""
        times, message = self._repeated.pop(kind, (0, ""))
        if times:
            method, code, host = kind
            fields = {"method": method, "peer": host, "code": code, "times": times}
            said = method, host, code, times, EVERY_S, message
            logger.info("%s from %s: %s: %d more within %.0f s, the last: %s", *said, extra=fields)
        return times
