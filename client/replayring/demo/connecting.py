"""How the demo's processes are told of the server: its address, and what it takes to be let in.

The same options everywhere: `replayring demo` hands them on to the processes that it starts.
"""

from __future__ import annotations

import argparse

import replayring

__all__ = ["add_arguments", "connect", "passed_on"]

_OPTIONS = ("tls_ca", "tls_cert", "tls_key", "tls_server_name", "token_file")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what a server on a network wants."""
    group = parser.add_argument_group("security", "for a server with TLS and tokens")
    group.add_argument("--tls-ca", metavar="FILE", help="use TLS and trust these authorities")
    group.add_argument("--tls-cert", metavar="FILE", help="certificate to show the server")
    group.add_argument("--tls-key", metavar="FILE", help="its private key")
    group.add_argument(
        "--tls-server-name", metavar="NAME", help="name in the server's certificate, if not HOST"
    )
    group.add_argument(
        "--token-file",
        metavar="FILE",
        help="holds the token (REPLAYRING_TOKEN or REPLAYRING_TOKEN_FILE from the environment)",
    )


def passed_on(args: argparse.Namespace) -> list[str]:
    """These options again, for a child's command line."""
    given = {name: getattr(args, name) for name in _OPTIONS}
    return [
        word
        for name, value in given.items()
        if value is not None
        for word in (f"--{name.replace('_', '-')}", value)
    ]


def connect(args: argparse.Namespace, *, timeout: float = 30.0) -> replayring.ReplayClient:
    """A client of the server at `args.address`; whoever asked for it closes it.

    Raises:
        InvalidRequestError, StorageError: as `replayring.connect`.
    """
    named = args.tls_ca, args.tls_cert, args.tls_key, args.tls_server_name
    tls = any(value is not None for value in named) and replayring.TLS(
        ca=args.tls_ca, cert=args.tls_cert, key=args.tls_key, server_name=args.tls_server_name
    )
    return replayring.connect(args.address, timeout=timeout, tls=tls, token_file=args.token_file)
