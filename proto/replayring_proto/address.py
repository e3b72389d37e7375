"""Addresses: how hosts are written, and which of them never leave this machine."""

from __future__ import annotations

import ipaddress
import re

# What gRPC's name syntax may put before the address itself. Names with an authority of their own
# ("dns://8.8.8.8/host") are not taken apart, and so count as remote.
_SCHEME = re.compile(r"(dns:///|dns:|ipv4:|ipv6:)?")


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
