"""Addresses: how servers are named, and which of them never leave this machine."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from replayring_proto.errors import InvalidRequestError

# https://grpc.github.io/grpc/core/md_doc_naming.html
_TARGETS = ("dns:", "unix:", "unix-abstract:", "ipv4:", "ipv6:", "vsock:", "xds:", "passthrough:")
_HOST_PORT = re.compile(r"([^\s/:,\[\]]+|\[[0-9A-Fa-f:.%\w]+\]):(?P<port>[0-9]{1,5})")
_DNS = re.compile(r"dns:(//[^/]*/)?")

# What gRPC's name syntax may put before the address itself. Names with an authority of their own
# ("dns://8.8.8.8/host") are not taken apart, and so count as remote.
_SCHEME = re.compile(r"(dns:///|dns:|ipv4:|ipv6:)?")


def check_target(value: Any) -> str:
    """Returns the address of a server, as somebody gave it.

    Raises:
        InvalidRequestError: it is neither HOST:PORT nor a target that gRPC knows. It would be
            looked up, or tried on port 443, until the caller's patience is at its end; and of a
            port beyond 65535 gRPC drops the upper bits, and asks another server.
    """
    if isinstance(value, str) and _is_target(value):
        return value
    raise InvalidRequestError(
        f"address is {value!r:.100}; it must be 'HOST:PORT', with a port from 1 to 65535"
    )


def _is_target(text: str) -> bool:
    scheme, _, rest = text.partition(":")
    if scheme in ("ipv4", "ipv6"):  # which take several
        return all(map(_is_host_and_port, rest.split(",")))
    if dns := _DNS.match(text):
        name = text[dns.end() :]  # may be without a port, which then is 443
        return ":" not in name or name.endswith("]") or _is_host_and_port(name)
    return text.startswith(_TARGETS) or _is_host_and_port(text)


def _is_host_and_port(text: str) -> bool:
    found = _HOST_PORT.fullmatch(text)
    return found is not None and 1 <= int(found["port"]) <= 65_535


def without_brackets(host: str) -> str:
    """Returns a host as the system takes it: an IPv6 address without what sets off its port."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def is_loopback(host: str) -> bool:
    """Whether a host is 127.0.0.0/8, ::1 or localhost; an IPv6 address may stand in brackets."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(without_brackets(host)).is_loopback
    except ValueError:
        return False


def stays_on_this_machine(target: str) -> bool:
    """Whether what is sent to a gRPC target certainly goes through no network."""
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    if is_loopback(_SCHEME.sub("", target, count=1)):
        return True  # without a port
    address = host_and_port(target)
    return address is not None and is_loopback(address[0])


def host_and_port(target: str) -> tuple[str, int] | None:
    """Returns a gRPC target's host, as the system takes it, and its port; None without them."""
    host, _, port = _SCHEME.sub("", target, count=1).rpartition(":")
    bare_ipv6 = ":" in host and not host.startswith("[")  # whose last group is no port
    if not host or bare_ipv6 or not (port.isascii() and port.isdecimal()):
        return None
    return without_brackets(host), int(port)
