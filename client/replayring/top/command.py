"""`replayring top`: shows how a server is doing, or several, again and again, until Ctrl-C.

Buffers with what comes and goes, methods with how long their work takes, limits that are near, what
the server warns of. A server that is restarted meanwhile is found again. Of several servers it
shows sums, and which of them are there.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from dataclasses import asdict

from replayring.client import Client
from replayring.commands.connection import add_connection_arguments, connect_by, in_flags
from replayring.sharded import ShardedClient
from replayring.top.readings import readings
from replayring_proto import argument_types
from replayring_proto.errors import ReplayRingError

__all__ = ["HELP", "add_arguments", "run"]

HELP = "show how a server is doing, or several are, kept up to date"

FAILURE = 1
FIRST_SECONDS = 5.0
"""How long the first reading may take, at least: longer than the connection."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options on this parser."""
    add_connection_arguments(parser, several=True)
    parser.add_argument(
        "--interval",
        type=argument_types.seconds(0.1),
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
    """Shows the state of the server, or of all.

    Returns:
        0 after Ctrl-C, or with --once when it was printed; 1 when it cannot be had at all.
    """
    # What the client logs of an outage would be written across the screen, which shows it anyway.
    logging.getLogger("replayring").addHandler(logging.NullHandler())
    try:
        with connect_by(arguments, max(arguments.interval, FIRST_SECONDS)) as client:
            show = _show_json if arguments.json else _show
            show(client, arguments.interval, once=arguments.once)
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:  # whoever read it has seen enough; nothing is to be flushed at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ReplayRingError, ImportError) as error:
        print(f"replayring top: {in_flags(error)}", file=sys.stderr)
        return FAILURE
    return 0


def _show_json(client: Client | ShardedClient, interval: float, *, once: bool) -> None:
    for outcome in readings(client, interval):
        if outcome.reading is not None:
            print(json.dumps(asdict(outcome.reading.status)), flush=True)
            if once:
                return


def _show(client: Client | ShardedClient, interval: float, *, once: bool) -> None:
    try:
        from replayring.top.showing import show
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "rich":
            raise
        raise ImportError(
            'it needs rich, which is not installed: pip install "replayring[top]"; or use --json'
        ) from None
    show(client, interval, once=once)
