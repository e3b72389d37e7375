"""Where a server may listen without being asked twice."""

from __future__ import annotations

from replayring_proto.address import is_loopback
from replayring_proto.errors import InvalidRequestError

_FLAGS = {
    "encryption": "--tls-cert FILE --tls-key FILE",
    "check of who calls": "--token-file FILE (or --tls-client-ca FILE)",
}


def missing(*, encrypted: bool, authenticated: bool) -> list[str]:
    """Returns what a server lacks that others than this machine may reach."""
    have = (encrypted, authenticated)
    return [what for what, there in zip(_FLAGS, have, strict=True) if not there]


def check_exposure(address: str, host: str, lacking: list[str]) -> None:
    """Refuses to listen beyond this machine without TLS and a check of who calls.

    Args:
        address: as the user gave it.
        host: its host.
        lacking: what `missing` returned.

    Raises:
        InvalidRequestError: naming the address, what is missing, and the remedies.
    """
    if lacking and not is_loopback(host):
        raise InvalidRequestError(
            f"{address} can be reached from other machines, and this server has no "
            f"{' and no '.join(lacking)}: add {' and '.join(_FLAGS[what] for what in lacking)}; "
            "or listen on 127.0.0.1; or, where every machine on the network is trusted, add "
            "--insecure"
        )
