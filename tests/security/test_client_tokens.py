"""What a client does with its token: sends it, keeps it to itself, takes up a new one."""

from __future__ import annotations

import pickle
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import replayring
from replayring_server.security.tokens import Tokens
from tests.certificates import READ, UNKNOWN, WRITE, Authority, replace, token_file
from tests.support import LocalServer, ServerProcess, eventually

SPEC = {"x": {"shape": (), "dtype": "float32"}}
EPISODE = {"x": [1, 2, 3]}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that wants a token."""
    folder = tmp_path_factory.mktemp("tokens")
    with LocalServer(folder / "data", tokens=Tokens(token_file(folder / "tokens"))) as server:
        yield server.address


class TestSending:
    def test_token(self, address: str) -> None:
        with replayring.connect(address, token=WRITE) as client:
            client.create_buffer("sent", SPEC, 10).add_episode(EPISODE)
            assert client.buffer("sent").sample(2)["x"].shape == (2,)

    def test_token_file_is_read_for_every_call(self, address: str, tmp_path: Path) -> None:
        path = tmp_path / "token"
        replace(path, f"{READ}\n")
        with replayring.connect(address, token_file=path) as client:
            client.buffers()
            replace(path, UNKNOWN)
            with pytest.raises(replayring.UnauthenticatedError):
                client.buffers()
            replace(path, WRITE)
            client.publish("p", {})
            path.unlink()
            with pytest.raises(replayring.StorageError, match="cannot read"):
                client.buffers()
            replace(path, "short")
            with pytest.raises(replayring.StorageError, match="has 5 characters"):
                client.buffers()

    def test_environment(
        self, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REPLAYRING_TOKEN", READ)
        with replayring.connect(address) as client:
            client.buffers()
        with (
            replayring.connect(address, token=UNKNOWN) as client,
            pytest.raises(replayring.UnauthenticatedError),
        ):
            client.buffers()
        monkeypatch.setenv("REPLAYRING_TOKEN", "")
        replace(tmp_path / "token", READ)
        monkeypatch.setenv("REPLAYRING_TOKEN_FILE", str(tmp_path / "token"))
        with replayring.connect(address) as client:
            client.buffers()


class TestRefusals:
    def test_errors_say_what_to_do(self, address: str) -> None:
        with (
            replayring.connect(address) as client,
            pytest.raises(replayring.UnauthenticatedError, match=r"connect\(..., token="),
        ):
            client.buffers()
        with replayring.connect(address, token=READ) as client:
            with pytest.raises(PermissionError, match="scope write, received one of scope read"):
                client.create_buffer("b", SPEC, 10)
            with pytest.raises(replayring.AccessDeniedError):
                client.publish("p", {})

    def test_token_and_token_file(self) -> None:
        with pytest.raises(replayring.InvalidRequestError, match="give one of them"):
            replayring.connect("127.0.0.1:1", token=READ, token_file="/x")

    @pytest.mark.parametrize("token", ["", "short", UNKNOWN + " ", f"{UNKNOWN}\n", UNKNOWN + "é"])
    def test_what_is_no_token(self, token: str) -> None:
        with pytest.raises(replayring.InvalidRequestError) as caught:
            replayring.connect("127.0.0.1:1", token=token)
        assert "openssl rand" in str(caught.value)
        assert not token or token not in str(caught.value)

    def test_token_stays_on_this_machine_when_a_name_is_looked_up(self) -> None:
        with pytest.raises(replayring.InvalidRequestError, match="in the clear") as caught:
            replayring.connect("dns:///10.0.0.1:50051", token=READ)
        assert READ not in str(caught.value)

    @pytest.mark.parametrize("remote", ["10.0.0.1:50051", "replay.example:50051", "0.0.0.0:1"])
    def test_token_stays_on_this_machine_unless_it_is_encrypted(
        self, remote: str, authority: Authority
    ) -> None:
        with pytest.raises(replayring.InvalidRequestError) as caught:
            replayring.connect(remote, token=READ)
        text = str(caught.value)
        assert f"to {remote} in the clear" in text
        assert "tls=True" in text
        assert "insecure=True" in text
        assert READ not in text
        replayring.connect(remote, token=READ, insecure=True).close()
        replayring.connect(remote, token=READ, tls=authority.tls()).close()
        replayring.connect(remote).close()

    def test_token_of_the_environment_stays_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REPLAYRING_TOKEN", READ)
        with pytest.raises(replayring.InvalidRequestError, match="in the clear"):
            replayring.connect("10.0.0.1:50051")


class TestSecrecy:
    def test_no_repr_shows_it(self, address: str) -> None:
        with replayring.connect(address, token=READ) as client:
            for thing in (client, client._channel.credentials, vars(client._channel)):
                assert READ not in repr(thing)

    def test_pickled_client_carries_it(self, address: str, tmp_path: Path) -> None:
        """Workers of a DataLoader that are spawned get it that way."""
        replace(tmp_path / "token", READ)
        for client in (
            replayring.connect(address, token=READ),
            replayring.connect(address, token_file=tmp_path / "token"),
        ):
            pickled = pickle.dumps(client)
            assert (READ.encode() in pickled) == (client._channel.credentials.token is not None)
            with pickle.loads(pickled) as copy:
                copy.buffers()
            client.close()


def test_a_writer_that_may_only_read_says_so_at_its_next_step(
    address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, and keeps what it has: it may be let in."""
    with replayring.connect(address, token=WRITE) as client:
        client.create_buffer("denied", SPEC, 100)
    own = tmp_path / "own"
    replace(own, READ)
    with replayring.connect(address, token_file=own, timeout=60) as client:
        writer = client.buffer("denied").writer()
        writer.add_episode(EPISODE)
        eventually(lambda: "keeps trying" in caplog.text, "it is denied")
        with pytest.raises(replayring.AccessDeniedError, match=r"scope read.* sequence 1 waits"):
            writer.append({"x": 1})
        writer.append({"x": 2})
        replace(own, WRITE)
        writer.end_episode()
        writer.close()
        assert writer.acknowledged == 2
        assert client.buffer("denied").info().num_frames == 4


