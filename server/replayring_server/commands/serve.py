"""`replayring serve`: runs a server until it is told to stop."""

from __future__ import annotations

import argparse
import logging
import os

from replayring_proto.errors import ReplayRingError
from replayring_proto.machine import check_serves
from replayring_server import configuration, logs
from replayring_server.configuration.toml import to_toml
from replayring_server.process import run_server

logger = logging.getLogger("replayring")

HELP = "keep replay buffers and serve them"

add_arguments = configuration.add_arguments


def run(arguments: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit code."""
    logs.set_up()  # for what is wrong with the configuration, which says how it is to be
    try:
        configured = configuration.configure(arguments, os.environ)
        if arguments.print_config:
            print(to_toml(configured), end="")
        else:
            check_serves()
            settings = configured.settings()
            logs.set_up(settings.log_format, settings.log_level)
            run_server(settings, configured.limits)
    except (ReplayRingError, OSError) as error:
        logger.error("%s", error)
        return 1
    return 0
