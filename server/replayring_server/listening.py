"""Addresses that cannot be listened on: why not, and which process has them.

Linux says who listens, in /proc: the sockets of this network namespace, and the open files of the
processes that this user may look into. Knows nothing of what is served there.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import pwd
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, TypeAlias

from replayring_proto.address import without_brackets
from replayring_proto.errors import StorageError

Host: TypeAlias = "IPv4Address | IPv6Address"

_LISTENING = "0A"

# What localhost is to gRPC, whatever the system says.
_LOOPBACK = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
_MOST_NAMED = 3


def cannot_listen(flag: str, host: str, port: int, error: Exception) -> StorageError:
    """Returns the error for an address that is not to be had, which says why and what to do.

    Args:
        flag: which names the address on the command line.
        host: an IPv6 address stands in brackets.
        port: with it.
        error: what the attempt ended with.
    """
    reason = _refusal(host, port)
    why = str(reason.strerror if reason and reason.strerror else error)
    if reason is not None and reason.errno != errno.EADDRINUSE:
        return StorageError(
            f"cannot listen on {host}:{port} ({why}); give {flag} an address of this machine that "
            "you may use"
        )
    return _taken(flag, host, port, why, _listeners(host, port))


def check_alone(flag: str, host: str, port: int) -> None:
    """Checks that no other process has an address that `host` stands for; this one listens there.

    gRPC is content with one of several. Whoever calls a name would reach the one or the other.

    Args:
        flag: as for `cannot_listen`, and so are the others.
        host: where.
        port: with it.

    Raises:
        StorageError: another process has one; the message names it.
    """
    listeners = [one for one in _listeners(host, port) if one.inode]  # 0 tells nothing
    own = _open_files(Path("/proc/self")) if listeners else set()
    if others := [one for one in listeners if one.link not in own]:
        raise _taken(flag, host, port, os.strerror(errno.EADDRINUSE), others)


def _taken(flag: str, host: str, port: int, why: str, listeners: list[_Listener]) -> StorageError:
    return StorageError(
        f"cannot listen on {host}:{port} ({why}): {_who(listeners)}; stop it, or give {flag} "
        "another port (0 takes a free one)"
    )


def _refusal(host: str, port: int) -> OSError | None:
    """Returns the system's reason, which gRPC keeps to itself, or None if it has none now."""
    try:
        family, address = _resolved(host, port)[0]
        with socket.socket(family, socket.SOCK_STREAM) as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            attempt.bind(address)
            attempt.listen(1)
    except OSError as error:
        return error
    return None


@dataclass(frozen=True)
class _Listener:
    """A socket that listens.

    Attributes:
        inode: by which open files refer to it.
        uid: whose it is.
    """

    inode: int
    uid: int

    @property
    def link(self) -> str:
        """What stands for it among a process's open files."""
        return f"socket:[{self.inode}]"


def _who(listeners: list[_Listener], proc: Path = Path("/proc")) -> str:
    """Says which processes have these sockets, as far as this user may know."""
    if not listeners:
        return "it cannot be told which process uses it"
    if names := [f"pid {pid} ({_name(proc, pid)})" for pid in _processes_with(listeners, proc)]:
        more = [] if len(names) <= _MOST_NAMED else [f"{len(names) - _MOST_NAMED} more"]
        return f"it is held by {', '.join(names[:_MOST_NAMED] + more)}"
    users = ", ".join(sorted({_user(listener.uid) for listener in listeners}))
    return (
        f"it is held by a process of {users}, and which one cannot be told: this user may not look "
        "into it, or it is in another container"
    )


def _listeners(host: str, port: int, proc: Path = Path("/proc")) -> list[_Listener]:
    """Returns the sockets that keep an address from being listened on."""
    try:
        wanted = [_address(address[0]) for _, address in _resolved(host, port)]
    except OSError:
        return []
    if host.lower() == "localhost":
        wanted += _LOOPBACK
    return [
        listener
        for address, its_port, listener in _all_listeners(proc)
        if its_port == port and any(_meet(address, one) for one in wanted)
    ]


def _all_listeners(proc: Path) -> Iterator[tuple[Host, int, _Listener]]:
    for table in ("tcp", "tcp6"):
        try:
            _, *lines = (proc / "net" / table).read_text().splitlines()
        except (OSError, ValueError):  # there is no IPv6, or no such thing as /proc
            continue
        for line in lines:
            _, local, _, state, _, _, _, uid, _, inode, *_ = line.split()
            if state == _LISTENING:
                digits, port = local.split(":")
                yield _kernel_address(digits), int(port, 16), _Listener(int(inode), int(uid))


def _kernel_address(digits: str) -> Host:
    """Reads an address as the kernel prints it: words of 32 bits in the machine's byte order."""
    words = [bytes.fromhex(digits[at : at + 8])[::-1] for at in range(0, len(digits), 8)]
    return _plain(ipaddress.ip_address(b"".join(words)))


def _address(text: str) -> Host:
    return _plain(ipaddress.ip_address(text.partition("%")[0]))  # without a zone


def _plain(address: Host) -> Host:
    """Returns the IPv4 address that an IPv6 socket listens on, where it does."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


def _meet(one: Host, other: Host) -> bool:
    """Whether only one socket can listen on both: "::" is all of IPv4 as well."""
    pairs = ((one, other), (other, one))
    return one == other or any(
        a.is_unspecified and (a.version == 6 or b.version == 4) for a, b in pairs
    )


def _resolved(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    bare, passive = without_brackets(host), socket.AI_PASSIVE
    try:
        found = socket.getaddrinfo(bare, port, type=socket.SOCK_STREAM, flags=passive)
    except UnicodeError:  # a dot too many, say, or a label of more than 63 letters
        raise socket.gaierror(socket.EAI_NONAME, "no name that a host can have") from None
    return [(family, address) for family, _, _, _, address in found]


def _processes_with(listeners: Iterable[_Listener], proc: Path) -> Iterator[int]:
    """Yields the processes that have one of these sockets open, if they may be looked into."""
    links = {listener.link for listener in listeners}
    for pid in sorted(int(path.name) for path in proc.iterdir() if path.name.isdecimal()):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if links & _open_files(proc / str(pid)):
                yield pid


def _open_files(process: Path) -> set[str]:
    found = set()
    for path in (process / "fd").iterdir():
        with contextlib.suppress(OSError):  # it was closed meanwhile
            found.add(os.readlink(path))
    return found


def _name(proc: Path, pid: int) -> str:
    """Returns a process's name. Its command line may hold secrets, and stays out of the log."""
    try:
        name = (proc / str(pid) / "comm").read_bytes().decode(errors="replace").strip()
    except OSError:
        return "of an unknown name"
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def _user(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"uid {uid}"