class TestLockedOut:
    @pytest.fixture
    def server(self, tmp_path: Path) -> Iterator[ServerProcess]:
        path = token_file(tmp_path / "tokens")
        with ServerProcess(tmp_path / "data", "--token-file", str(path)) as server:
            yield server

    @staticmethod
    def rotate(server: ServerProcess, tmp_path: Path, token: str) -> None:
        """Makes `token` the only one that the server knows."""
        before = server.log_text().count("tokens to read")
        token_file(tmp_path / "tokens", f"write {token}")
        server.signal(signal.SIGHUP)
        eventually(lambda: server.log_text().count("tokens to read") > before, "they are read")

    def test_writer_keeps_its_episodes_until_it_is_let_in_again(
        self, server: ServerProcess, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        own = tmp_path / "own"
        replace(own, WRITE)
        with replayring.connect(server.address, token_file=own, timeout=60) as client:
            buffer = client.create_buffer("b", SPEC, 100)
            with buffer.writer() as writer:
                writer.add_episode(EPISODE)
                writer.flush()
                self.rotate(server, tmp_path, UNKNOWN)
                for _ in range(3):
                    writer.add_episode(EPISODE)
                eventually(lambda: "keeps trying" in caplog.text, "the writer says so")
                with pytest.raises(replayring.UnauthenticatedError, match="does not know"):
                    writer.flush(timeout=0.5)
                own.unlink()
                eventually(lambda: "cannot read" in caplog.text, "the writer says so")
                replace(own, UNKNOWN)
                writer.flush()
                assert writer.acknowledged == 4
            assert buffer.info().num_episodes == 4

    def test_stream_ends(self, server: ServerProcess, tmp_path: Path) -> None:
        with replayring.connect(server.address, token=WRITE, timeout=1000) as client:
            buffer = client.create_buffer("b", SPEC, 100)
            buffer.add_episode(EPISODE)
            with buffer.sample_stream(2, in_flight=1) as stream:
                next(stream)
                self.rotate(server, tmp_path, UNKNOWN)
                with pytest.raises(replayring.UnauthenticatedError):
                    for _ in stream:
                        pass
