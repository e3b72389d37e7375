"""`replayring verify`: checks a data directory that no server has, and changes nothing in it."""

from __future__ import annotations

import argparse
import json
import sys

from replayring_proto import argument_types
from replayring_proto.errors import ReplayRingError
from replayring_server.inspection import verify

HELP = "check a data directory offline"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    parser.add_argument(
        "directory", metavar="DIR", type=argument_types.folder, help="a server's data directory"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="do not read the frames' values, which takes as long as the disk does",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Prints the report; returns 0 without damage, 1 with, and 2 if it cannot be checked."""
    try:
        report = verify(arguments.directory, contents=not arguments.quick)
    except (ReplayRingError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(report.as_json(), indent=2) if arguments.json else "\n".join(report.lines()))
    return 1 if report.damaged else 0
