"""Real handshakes: who is let in, who is not, and what either side is told to do about it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import replayring
from replayring import TLS
from replayring_proto.errors import InvalidRequestError, StorageError
from replayring_server.security.certificates import Certificates, certificates_from
from tests.certificates import Authority, Pair, openssl, replace
from tests.support import LocalServer, ServerProcess, command, eventually, refusal_of

FOR_EVER = 1_000
"""Seconds of patience that no test has: an error that comes sooner came at once."""

Server = Callable[..., LocalServer]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Server]:
    """Starts a server in this process with a certificate, and perhaps a client's authority."""
    started: list[LocalServer] = []

    def start(pair: Pair | None, clients: Authority | None = None) -> LocalServer:
        certificates = None
        if pair is not None:
            client_ca = str(clients.cert) if clients else None
            certificates = Certificates(str(pair.cert), str(pair.key), client_ca)
        server = LocalServer(tmp_path / f"data{len(started)}", certificates=certificates)
        started.append(server)
        return server

    yield start
    for server in started:
        server.close()


@contextmanager
def refused(kind: type[Exception], *words: str) -> Iterator[pytest.ExceptionInfo[Exception]]:
    with pytest.raises(kind) as caught:
        yield caught
    for word in words:
        assert word in str(caught.value)


def ask(address: str, tls: bool | TLS, timeout: float = FOR_EVER) -> None:
    with replayring.connect(address, tls=tls, timeout=timeout) as client:
        assert client.buffers() == []


def hint_for(address: str, tls: bool | TLS) -> str:
    """What a call that runs out of patience says after gRPC's own words, once it has any."""

    def hint() -> str:
        # Half a second may pass on a busy machine without the server having hung up.
        with refused(replayring.ServerUnavailableError, address) as caught:
            ask(address, tls, timeout=0.5)
        return str(caught.value).partition("; if the server ")[2]

    return eventually(hint, "the error says more than gRPC does")


class TestServerCertificate:
    def test_of_a_trusted_authority_is_taken(
        self, serve: Server, authority: Authority, pair: Pair
    ) -> None:
        address = serve(pair).address
        ask(address, authority.tls())
        ask(address.replace("127.0.0.1", "localhost"), authority.tls())

    def test_of_another_authority_is_not(
        self, serve: Server, stranger: Authority, pair: Pair
    ) -> None:
        address = serve(pair).address
        for tls in (stranger.tls(), True):
            with refused(replayring.TLSError, address, "of no authority", "tls=TLS(ca=...)"):
                ask(address, tls)

    def test_that_has_expired_is_not(self, serve: Server, authority: Authority) -> None:
        address = serve(authority.issue(expired=True)).address
        with refused(replayring.TLSError, address, "has expired", "renewed"):
            ask(address, authority.tls())

    def test_for_another_name_is_not_unless_that_name_is_expected(
        self, serve: Server, authority: Authority
    ) -> None:
        address = serve(authority.issue("DNS:replay.example")).address
        with refused(replayring.TLSError, address, "another name", "TLS(server_name=...)"):
            ask(address, authority.tls())
        ask(address, authority.tls(server_name="replay.example"))

    def test_that_was_renewed_is_taken_up_by_new_connections(
        self, tmp_path: Path, authority: Authority
    ) -> None:
        pair, expired, renewed = authority.issue(), authority.issue(expired=True), authority.issue()
        first_cert = pair.cert.read_text()
        with ServerProcess(tmp_path / "data", *pair.flags) as server:
            ask(server.address, authority.tls())

            replace(pair.cert, expired.cert.read_text())  # half of it: the key is the old one
            ask(server.address, authority.tls())
            assert "the certificate in use stays" in server.log_text()
            assert "key values mismatch" in server.log_text()

            replace(pair.key, expired.key.read_text())
            with refused(replayring.TLSError, "has expired"):
                ask(server.address, authority.tls())

            pair.replace_with(renewed)
            ask(server.address, authority.tls())
            assert server.log_text().count("took up the renewed certificate") == 2
            assert pair.cert.read_text() != first_cert


