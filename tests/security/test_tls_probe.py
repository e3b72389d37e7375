"""Whether it is found out that a server speaks TLS, and nothing else is taken for that."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from replayring_proto import tls_probe
from replayring_proto.tls_probe import speaks_tls
from replayring_server.security.certificates import Certificates
from tests.certificates import Authority, Pair
from tests.support import LocalServer


@pytest.mark.parametrize("mutual", [False, True])
def test_server_with_tls_is_found(
    tmp_path: Path, authority: Authority, pair: Pair, mutual: bool
) -> None:
    client_ca = str(authority.cert) if mutual else None
    certificates = Certificates(str(pair.cert), str(pair.key), client_ca)
    with LocalServer(tmp_path, certificates=certificates) as server:
        assert speaks_tls(server.address)
        assert speaks_tls(f"dns:///{server.address}")


def test_server_without_tls_is_none(tmp_path: Path) -> None:
    with LocalServer(tmp_path) as server:
        assert not speaks_tls(server.address)


def test_listener_that_says_nothing_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_probe, "PROBE_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not speaks_tls(f"127.0.0.1:{silent.getsockname()[1]}")


@pytest.mark.parametrize(
    "target",
    [
        *("127.0.0.1:1", "127.0.0.1:65536", "127.0.0.1", "unix:/run/replay", "", ":", ":1"),
        *("[::1:1", "a\0b:1", f"{'a' * 64}.b:1", "\udcff:1", "xds:///localhost:1"),
    ],
)
def test_target_that_nothing_listens_at_is_none(target: str) -> None:
    assert not speaks_tls(target)
