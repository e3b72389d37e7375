"""How the demo's processes are told of the server: its address, and what it takes to be let in.

The same options everywhere: `replayring demo` hands them on to the processes that it starts.
"""

from __future__ import annotations

import argparse

import replayring
from replayring_proto.tls_arguments import TLS_OPTIONS, add_tls_arguments, tls_from

__all__ = ["add_arguments", "connect", "passed_on"]

_OPTIONS = (*TLS_OPTIONS, "token_file")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what a server on a network wants."""
    group = parser.add_argument_group("security", "for a server with TLS and tokens")
    add_tls_arguments(group)
    group.add_argument(
        "--token-file",
        metavar="FILE",
        help="holds the token (REPLAYRING_TOKEN or REPLAYRING_TOKEN_FILE from the environment)",
    )


def passed_on(args: argparse.Namespace) -> list[str]:
    """These options again, for a child's command line."""
    words: list[str] = []
    for name in _OPTIONS:
        value, flag = getattr(args, name), f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif value not in (None, False):
            words += [flag, value]
    return words


def connect(args: argparse.Namespace, *, timeout: float = 30.0) -> replayring.ReplayClient:
    """A client of the server at `args.address`; whoever asked for it closes it.

    Raises:
        InvalidRequestError, StorageError: as `replayring.connect`.
    """
    return replayring.connect(
        args.address, timeout=timeout, tls=tls_from(args) or False, token_file=args.token_file
    )