class TestTheOtherKind:
    def test_server_without_tls_is_called_so(self, serve: Server, authority: Authority) -> None:
        address = serve(None).address
        with refused(replayring.TLSError, address, "does not speak TLS", "--tls-cert"):
            ask(address, authority.tls())

    def test_last_attempt_may_be_too_short_to_find_out(self, serve: Server, pair: Pair) -> None:
        with replayring.connect(serve(pair).address) as client:
            patience = client._caller.patience("waiting", 1)
            for last in (None, replayring.DeadlineError("too short")):
                error = client._caller.overdue(patience, last)
                assert isinstance(error, replayring.TLSError), error
        with replayring.connect(serve(pair).address, tls=True) as client:
            error = client._caller.overdue(patience, None)
            assert isinstance(error, replayring.TLSError), error

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "dns:///localhost"])
    @pytest.mark.parametrize("mutual", [False, True])
    def test_client_without_tls_is_told_of_it_at_once(
        self, serve: Server, authority: Authority, pair: Pair, host: str, mutual: bool
    ) -> None:
        """Also where the name's last address is one that refuses, as ::1 does here."""
        address = serve(pair, authority if mutual else None).address
        port = address.rpartition(":")[2]
        with refused(replayring.TLSError, f":{port} speaks TLS", "tls=True", "tls=TLS(ca=...)"):
            ask(f"{host}:{port}", False)

    def test_handshakes_that_fail_fill_no_log(self, tmp_path: Path, pair: Pair) -> None:
        """Nor break one of JSON: gRPC's core would have its own line for each."""
        flags = ("--tls-cert", str(pair.cert), "--tls-key", str(pair.key), "--log-format", "json")
        with ServerProcess(tmp_path / "data", *flags) as server:
            with refused(replayring.TLSError):
                ask(server.address, False)
            assert all(json.loads(line) for line in server.log_text().splitlines())


class TestClientCertificate:
    def test_of_a_trusted_authority_is_taken(
        self, serve: Server, authority: Authority, pair: Pair
    ) -> None:
        address = serve(pair, authority).address
        ask(address, authority.tls(authority.issue("DNS:robot-7")))

    def test_that_is_missing_is_asked_for(
        self, serve: Server, authority: Authority, pair: Pair
    ) -> None:
        address = serve(pair, authority).address
        assert "wants a client's certificate" in hint_for(address, authority.tls())

    def test_of_another_authority_is_not(
        self, serve: Server, authority: Authority, stranger: Authority, pair: Pair
    ) -> None:
        address = serve(pair, authority).address
        tls = authority.tls(stranger.issue())
        assert "wants a client's certificate" in hint_for(address, tls)

    def test_that_was_renewed_is_taken_up_by_a_running_client(
        self, serve: Server, authority: Authority, stranger: Authority, pair: Pair
    ) -> None:
        server, own = serve(pair, authority), stranger.issue()
        with replayring.connect(server.address, tls=authority.tls(own), timeout=60) as client:
            with pytest.raises(replayring.ServerUnavailableError):
                client.buffers(timeout=0.5)
            own.replace_with(authority.issue())
            assert client.buffers() == []

    def test_authority_that_was_replaced_is_taken_up_by_a_running_client(
        self, serve: Server, tmp_path: Path, authority: Authority, stranger: Authority, pair: Pair
    ) -> None:
        trusted = tmp_path / "ca.pem"
        replace(trusted, stranger.cert.read_text())
        with replayring.connect(serve(pair).address, tls=TLS(ca=trusted), timeout=60) as client:
            with pytest.raises(replayring.TLSError):
                client.buffers()
            replace(trusted, authority.cert.read_text())
            assert client.buffers() == []


def test_a_stream_and_a_writer_work_over_tls(
    serve: Server, authority: Authority, pair: Pair
) -> None:
    address = serve(pair).address
    with replayring.connect(address, tls=authority.tls()) as client:
        buffer = client.create_buffer("b", {"x": {"shape": (), "dtype": "float32"}}, 100)
        with buffer.writer() as writer:
            writer.add_episode({"x": [1, 2, 3]})
        with buffer.sample_stream(2) as stream:
            assert next(stream)["x"].shape == (2,)


