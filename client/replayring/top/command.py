"""`replayring top`: shows how a server is doing, again and again, until Ctrl-C.

Buffers with what comes and goes, methods with how long their work takes, limits that are near, what
the server warns of. A server that is restarted meanwhile is found again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict

from replayring.client import Client
from replayring.commands.connection import add_connection_arguments, connect_by
from replayring.top.rates import Reading
from replayring_proto.errors import ReplayRingError, ServerUnavailableError

__all__ = ["HELP", "add_arguments", "run"]

HELP = "show how a server is doing, kept up to date"

FAILURE = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options on this parser."""
    add_connection_arguments(parser)
    parser.add_argument(
        "--interval",
        type=_seconds,
        default=2.0,
        metavar="SECONDS",
        help="between two readings; rates are averages over it (%(default)s)",
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="print one reading and end, after one interval for rates",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print each reading as a line of JSON: counters rather than rates; needs no rich",
    )


def run(arguments: argparse.Namespace) -> int:
    """Shows the server's state.

    Returns:
        0 after Ctrl-C, or with --once when it was printed; 1 when it cannot be had at all.
    """
    # What the client logs of an outage would be written across the screen, which shows it anyway.
    logging.getLogger("replayring").addHandler(logging.NullHandler())
    try:
        show = _show_json if arguments.json else _show_screen()
        with connect_by(arguments, max(arguments.interval, 5.0)) as client:
            show(client, arguments)
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:  # whoever read it has seen enough; nothing is to be flushed at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ReplayRingError, ImportError) as error:
        print(f"replayring top: {error}", file=sys.stderr)
        return FAILURE
    return 0


def _show_json(client: Client, arguments: argparse.Namespace) -> None:
    for reading, _ in _readings(client, arguments.interval):
        if reading is not None:
            print(json.dumps(asdict(reading.status)), flush=True)
            if arguments.once:
                return


def _show_screen() -> Callable[[Client, argparse.Namespace], None]:
    """Returns what draws on the terminal.

    Raises:
        ImportError: rich is not installed.
    """
    try:
        from rich.console import Console
        from rich.live import Live

        from replayring.top.screen import Screen
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "rich":
            raise
        raise ImportError(
            'it needs rich, which is not installed: pip install "replayring[top]"; or use --json'
        ) from None

    def screens(client: Client, interval: float) -> Iterator[Screen]:
        before: Reading | None = None
        last: Reading | None = None
        for reading, trouble in _readings(client, interval):
            if reading is not None:
                before, last = last, reading
            if last is not None:
                yield Screen(client.address, last, before, trouble)

    def show(client: Client, arguments: argparse.Namespace) -> None:
        console, found = Console(), screens(client, arguments.interval)
        if console.is_terminal and not arguments.once:
            with Live(console=console, screen=True, auto_refresh=False) as live:
                for screen in found:
                    live.update(screen, refresh=True)
        # The first has no rates yet.
        for screen in itertools.islice(found, 1, 2 if arguments.once else None):
            console.print(screen)

    return show


def _readings(client: Client, interval: float) -> Iterator[tuple[Reading | None, str | None]]:
    """Yields a reading per interval, for ever; or why there is none, once there has been one.

    Raises:
        ReplayRingError: there is not even a first one, or it will not get better.
    """
    away_since: float | None = None
    first = True
    due = time.monotonic()
    while True:
        try:
            status = client.status(timeout=None if first else interval)
            away_since, first = None, False
            yield Reading(time.monotonic(), status), None
        except ServerUnavailableError:
            if first:
                raise
            away_since = away_since or time.monotonic()
            yield None, f"the server is away, for {time.monotonic() - away_since:.0f} s now"
        due = max(due + interval, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.1 <= number <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.1 to 3600")
    return number
