"""Readings on a terminal: redrawn in place, or printed one below the other where it is none."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from rich.console import Console
from rich.live import Live

from replayring.client import Client
from replayring.sharded import ShardedClient
from replayring.top.rates import Reading
from replayring.top.readings import readings
from replayring.top.screen import Screen

__all__ = ["show"]


def show(client: Client | ShardedClient, interval: float, *, once: bool) -> None:
    """Shows the state until interrupted, or `once`.

    Raises:
        ReplayRingError: as `readings`.
    """
    console, screens = Console(), _screens(client, interval)
    if console.is_terminal and not once:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            for screen in screens:
                live.update(screen, refresh=True)
    # The first has no rates yet.
    for screen in itertools.islice(screens, 1, 2 if once else None):
        console.print(screen)


def _screens(client: Client | ShardedClient, interval: float) -> Iterator[Screen]:
    before: Reading | None = None
    last: Reading | None = None
    for outcome in readings(client, interval):
        if outcome.reading is not None:
            before, last = last, outcome.reading
        if last is not None:
            yield Screen(client.address, last, before, outcome.trouble, outcome.away)
