"""`replayring certs`: what it makes works, and nothing that is there is ever changed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

import replayring
from replayring_proto.errors import InvalidRequestError, StorageError
from replayring_server.security import development
from replayring_server.security.development import DEFAULT_HOSTS, hosts_of, make_folders
from tests.support import ServerProcess, command

SPEC = {"x": {"shape": (), "dtype": "uint8"}}


def make(folder: Path, *hosts: str, renew: bool = False) -> list[Path]:
    return make_folders(folder, (*DEFAULT_HOSTS, *hosts), days=30, renew=renew).made


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def tls(folder: Path, *, own: bool = False) -> replayring.TLS:
    if not own:
        return replayring.TLS(ca=folder / "ca.pem")
    return replayring.TLS(
        ca=folder / "ca.pem", cert=folder / "client.pem", key=folder / "client.key"
    )


def flags(folder: Path) -> list[str]:
    pair = ["--tls-cert", str(folder / "server.pem"), "--tls-key", str(folder / "server.key")]
    return [*pair, "--token-file", str(folder / "tokens")]


def test_each_folder_opens_what_it_should(tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    done = command("certs", str(certs))
    assert done.returncode == 0, done.stderr
    client, reader = certs / "client", certs / "reader"
    with ServerProcess(tmp_path / "data", *flags(certs / "server")) as server:
        with replayring.connect(
            server.address, tls=tls(client), token_file=client / "token"
        ) as writing:
            writing.create_buffer("online", SPEC, 10)
        with replayring.connect(
            server.address, tls=tls(reader), token_file=reader / "token"
        ) as reading:
            assert [info.name for info in reading.buffers()] == ["online"]
            with pytest.raises(replayring.AccessDeniedError):
                reading.delete_buffer("online")


def test_certificates_of_clients_are_taken(tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    make(certs)
    mutual = ["--tls-client-ca", str(certs / "server" / "ca.pem")]
    client = certs / "client"
    with ServerProcess(tmp_path / "data", *flags(certs / "server"), *mutual) as server:
        token = client / "token"
        with replayring.connect(
            server.address, tls=tls(client, own=True), token_file=token
        ) as known:
            assert known.buffers() == []
        with (
            replayring.connect(
                server.address, tls=tls(client), token_file=token, timeout=3
            ) as unknown,
            pytest.raises(ConnectionError),
        ):
            unknown.buffers()


def test_a_client_cannot_pass_for_a_server(tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    make(certs)
    pretended = certs / "client"
    pair = ["--tls-cert", str(pretended / "client.pem"), "--tls-key", str(pretended / "client.key")]
    tokens = ["--token-file", str(certs / "server" / "tokens")]
    with (
        ServerProcess(tmp_path / "data", *pair, *tokens) as server,
        replayring.connect(
            server.address,
            # Even where somebody asks for it by the one name that it has.
            tls=replayring.TLS(ca=certs / "reader" / "ca.pem", server_name="replayring client"),
            token_file=certs / "reader" / "token",
            timeout=10,
        ) as client,
        pytest.raises(replayring.TLSError),
    ):
        client.buffers()


def test_only_the_owner_may_read_secrets_under_any_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = make(tmp_path / "certs")
    finally:
        os.umask(before)
    secret = [path for path in made if path.suffix == ".key" or "token" in path.name]
    assert len(secret) == 7
    for path in secret:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700, path


def test_again_it_changes_nothing(tmp_path: Path) -> None:
    make(tmp_path, "replay.example.org")
    before = contents(tmp_path)
    assert make(tmp_path, "replay.example.org") == []
    assert make(tmp_path) == []  # fewer hosts than it holds for already
    assert contents(tmp_path) == before


def test_other_hosts_are_refused_until_renewed(tmp_path: Path) -> None:
    make(tmp_path)
    before = contents(tmp_path)
    done = command("certs", str(tmp_path), "--host", "replay.example.org", "10.0.0.7")
    assert done.returncode == 1
    assert "does not hold for DNS:replay.example.org, IP:10.0.0.7; --renew" in done.stderr
    assert contents(tmp_path) == before

    make(tmp_path, "replay.example.org", renew=True)
    after = contents(tmp_path)
    changed = {path.name for path, content in after.items() if content != before[path]}
    assert changed == {"server.pem", "client.pem"}
    assert hosts_of(tmp_path) == sorted([*DEFAULT_HOSTS, "replay.example.org"])


def test_a_server_at_work_takes_up_what_was_renewed(tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    make(certs)
    client = certs / "client"
    with ServerProcess(tmp_path / "data", *flags(certs / "server")) as server:
        port = server.address.rpartition(":")[2]
        make(certs, "127.0.0.2", renew=True)
        trust = replayring.TLS(ca=client / "ca.pem", server_name="127.0.0.2")
        with replayring.connect(
            f"127.0.0.1:{port}", tls=trust, token_file=client / "token"
        ) as known:
            assert known.buffers() == []


@pytest.mark.parametrize("name", ["server/server.pem", "client/client.pem"])
def test_a_missing_certificate_is_issued_for_the_key_that_is_there(
    tmp_path: Path, name: str
) -> None:
    make(tmp_path)
    (tmp_path / name).unlink()
    assert make(tmp_path) == [tmp_path / name]


@pytest.mark.parametrize("name", ["server/ca.pem", "client/ca.pem", "client/token", "reader/token"])
def test_a_missing_copy_is_copied_again(tmp_path: Path, name: str) -> None:
    make(tmp_path)
    before = contents(tmp_path)
    (tmp_path / name).unlink()
    assert make(tmp_path) == [tmp_path / name]
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("server/server.key", "server.pem is there without its server.key"),
        ("client/client.key", "client.pem is there without its client.key"),
        ("server/tokens", "is none of the tokens to write"),
    ],
)
def test_what_no_longer_fits_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    make(tmp_path)
    (tmp_path / name).unlink()
    before = contents(tmp_path)
    with pytest.raises(StorageError, match=reason):
        make(tmp_path)
    assert before.items() <= contents(tmp_path).items()


def test_files_of_another_authority_are_refused(tmp_path: Path) -> None:
    make(tmp_path / "one")
    make(tmp_path / "two")
    for name in ("ca.pem", "ca.key"):
        os.replace(tmp_path / "two" / "authority" / name, tmp_path / "one" / "authority" / name)
    with pytest.raises(StorageError, match="is not valid with"):
        make(tmp_path / "one")


def test_without_its_key_an_authority_is_as_good_until_it_must_sign(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "authority" / "ca.key").unlink()
    assert make(tmp_path) == []
    with pytest.raises(StorageError, match=r"cannot be issued without .*ca\.key"):
        make(tmp_path, renew=True)


@pytest.mark.parametrize("host", ["", "a b", "a,DNS:b", "a\nb", "-a", "https://a", "10.0.0.1/24"])
def test_hosts_that_are_none_are_refused_before_anything_is_made(tmp_path: Path, host: str) -> None:
    with pytest.raises(InvalidRequestError, match="is neither an IP address nor a host's name"):
        make(tmp_path / "certs", host)
    assert not (tmp_path / "certs").exists()


@pytest.mark.parametrize("days", ["0", "-1", "3651", "3650000"])
def test_days_that_cannot_be_are_refused_before_anything_is_made(tmp_path: Path, days: str) -> None:
    done = command("certs", str(tmp_path / "certs"), "--days", days)
    assert done.returncode == 1
    assert f"certificates for {int(days):,} days: they hold from 1 to 3,650" in done.stderr
    assert not (tmp_path / "certs").exists()


def test_every_kind_of_host(tmp_path: Path) -> None:
    make(tmp_path, "*.replay.example.org", "Replay_1", "fd00::0001", "10.1.2.3")
    assert set(hosts_of(tmp_path)) == {
        *DEFAULT_HOSTS,
        *("*.replay.example.org", "replay_1", "fd00::1", "10.1.2.3"),
    }


def test_what_appears_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, key = development._openssl, tmp_path / "authority" / "ca.key"

    def overtaken(*arguments: str | int | Path, standard_input: bytes = b"") -> bytes:
        if arguments[0] == "genpkey":
            key.parent.mkdir(exist_ok=True)
            key.write_text("another's")
        return real(*arguments, standard_input=standard_input)

    monkeypatch.setattr(development, "_openssl", overtaken)
    with pytest.raises(FileExistsError):
        make(tmp_path)
    assert [path.read_text() for path in key.parent.iterdir()] == ["another's"]


def test_without_openssl_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StorageError, match="install openssl"):
        make(tmp_path / "certs")
