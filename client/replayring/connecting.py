"""Connecting: to one server, or to several that are used as one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from replayring._arguments import seconds
from replayring._credentials import credentials_for
from replayring.client import DEFAULT_MAX_REPLY_BYTES, DEFAULT_TIMEOUT, Client
from replayring.sharded._names import names_of
from replayring.sharded.client import ShardedClient
from replayring_proto.tls import TLS, FilePath

__all__ = ["connect"]


def connect(
    address: str | Sequence[str],
    *,
    timeout: float = DEFAULT_TIMEOUT,
    max_reply_bytes: int = DEFAULT_MAX_REPLY_BYTES,
    tls: bool | TLS = False,
    token: str | None = None,
    token_file: FilePath | None = None,
    insecure: bool = False,
    same_host: bool | str | os.PathLike[str] | None = None,
) -> Client | ShardedClient:
    """Returns a client of the server at an address, or of several. Connects when it is first used.

    Where neither token nor token_file is given, the environment's REPLAYRING_TOKEN is taken, or
    what the file holds that REPLAYRING_TOKEN_FILE names.

    Args:
        address: HOST:PORT, or another target that gRPC knows, such as "unix:/path". Several of
            them, with commas between or as a list, are shards: see `replayring.sharded`. So is
            every address of HOST in "dns:///HOST:PORT", which is looked up now.
        timeout: seconds that a call may take, retries included, where it is given none of its own.
        max_reply_bytes: what a reply may announce at most before memory is taken for it.
        tls: how to make sure of the server; True trusts the public authorities that come with
            grpcio, False speaks in the clear.
        token: what shows the server who calls.
        token_file: a file that holds the token instead. It is read for every call, so a new token
            in it is taken up at once.
        insecure: send the token in the clear to another machine all the same.
        same_host: whether frames are read straight from the server's files where this process can
            open them, which is faster and yields the same; `Buffer.info` says whether they are. A
            path says where the server's data directory is mounted here. None for what the
            environment variable REPLAYRING_SAME_HOST says (0 or false, 1 or true, or a path), or
            else True.

    Raises:
        InvalidRequestError: an argument is not valid, or a token would leave this machine in the
            clear.
        ServerUnavailableError: a host to be looked up has no address in all that time.
        StorageError: a file cannot be read or used.
    """
    names, host = names_of(address, seconds(timeout))
    if host is not None and tls:
        # Certificates are for the name, and its addresses are what is connected to.
        settings = TLS() if isinstance(tls, bool) else tls
        tls = settings if settings.server_name else replace(settings, server_name=host)
    clients = []
    for name in names:
        credentials = credentials_for(name, tls, token, token_file, insecure)
        clients.append(Client(name, timeout, max_reply_bytes, credentials, same_host))
    return clients[0] if len(clients) == 1 else ShardedClient(clients)
