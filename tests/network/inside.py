"""Calls a function of a test module on this host: see `tests.network.hosts`."""

from __future__ import annotations

import importlib
import json
import logging
import sys

from tests.network.hosts import Hosts


def main(module: str, function: str, server: str, client: str, arguments: str) -> None:
    """Calls `function(hosts, *arguments)`."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    body = getattr(importlib.import_module(module), function)
    body(Hosts(server, client), *json.loads(arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
