"""Asking servers how they are doing, again and again, also while some or all are away."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from replayring.client import Client
from replayring.sharded import ShardedClient, ShardedServerStatus
from replayring.top.rates import Reading
from replayring_proto.errors import DeadlineError, ServerUnavailableError
from replayring_proto.server_status import ServerStatus

__all__ = ["Outcome", "readings"]

_PATIENCE_SECONDS = 1.0


@dataclass(frozen=True)
class Outcome:
    """What came of asking once.

    Attributes:
        reading: what was answered; None if nobody did.
        trouble: what is wrong then.
        away: seconds for which each server that did not answer has been away, by name.
    """

    reading: Reading | None
    trouble: str | None = None
    away: Mapping[str, float] = field(default_factory=dict)


def readings(client: Client | ShardedClient, interval: float) -> Iterator[Outcome]:
    """Yields what comes of asking, per interval, for ever.

    Args:
        client: asks.
        interval: seconds between two readings.

    Raises:
        ReplayRingError: there is not even a first one, or it will not get better.
    """
    patience: float | None = None  # for the first, the client's own
    absences = _Absences()
    while True:
        begun = time.monotonic()
        try:
            status = client.status(timeout=patience)
            patience = max(interval, _PATIENCE_SECONDS)
            answered = time.monotonic()
            away = absences.noted(_away(status), begun)
            yield Outcome(Reading(begun, answered, status), away=away)
        except (ServerUnavailableError, DeadlineError):
            if patience is None:
                raise
            servers = client.shards if isinstance(client, ShardedClient) else [client.address]
            away = absences.noted(servers, begun)
            yield Outcome(None, _trouble(away), away)
        time.sleep(max(0.0, begun + interval - time.monotonic()))


class _Absences:
    """Since when servers have been away."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def noted(self, missing: Collection[str], asked: float) -> dict[str, float]:
        """Takes note of who did not answer when `asked`; returns for how many seconds by now."""
        self._since = {name: self._since.get(name, asked) for name in missing}
        now = time.monotonic()
        return {name: now - since for name, since in self._since.items()}


def _away(status: ServerStatus) -> list[str]:
    """Returns the shards that could not be reached."""
    if not isinstance(status, ShardedServerStatus):
        return []
    missing = (name for name, one in status.shards.items() if one is None)
    return [name for name in missing if name not in status.refusals]


def _trouble(away: Mapping[str, float]) -> str:
    what = "the server is away" if len(away) == 1 else "all shards are away"
    return f"{what}, for {min(away.values()):.0f} s now"
