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
from dataclasses import dataclass
from typing import Any

from replayring_proto.errors import InvalidRequestError, ReplayRingError, StorageError
from replayring_proto.limits import ServerLimits
from replayring_server.allocator import keep_freed_memory
from replayring_server.engine import Store
from replayring_server.security.certificates import Certificates, certificates_from
from replayring_server.security.exposure import check_exposure, missing
from replayring_server.security.tokens import Tokens
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
        "--health-listen",
        metavar="HOST:PORT",
        help="another address, without TLS, that answers the health service and nothing else",
    )
    parser.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change one of the limits in replayring_proto/limits.py, such as max_calls=10000; "
        "may be repeated",
    )
    _add_security_arguments(parser)


def _add_security_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "security", "needed to listen on anything but this machine's own 127.0.0.1"
    )
    group.add_argument(
        "--tls-cert", metavar="FILE", help="PEM file: this server's certificate and its chain"
    )
    group.add_argument("--tls-key", metavar="FILE", help="PEM file: its private key")
    group.add_argument(
        "--tls-client-ca",
        metavar="FILE",
        help="PEM file: take only clients that have a certificate of these authorities",
    )
    group.add_argument(
        "--token-file",
        metavar="FILE",
        help="take only calls with one of these tokens: a line each, `write TOKEN` or "
        "`read TOKEN`; read again at SIGHUP",
    )
    group.add_argument(
        "--insecure", action="store_true", help="listen on any address without all that"
    )


def run(arguments: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit code."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)-7s %(message)s", stream=sys.stderr
    )
    _raise_descriptor_limit()
    keep_freed_memory()
    try:
        _run_loop(_serve(_settings_from(arguments)))
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
    bare_ipv6 = ":" in host and not (host.startswith("[") and host.endswith("]"))
    if not host or bare_ipv6 or not port.isdecimal() or int(port) > 65_535:
        raise InvalidRequestError(
            f"address {address!r} is not HOST:PORT with a port from 0 to 65535; "
            f"for example {DEFAULT_LISTEN} or [::1]:50051"
        )
    return host, int(port)


@dataclass(frozen=True)
class _Settings:
    """What the command line says, checked: nothing of it needs the data directory."""

    data_dir: str
    host: str
    port: int
    grace_s: float
    health: tuple[str, int] | None
    limits: ServerLimits
    certificates: Certificates | None
    tokens: Tokens | None


def _settings_from(arguments: argparse.Namespace) -> _Settings:
    host, port = parse_address(arguments.listen)
    health = parse_address(arguments.health_listen) if arguments.health_listen else None
    certificates = certificates_from(arguments.tls_cert, arguments.tls_key, arguments.tls_client_ca)
    tokens = Tokens(arguments.token_file) if arguments.token_file else None
    lacking = missing(
        encrypted=certificates is not None,
        authenticated=tokens is not None
        or (certificates is not None and certificates.client_ca is not None),
    )
    if not arguments.insecure:
        check_exposure(arguments.listen, host, lacking)
    elif lacking:
        logger.warning("--insecure: there is no %s", " and no ".join(lacking))
    limits = ServerLimits.of(arguments.limit)
    return _Settings(
        *(arguments.data_dir, host, port, arguments.grace, health, limits, certificates, tokens)
    )


async def _serve(settings: _Settings) -> None:
    loop = asyncio.get_running_loop()
    stopping, disk_failed = asyncio.Event(), asyncio.Event()

    def on_failure() -> None:
        loop.call_soon_threadsafe(disk_failed.set)
        loop.call_soon_threadsafe(stopping.set)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        with Store(settings.data_dir, settings.limits, on_failure) as store:
            await _serve_store(store, settings, stopping)
    finally:
        if disk_failed.is_set():
            raise StorageError("stopped because the disk failed, see above; check it, then restart")
    logger.info("stopped")


async def _serve_store(store: Store, settings: _Settings, stopping: asyncio.Event) -> None:
    server = Server(store, settings.certificates, settings.tokens)
    if settings.tokens is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _reload_tokens, server)
    bound = await server.start(settings.host, settings.port, settings.health)
    # On stdout, and whole: whoever started this process waits for the line to learn the port.
    print(f"replayring listening on {settings.host}:{bound}", flush=True)
    logger.info("serving %s on %s:%d", store.data_dir, settings.host, bound)
    await stopping.wait()
    logger.info("stopping: calls in flight have %.1f s to finish", settings.grace_s)
    await server.stop(settings.grace_s)


def _reload_tokens(server: Server) -> None:
    try:
        server.reload_tokens()
    except ReplayRingError as error:
        logger.error("the tokens in use stay: %s", error)


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
