"""A server's address on the command line, with all that `connect` takes to reach it."""

from __future__ import annotations

import argparse

from replayring.client import Client
from replayring.connecting import connect
from replayring.sharded import ShardedClient
from replayring_proto.errors import InvalidRequestError
from replayring_proto.tls_arguments import add_tls_arguments, tls_from

__all__ = ["add_connection_arguments", "connect_by", "connect_to_one_by", "in_flags"]

_FLAGS = {
    "connect(..., token=...) or token_file=...": "--token-file FILE",
    "tls=TLS(ca=...)": "--tls-ca FILE",
    "tls=TLS(cert=..., key=...)": "--tls-cert FILE --tls-key FILE",
    "tls=TLS(server_name=...)": "--tls-server-name NAME",
    "tls=True": "--tls",
    "insecure=True": "--insecure",
}
"""What errors tell callers of `connect` to give, and the flags that stand for it here."""


def add_connection_arguments(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Adds the address and how to reach it; `several` says that it may be of several servers."""
    if several:
        help_ = "HOST:PORT of the server; several with commas between, or dns:///HOST:PORT"
        parser.add_argument("address", metavar="ADDRESS", help=help_)
    else:
        parser.add_argument("address", metavar="HOST:PORT", help="the server")
    group = parser.add_argument_group(
        "connection", "as for replayring.connect; a token may also be in REPLAYRING_TOKEN"
    )
    add_tls_arguments(group)
    # There is no --token: whoever lists this machine's processes would read it.
    group.add_argument("--token-file", metavar="FILE", help="file that holds the token")
    group.add_argument(
        "--insecure", action="store_true", help="send the token in the clear to another machine"
    )


def connect_by(
    arguments: argparse.Namespace, timeout: float, *, same_host: bool | None = None
) -> Client | ShardedClient:
    """Returns a client of the server that the command line names, or of the servers.

    Args:
        arguments: parsed, of a parser that `add_connection_arguments` was given.
        timeout: seconds that a call may take.
        same_host: as for `connect`.

    Raises:
        InvalidRequestError, ServerUnavailableError, StorageError: as `connect`.
    """
    return connect(
        arguments.address,
        timeout=timeout,
        tls=tls_from(arguments) or False,
        token_file=arguments.token_file,
        insecure=arguments.insecure,
        same_host=same_host,
    )


def connect_to_one_by(
    arguments: argparse.Namespace, timeout: float, *, same_host: bool | None = None
) -> Client:
    """Returns a client of the one server that the command line names.

    Raises:
        InvalidRequestError: they are several. Or as `connect_by`, whose arguments these are.
    """
    client = connect_by(arguments, timeout, same_host=same_host)
    if not isinstance(client, Client):
        client.close()
        raise InvalidRequestError(
            f"{arguments.address} are several servers; this command is about one: run it for each"
        )
    return client


def in_flags(error: Exception) -> str:
    """Returns what an error says, with flags in place of `connect`'s arguments."""
    text = str(error)
    for argument, flag in _FLAGS.items():
        text = text.replace(argument, flag)
    return text
