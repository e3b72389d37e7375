"""Which addresses there are, and which never leave this machine. In doubt, all may."""

from __future__ import annotations

import pytest

from replayring_proto.address import (
    check_target,
    host_and_port,
    is_loopback,
    stays_on_this_machine,
)
from replayring_proto.errors import InvalidRequestError

HERE = ["127.0.0.1", "127.8.9.10", "localhost", "LocalHost", "::1", "[::1]", "[0:0::1]"]
ELSEWHERE = [
    *("0.0.0.0", "::", "[::]", "10.0.0.1", "126.255.255.255", "128.0.0.1", "[fe80::1]", "*"),
    *("", "localhost.example", "replay", "127.0.0.1.example", "127.1", "2130706433", "[::1"),
]


@pytest.mark.parametrize("host", HERE)
def test_hosts_that_are_here(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ELSEWHERE)
def test_hosts_that_may_be_elsewhere(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    "target",
    [
        *("127.0.0.1:50051", "localhost:1", "localhost", "[::1]:50051", "ipv4:127.0.0.1:1"),
        *("ipv6:[::1]:1", "dns:localhost:1", "dns:///127.0.0.1:1"),
        *("unix:/run/replay", "unix:///run/replay", "unix-abstract:replay"),
    ],
)
def test_targets_that_are_here(target: str) -> None:
    assert stays_on_this_machine(target)


@pytest.mark.parametrize(
    "target",
    [
        *(f"{host}:50051" for host in ELSEWHERE),
        "::1:5005",  # which is the address ::0001:5005
        "ipv4:127.0.0.1:1,10.0.0.1:1",
        "ipv4:10.0.0.1:1,127.0.0.1:1",
        "dns://8.8.8.8/localhost:1",
        "xds:///localhost:1",
        "https://localhost:1",
        "127.0.0.1:",
        "localhost:http",
    ],
)
def test_targets_that_may_be_elsewhere(target: str) -> None:
    assert not stays_on_this_machine(target)


@pytest.mark.parametrize(
    ("target", "address"),
    [
        ("replay:50051", ("replay", 50051)),
        ("dns:///replay:1", ("replay", 1)),
        ("ipv4:10.0.0.1:1", ("10.0.0.1", 1)),
        ("[fe80::1]:1", ("fe80::1", 1)),
        *(
            (none, None)
            for none in ("replay", ":1", "", "::1:5005", "replay:http", "replay:\u0661")
        ),
    ],
)
def test_host_and_port_are_told_apart(target: str, address: tuple[str, int] | None) -> None:
    assert host_and_port(target) == address


@pytest.mark.parametrize(
    "target",
    [
        *("replay:1", "replay:65535", "[::1]:1", "[fe80::1%eth0]:1", "10.0.0.1:50051"),
        *("dns:replay", "dns:///replay", "dns:///replay:1", "dns:[::1]:1", "dns://8.8.8.8/a:1"),
        *(
            "ipv4:10.0.0.1:1,10.0.0.2:2",
            "ipv6:[::1]:1",
            "unix:/a:b",
            "unix-abstract:a",
            "vsock:2:1",
        ),
    ],
)
def test_targets_there_are(target: str) -> None:
    assert check_target(target) == target


@pytest.mark.parametrize(
    "target",
    [
        *(
            "",
            "replay",
            ":1",
            "replay:",
            "replay:http",
            "replay:\u0661",
            "::1:1",
            b"replay:1",
            None,
        ),
        *("http://replay:1", "a:1,b:1", "replay:1 ", "re play:1"),
        # Of which gRPC makes the ports 4464 and 0, and asks who listens there.
        *("replay:70000", "dns:replay:70000", "dns:///replay:65536", "[::1]:65536", "replay:0"),
        # With which gRPC makes no channel, and calls fail as if the server had.
        *("ipv4:10.0.0.1", "ipv4:10.0.0.1:70000", "ipv4:10.0.0.1:1,10.0.0.2", "ipv6:::1"),
    ],
)
def test_targets_that_are_none(target: object) -> None:
    with pytest.raises(InvalidRequestError, match=r"must be 'HOST:PORT', with a port from 1 to"):
        check_target(target)
