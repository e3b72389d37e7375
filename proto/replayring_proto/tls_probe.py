"""Whether a server speaks TLS, asked by a side that does not: gRPC only says that it hung up.

Where a name has several addresses, as "localhost" has, gRPC does not say even that, but what the
last of them did.
"""

from __future__ import annotations

import socket
import ssl

from replayring_proto.address import host_and_port

PROBE_SECONDS = 0.5
"""How long one address may take to connect, and then to answer."""


def speaks_tls(target: str) -> bool:
    """Whether what listens at a gRPC target answers a TLS handshake, whatever its certificate.

    False as well where the target is not HOST:PORT, or nothing there answers in time.
    """
    address = host_and_port(target)
    if address is None:
        return False
    try:
        with (
            socket.create_connection(address, PROBE_SECONDS) as connection,
            _trusting_anyone().wrap_socket(connection),
        ):
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")  # it wants a certificate, say; but says so in TLS
    except (OSError, ValueError, OverflowError):  # the last two: no possible name, or port
        return False


def _trusting_anyone() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context
