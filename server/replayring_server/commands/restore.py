"""`replayring restore`: makes buffers of a snapshot, in a data directory that no server has."""

from __future__ import annotations

import argparse
import json
import sys

from replayring_proto import argument_types
from replayring_proto.errors import (
    AlreadyExistsError,
    DirectoryLockedError,
    InvalidRequestError,
    NotFoundError,
    ReplayRingError,
)
from replayring_server.descriptors import raise_descriptor_limit
from replayring_server.snapshots import restore
from replayring_server.snapshots.progress import Progress

HELP = "make buffers of a snapshot"

# What was asked for cannot be done; nothing was.
_REFUSALS = (NotFoundError, InvalidRequestError, AlreadyExistsError, DirectoryLockedError)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        type=argument_types.folder,
        help="a snapshot: a folder, or a URL such as s3://bucket/folder",
    )
    parser.add_argument(
        "directory",
        metavar="DIR",
        type=argument_types.folder,
        help="a data directory that no server has",
    )
    parser.add_argument(
        "--buffer",
        action="append",
        metavar="NAME",
        help="restore this buffer alone; may be repeated (default: all, and published parameters)",
    )
    parser.add_argument("--name", metavar="NAME", help="what to call the buffer, if it is one")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Prints the outcome; returns 0, 1 if that failed, for damage say, 2 if it was not begun."""
    raise_descriptor_limit()
    try:
        restored = restore(
            arguments.source,
            arguments.directory,
            buffers=arguments.buffer,
            name=arguments.name,
            progress=Progress(sys.stderr),
        )
    except (ReplayRingError, OSError) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, _REFUSALS) else 1
    found = restored.as_json() if arguments.json else None
    print(json.dumps(found, indent=2) if found else "\n".join(restored.lines()))
    return 0
