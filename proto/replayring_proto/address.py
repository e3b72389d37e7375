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
    address = _SCHEME.sub("", target, count=1)
    if is_loopback(address):
        return True  # without a port
    host, _, port = address.rpartition(":")
    bare_ipv6 = ":" in host and not host.startswith("[")  # whose last group is no port
    return port.isdecimal() and not bare_ipv6 and is_loopback(host)
