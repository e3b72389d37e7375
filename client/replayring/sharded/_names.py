"""Which servers an address means, and which of them a writer belongs to."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Sequence
from typing import Any

import xxhash

from replayring.sharded._numbers import MAX_SHARDS
from replayring_proto.address import check_target
from replayring_proto.errors import InvalidRequestError, ServerUnavailableError

_DNS = re.compile(r"dns:///([^\s/:\[\]]+):(\d{1,5})")
_RETRY_SECONDS = 0.2


def names_of(address: Any, timeout: float) -> tuple[list[str], str | None]:
    """Returns the servers that an address means, sorted, and the name they were looked up by.

    Args:
        address: HOST:PORT, or another target of gRPC's; several of them, with commas between or
            as a sequence; or dns:///HOST:PORT, which means every address of that host.
        timeout: seconds to wait until a host has an address.

    Raises:
        InvalidRequestError: it is none of these, or names a server twice.
        ServerUnavailableError: the host had no address in all that time.
    """
    if isinstance(address, str) and (looked_up := _DNS.fullmatch(address)):
        check_target(address)
        found = _addresses(looked_up[1], int(looked_up[2]), timeout)
        return (found, looked_up[1]) if len(found) > 1 else ([address], None)
    if isinstance(address, str) and not address.startswith(("ipv4:", "ipv6:")):
        given: Sequence[Any] = [part.strip() for part in address.split(",")]
    else:
        given = list(address) if isinstance(address, (list, tuple)) else [address]
    names = sorted(check_target(one) for one in given)
    if len(set(names)) < len(names) or not 0 < len(names) <= MAX_SHARDS:
        raise InvalidRequestError(
            f"address is {address!r:.100}; give from 1 to {MAX_SHARDS:,} servers, each once"
        )
    return names, None


def ranking(key: str, names: Sequence[str]) -> list[int]:
    """Returns the places in `names` in the order in which they suit a key: rendezvous hashing.

    Thaler and Ravishankar, 1998. The order of two names does not depend on the others, so a name
    more or less changes the first place for few keys.
    """
    weights = [xxhash.xxh3_64_intdigest(f"{name}\0{key}".encode()) for name in names]
    return sorted(range(len(names)), key=lambda place: (-weights[place], names[place]))


def _addresses(host: str, port: int, timeout: float) -> list[str]:
    """Returns all addresses of a host: IPv4 if it has any, as a server may have one of each."""
    until = time.monotonic() + timeout
    while True:
        problem = "it has no address"
        for family, form in ((socket.AF_INET, "{}:{}"), (socket.AF_INET6, "[{}]:{}")):
            try:
                found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
            except OSError as error:
                problem = str(error)
            else:
                return sorted({form.format(at[0], port) for *_, at in found})
        if time.monotonic() >= until:
            raise ServerUnavailableError(
                f"{host!r} could not be looked up within {timeout:g} s ({problem}); check the "
                "name, or give it more time"
            )
        time.sleep(min(_RETRY_SECONDS, max(0.0, until - time.monotonic())))