class TestFiles:
    def test_server_says_which_file_is_wrong_before_anything_is_made(
        self, tmp_path: Path, pair: Pair
    ) -> None:
        missing = tmp_path / "missing.pem"
        flags = ["--tls-cert", str(missing), "--tls-key", str(pair.key)]
        line = refusal_of("--data-dir", str(tmp_path / "data"), "--listen", "127.0.0.1:0", *flags)
        assert f"cannot read {missing}: No such file" in line
        assert not (tmp_path / "data").exists()

    @pytest.mark.parametrize("flags", [("cert",), ("key",), ("client_ca",), ("cert", "client_ca")])
    def test_server_wants_certificate_and_key(self, flags: tuple[str, ...]) -> None:
        given = dict.fromkeys(("cert", "key", "client_ca")) | dict.fromkeys(flags, "/x")
        words = " and ".join(f"--tls-{flag.replace('_', '-')}" for flag in flags)
        with refused(InvalidRequestError, "both --tls-cert and --tls-key", f"received {words}"):
            certificates_from(**given)

    def test_no_flags_mean_no_tls(self) -> None:
        assert certificates_from(None, None, None) is None

    def test_key_of_another_certificate_is_refused(self, authority: Authority, pair: Pair) -> None:
        other = authority.issue()
        with refused(StorageError, str(pair.cert), str(other.key), "mismatch"):
            Certificates(str(pair.cert), str(other.key))
        with refused(StorageError, str(pair.cert), str(other.key), "mismatch"):
            replayring.connect("127.0.0.1:1", tls=TLS(cert=pair.cert, key=other.key))

    def test_file_without_a_certificate_is_refused(self, tmp_path: Path, pair: Pair) -> None:
        empty = tmp_path / "empty.pem"
        empty.write_text("-----BEGIN NOTHING-----\n")
        with refused(StorageError, str(empty), "must be PEM files"):
            Certificates(str(empty), str(pair.key))
        with refused(StorageError, str(empty), "holds no certificates"):
            Certificates(str(pair.cert), str(pair.key), str(empty))
        with refused(StorageError, str(empty), "holds no certificates"):
            replayring.connect("127.0.0.1:1", tls=TLS(ca=empty))

    def test_key_with_a_passphrase_is_refused_and_never_asked_for(
        self, tmp_path: Path, pair: Pair
    ) -> None:
        locked = tmp_path / "locked.key"
        openssl("ec", "-in", pair.key, "-aes256", "-passout", "pass:secret", "-out", locked)
        with refused(StorageError, str(locked), "has a passphrase"):
            Certificates(str(pair.cert), str(locked))

    def test_file_that_is_missing_is_named_by_the_client(self, tmp_path: Path) -> None:
        with refused(StorageError, str(tmp_path / "ca.pem"), "No such file"):
            replayring.connect("127.0.0.1:1", tls=TLS(ca=tmp_path / "ca.pem"))

    @pytest.mark.parametrize("half", ["cert", "key"])
    def test_half_a_client_certificate_is_refused(self, half: str) -> None:
        with refused(replayring.InvalidRequestError, f"got {half} without", "takes both"):
            TLS(**{half: "/x"})


class TestHealth:
    def test_command_speaks_tls(self, tmp_path: Path, authority: Authority, pair: Pair) -> None:
        own = authority.issue("DNS:probe")
        client_ca = ["--tls-client-ca", str(authority.cert)]
        with ServerProcess(tmp_path / "data", *pair.flags, *client_ca) as server:
            ca = ["--tls-ca", str(authority.cert)]
            right = command("health", server.address, *ca, *own.flags)
            assert (right.returncode, right.stdout) == (0, f"{server.address}: SERVING\n")
            wrong = command("health", server.address, "--tls-ca", str(tmp_path / "none"))
            assert wrong.returncode == 1
            assert "cannot read" in wrong.stderr
            for flags, reason in (
                ([], "it speaks TLS: give --tls, or --tls-ca FILE"),
                (ca, "UNAVAILABLE: "),
                (
                    ["--tls"],
                    "give --tls-ca FILE, the certificate of the one that signed it (UNAVAILABLE:",
                ),
            ):
                refused = command("health", server.address, *flags)
                assert refused.returncode == 1
                assert reason in refused.stderr

    def test_health_with_tls_where_there_is_none_is_told_so(self, tmp_path: Path) -> None:
        with ServerProcess(tmp_path / "data") as server:
            done = command("health", server.address, "--tls")
        assert done.returncode == 1
        assert "it does not speak TLS: leave out --tls" in done.stderr

    def test_another_address_answers_health_without_tls_and_nothing_else(
        self, tmp_path: Path, authority: Authority, pair: Pair
    ) -> None:
        flags = [*pair.flags, "--tls-client-ca", str(authority.cert)]
        with ServerProcess(tmp_path / "data", *flags, "--health-listen", "127.0.0.1:0") as server:
            found = eventually(
                lambda: re.search(r"health on (127\.0\.0\.1:\d+)", server.log_text()), "it says so"
            )
            assert command("health", found[1]).stdout == f"{found[1]}: SERVING\n"
            with (
                replayring.connect(found[1]) as client,
                pytest.raises(replayring.ServerError, match="UNIMPLEMENTED"),
            ):
                client.buffers()

    def test_address_that_is_taken_is_refused(self, tmp_path: Path) -> None:
        with ServerProcess(tmp_path / "data") as server:
            flags = ["--listen", "127.0.0.1:0", "--health-listen", server.address]
            line = refusal_of("--data-dir", str(tmp_path / "other"), *flags)
            assert f"cannot listen on {server.address}" in line
