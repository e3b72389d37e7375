"""Asking a server how it is doing, again and again, also while it is away."""

from __future__ import annotations

import time
from collections.abc import Iterator

from replayring.client import Client
from replayring.top.rates import Reading
from replayring_proto.errors import DeadlineError, ServerUnavailableError

__all__ = ["readings"]

_PATIENCE_SECONDS = 1.0


def readings(client: Client, interval: float) -> Iterator[tuple[Reading | None, str | None]]:
    """Yields a reading per interval, for ever; or, where it comes to none, what is wrong.

    Args:
        client: asks.
        interval: seconds between two readings.

    Raises:
        ReplayRingError: there is not even a first one, or it will not get better.
    """
    patience: float | None = None  # for the first, the client's own
    away_since = None
    while True:
        begun = time.monotonic()
        try:
            status = client.status(timeout=patience)
            patience, away_since = max(interval, _PATIENCE_SECONDS), None
            yield Reading(time.monotonic(), status), None
        except (ServerUnavailableError, DeadlineError):
            if patience is None:
                raise
            away_since = away_since or begun
            yield None, f"the server is away, for {time.monotonic() - away_since:.0f} s now"
        time.sleep(max(0.0, begun + interval - time.monotonic()))
