"""`replayring serve`: runs a server until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import resource
import signal
import sys
from collections.abc import Coroutine
from typing import Any

from replayring_proto.errors import InvalidRequestError, ReplayRingError, StorageError
from replayring_proto.limits import ServerLimits
from replayring_server.engine import Store
from replayring_server.server import Server

logger = logging.getLogger("replayring")

HELP = "keep replay buffers and serve them"
DEFAULT_LISTEN = "127.0.0.1:50051"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    parser.add_argument("--data-dir", required=True, help="folder that keeps the buffers")
    parser.add_argument(
        "--listen",
        default=DEFAULT_LISTEN,
        metavar="HOST:PORT",
        help="address to listen on; port 0 takes a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=5.0,
        metavar="SECONDS",
        help="how long calls in flight may finish after SIGTERM (default: %(default)s)",
    )
    parser.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change one of the limits in replayring_proto/limits.py, such as max_calls=10000; "
        "may be repeated",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit code."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)-7s %(message)s", stream=sys.stderr
    )
    _raise_descriptor_limit()
    try:
        host, port = parse_address(arguments.listen)
        limits = ServerLimits.of(arguments.limit)
        _run_loop(_serve(arguments.data_dir, host, port, arguments.grace, limits))
    except (ReplayRingError, OSError) as error:
        logger.error("%s", error)
        return 1
    return 0


def parse_address(address: str) -> tuple[str, int]:
    """Splits HOST:PORT; an IPv6 host stands in brackets.

    Raises:
        InvalidRequestError: it is not of that form.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise InvalidRequestError(
            f"address {address!r} is not HOST:PORT with a port from 0 to 65535; "
            f"for example {DEFAULT_LISTEN}"
        )
    return host, int(port)


async def _serve(data_dir: str, host: str, port: int, grace_s: float, limits: ServerLimits) -> None:
    loop = asyncio.get_running_loop()
    stopping, disk_failed = asyncio.Event(), asyncio.Event()

    def on_failure() -> None:
        loop.call_soon_threadsafe(disk_failed.set)
        loop.call_soon_threadsafe(stopping.set)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        with Store(data_dir, limits, on_failure) as store:
            await _serve_store(store, host, port, grace_s, stopping)
    finally:
        if disk_failed.is_set():
            raise StorageError("stopped because the disk failed, see above; check it, then restart")
    logger.info("stopped")


async def _serve_store(
    store: Store, host: str, port: int, grace_s: float, stopping: asyncio.Event
) -> None:
    server = Server(store)
    bound = await server.start(host, port)
    # On stdout, and whole: whoever started this process waits for the line to learn the port.
    print(f"replayring listening on {host}:{bound}", flush=True)
    logger.info("serving %s on %s:%d", store.data_dir, host, bound)
    await stopping.wait()
    logger.info("stopping: calls in flight have %.1f s to finish", grace_s)
    await server.stop(grace_s)


def _raise_descriptor_limit() -> None:
    """Takes the descriptors that the system allows: every mapped column holds one, as mmap has it.

    The usual 1024 would be used up by 90 small buffers, and connections refused from then on.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(ValueError, OSError):  # a limit that the kernel itself does not keep
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Runs `main` on uvloop where it is installed, which is faster, else on asyncio's own loop."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)
