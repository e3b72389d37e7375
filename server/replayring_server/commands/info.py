"""`replayring info`: says what is in a data directory, whether or not a server has it."""

from __future__ import annotations

import argparse
import json
import sys

from replayring_proto import argument_types
from replayring_proto.errors import ReplayRingError
from replayring_server.inspection import describe

HELP = "say what is in a data directory"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    parser.add_argument(
        "directory", metavar="DIR", type=argument_types.folder, help="a server's data directory"
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Prints what there is; returns 0, 1 if something of it is damaged, 2 if it is no such DIR."""
    try:
        found = describe(arguments.directory)
    except (ReplayRingError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(found.as_json(), indent=2) if arguments.json else "\n".join(found.lines()))
    return 1 if found.unreadable else 0
