"""HOST:PORT, as settings give it."""

from __future__ import annotations

from typing import NamedTuple

from replayring_proto.errors import InvalidRequestError


class Address(NamedTuple):
    """Where to listen.

    Attributes:
        host: a name or an address; an IPv6 address stands in brackets.
        port: 0 to 65535; 0 takes a free one.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Splits HOST:PORT.

        Raises:
            InvalidRequestError: it is not of that form.
        """
        host, _, port = text.rpartition(":")
        bare_ipv6 = ":" in host and not (host.startswith("[") and host.endswith("]"))
        if not host or bare_ipv6 or not port.isdecimal() or int(port) > 65_535:
            raise InvalidRequestError(
                f"address {text!r} is not HOST:PORT with a port from 0 to 65535; "
                "for example 127.0.0.1:50051 or [::1]:50051"
            )
        return cls(host, int(port))
