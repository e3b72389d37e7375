"""`replayring snapshot`: copies live buffers, beside a server or without one."""

from __future__ import annotations

import argparse
import json
import sys

from replayring_proto import argument_types
from replayring_proto.errors import ReplayRingError
from replayring_server.descriptors import raise_descriptor_limit
from replayring_server.snapshots import snapshot
from replayring_server.snapshots.progress import Progress

HELP = "copy live buffers to a folder or an object store"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    parser.add_argument(
        "directory", metavar="DIR", type=argument_types.folder, help="a server's data directory"
    )
    parser.add_argument(
        "destination",
        metavar="DESTINATION",
        type=argument_types.folder,
        help="a folder, or a URL such as s3://bucket/folder; done again, what is new is copied",
    )
    parser.add_argument(
        "--buffer",
        action="append",
        metavar="NAME",
        help="take this buffer alone; may be repeated (default: all, and published parameters)",
    )
    parser.add_argument(
        "--prune", action="store_true", help="remove files there that are not needed any more"
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="let go of what is there of buffers that are gone or made anew, or had newer frames",
    )
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Prints the outcome; returns 0, 1 if something could not be done, 2 if nothing was taken."""
    raise_descriptor_limit()
    try:
        taken = snapshot(
            arguments.directory,
            arguments.destination,
            buffers=arguments.buffer,
            prune=arguments.prune,
            replace=arguments.replace,
            progress=Progress(sys.stderr),
        )
    except (ReplayRingError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(taken.as_json(), indent=2) if arguments.json else "\n".join(taken.lines()))
    return 1 if taken.failed or taken.unpruned else 0
