"""Nobody opens a server to a network by accident."""

from __future__ import annotations

from pathlib import Path

import pytest

import replayring
from replayring_proto.errors import InvalidRequestError
from replayring_server.security.exposure import check_exposure, missing
from tests.certificates import WRITE, Authority, Pair, token_file
from tests.support import ServerProcess, refusal_of

TLS_FLAGS = "--tls-cert FILE --tls-key FILE"
TOKEN_FLAGS = "--token-file FILE (or --tls-client-ca FILE)"


@pytest.mark.parametrize(
    ("encrypted", "authenticated", "lack", "remedy"),
    [
        (False, False, "no encryption and no check of who", f"{TLS_FLAGS} and {TOKEN_FLAGS};"),
        (True, False, "has no check of who calls:", f"add {TOKEN_FLAGS};"),
        (False, True, "has no encryption:", f"add {TLS_FLAGS};"),
    ],
)
@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.0.2.1", "robot-7"])
def test_what_is_missing_is_named_with_its_remedies(
    host: str, encrypted: bool, authenticated: bool, lack: str, remedy: str
) -> None:
    lacking = missing(encrypted=encrypted, authenticated=authenticated)
    with pytest.raises(InvalidRequestError) as caught:
        check_exposure(f"{host}:50051", host, lacking)
    text = str(caught.value)
    assert text.startswith(f"{host}:50051 can be reached from other machines")
    for words in (lack, remedy, "listen on 127.0.0.1", "--insecure"):
        assert words in text
    check_exposure("127.0.0.1:50051", "127.0.0.1", lacking)


def test_nothing_is_missing_with_both() -> None:
    assert missing(encrypted=True, authenticated=True) == []
    check_exposure("0.0.0.0:50051", "0.0.0.0", [])


def test_open_port_is_refused_before_anything_is_made(tmp_path: Path, pair: Pair) -> None:
    flags = ["--data-dir", str(tmp_path / "data"), "--listen", "0.0.0.0:0"]
    assert "no encryption and no check of who calls" in refusal_of(*flags)
    assert "no check of who calls" in refusal_of(*flags, *pair.flags)
    assert not (tmp_path / "data").exists()


def test_open_port_is_served_if_that_is_insisted_on(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data", "--insecure", listen="0.0.0.0:0") as server:
        with replayring.connect(server.address.replace("0.0.0.0", "127.0.0.1")) as client:
            assert client.buffers() == []
        said = "--insecure: there is no encryption and no check of who calls"
        assert said in server.log_text()


@pytest.mark.parametrize("mutual", [False, True], ids=["token", "client certificate"])
def test_open_port_with_tls_and_a_check_of_who_calls_is_served(
    tmp_path: Path, authority: Authority, pair: Pair, mutual: bool
) -> None:
    path = token_file(tmp_path / "tokens")
    check = ["--tls-client-ca", str(authority.cert)] if mutual else ["--token-file", str(path)]
    tls = authority.tls(authority.issue("DNS:robot-7") if mutual else None)
    with ServerProcess(tmp_path / "data", *pair.flags, *check, listen="0.0.0.0:0") as server:
        address = server.address.replace("0.0.0.0", "127.0.0.1")
        with replayring.connect(address, tls=tls, token=None if mutual else WRITE) as client:
            assert client.buffers() == []
        assert "--insecure" not in server.log_text()
