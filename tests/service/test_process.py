"""`replayring serve` as a process: it says where it listens, and ends cleanly."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from replayring_proto.v1 import replay_pb2
from replayring_server.configuration.address import Address
from replayring_server.engine import Store, files
from tests.service.frames import SPEC, episode
from tests.support import PATIENCE, LocalServer, ServerProcess, command, refusal_of
from tests.wire import (
    NOT_SERVING,
    SERVING,
    Refused,
    Stream,
    Wire,
    acknowledgements,
    episode_messages,
    spec_message,
    start_message,
)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "data") as server:
        yield server


def watch_health(wire: Wire) -> Stream:
    stream = wire.stream("/grpc.health.v1.Health/Watch", timeout=PATIENCE)
    stream.send(health_pb2.HealthCheckRequest(service=""))
    stream.done_sending()
    return stream


def status(stream: Stream) -> int:
    return health_pb2.HealthCheckResponse.FromString(stream.receive()).status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_lets_work_in_flight_finish_and_ends_cleanly(
    own_server: ServerProcess, number: signal.Signals
) -> None:
    with Wire(own_server.address) as wire:
        wire.create("b", SPEC)
        health = watch_health(wire)
        assert status(health) == SERVING
        call = wire.stream("AddEpisodes")
        first, *rest = episode_messages(1, episode(4), chunk=20)
        call.send(start_message("b"), first)
        with Wire(own_server.address) as other:  # the server has come to the first message
            other.add("b", episode(1, 50), writer_id="other")
        own_server.signal(number)
        assert status(health) == NOT_SERVING
        call.send(*rest)
        (acknowledged,) = acknowledgements(call.receive())
        assert (acknowledged.index, acknowledged.num_frames) == (1, 4)
        call.done_sending()
    assert own_server.wait() == 0
    assert "Traceback" not in own_server.log_text()
    with Store(own_server.data_dir) as store:  # its lock is released
        assert store.get("b").info().next_index == 5


def test_signal_ends_waiting_calls_at_once(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data", "--grace", "300") as server, Wire(server.address) as wire:
        wire.create("b", SPEC)
        actor, learner = wire.stream("AddEpisodes"), wire.stream("SampleBatch")
        actor.send(start_message("b"), *episode_messages(1, episode(1)))
        actor.receive()
        spec = replay_pb2.SampleSpec(buffer="b", batch_size=2, min_frames=10)
        learner.send(replay_pb2.SampleBatchRequest(spec=spec))
        follower = wire.stream("WatchParameters")
        follower.send(replay_pb2.WatchParametersRequest(name="policy", follow=True))
        follower.done_sending()
        wire.publish("policy", {"w": np.ones(2)})
        follower.receive()
        server.signal(signal.SIGTERM)
        for call in (actor, learner, follower):
            with pytest.raises(Refused) as ended:
                call.receive()
            assert ended.value.code == "UNAVAILABLE"
        with pytest.raises(Refused) as late:
            wire.info("b")
        assert late.value.code == "UNAVAILABLE"
        assert server.wait() == 0
        assert "Traceback" not in server.log_text()


def test_call_that_outlasts_the_grace_is_cut(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data", "--grace", "0.2") as server, Wire(server.address) as wire:
        wire.create("b", SPEC)
        call = wire.stream("AddEpisodes")
        call.send(start_message("b"), episode_messages(1, episode(4), chunk=20)[0])
        wire.add("b", episode(1), writer_id="other")
        assert server.stop() == 0
        with pytest.raises(Refused) as ended:
            call.receive()
        assert ended.value.code == "UNAVAILABLE"
        assert "Traceback" not in server.log_text()
    with Store(tmp_path / "data") as store:
        assert store.get("b").info().next_index == 1


def test_stopping_writes_every_file_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = files.sync_mapped

    def sync(mapped: files.Bytes, path: Path) -> None:
        synced.append(path.name)
        real(mapped, path)

    with LocalServer(tmp_path / "data") as server, Wire(server.address) as wire:
        wire.create("b", SPEC)
        wire.add("b", episode(3))
        folder = Path(wire.info("b").path)
        monkeypatch.setattr(files, "sync_mapped", sync)
    columns = {path.name for path in (folder / "columns").iterdir()}
    assert columns | {"cursor", "episodes", "writers"} <= set(synced)
    assert synced[-1] == "cursor"


def test_second_server_on_a_directory_names_the_holder(own_server: ServerProcess) -> None:
    line = refusal_of("--data-dir", str(own_server.data_dir), "--listen", "127.0.0.1:0")
    assert f"pid {own_server.pid}" in line
    assert own_server.address in line
    assert "another data directory" in line
    with Wire(own_server.address) as wire:
        assert wire.health() == SERVING


def test_second_server_on_a_port_leaves_the_first_alone(
    own_server: ServerProcess, tmp_path: Path
) -> None:
    line = refusal_of("--data-dir", str(tmp_path / "other"), "--listen", own_server.address)
    assert f"cannot listen on {own_server.address}" in line
    with Wire(own_server.address) as wire:
        assert wire.health() == SERVING


def test_port_is_not_shared_even_with_those_who_would(own_server: ServerProcess) -> None:
    host, port = own_server.address.split(":")
    with socket.socket() as rival:
        rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with pytest.raises(OSError, match="in use"):
            rival.bind((host, int(port)))


def test_directory_of_a_killed_server_is_free_at_once(own_server: ServerProcess) -> None:
    own_server.kill()
    with ServerProcess(own_server.data_dir) as again, Wire(again.address) as wire:
        assert wire.health() == SERVING


def test_bad_listen_address_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    line = refusal_of("--data-dir", str(tmp_path / "data"), "--listen", "127.0.0.1")
    assert "'127.0.0.1' is not HOST:PORT" in line
    assert "for example 127.0.0.1:50051" in line
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "address",
    ["", "50051", "host", "host:", "host:x", "host:-1", "host:65536", ":50051", "host:²", "::1:0"],
)
def test_address_that_is_not_host_and_port_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{address!r} is not HOST:PORT")):
        Address.parse(address)


def test_address_of_another_machine_is_refused(tmp_path: Path) -> None:
    address = ["--listen", "192.0.2.1:0", "--insecure"]
    line = refusal_of("--data-dir", str(tmp_path / "data"), *address)
    assert "cannot listen on 192.0.2.1:0" in line


def test_data_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    assert str(path) in refusal_of("--data-dir", str(path), "--listen", "127.0.0.1:0")
    assert path.read_text() == "mine"


def test_data_directory_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    path = tmp_path / "file" / "data"
    assert str(path) in refusal_of("--data-dir", str(path), "--listen", "127.0.0.1:0")


def test_data_directory_that_takes_no_files_is_refused() -> None:
    # Whoever runs the tests may be root, whom a mode does not stop; this stops everybody.
    assert "/proc" in refusal_of("--data-dir", "/proc", "--listen", "127.0.0.1:0")


def test_machine_that_does_not_keep_stores_in_order_is_refused(tmp_path: Path) -> None:
    other = ["setarch", "i686", sys.executable, "-m", "replayring_server", "serve"]
    where = ["--data-dir", str(tmp_path / "data"), "--listen", "127.0.0.1:0"]
    done = subprocess.run(
        [*other, *where], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 1
    assert "Linux on x86-64" in done.stderr
    assert "this is Linux on i686" in done.stderr
    assert "--platform linux/amd64" in done.stderr
    assert not (tmp_path / "data").exists()


def test_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    path, victim = tmp_path / "data", tmp_path / "victim"
    path.mkdir()
    victim.write_text("mine")
    (path / "lock").symlink_to(victim)
    assert "lock" in refusal_of("--data-dir", str(path), "--listen", "127.0.0.1:0")
    assert victim.read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], ["serve", "usage"]),
        (["serve", "--help"], ["--data-dir", "--listen", "127.0.0.1:50051", "--grace"]),
        (["--version"], ["replayring 0."]),
    ],
)
def test_help_says_what_there_is(arguments: list[str], words: list[str]) -> None:
    done = command(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    for word in words:
        assert word in done.stdout


@pytest.mark.parametrize("arguments", [["nope"], ["serve", "--nope"]])
def test_wrong_command_line_is_a_usage_error(arguments: list[str]) -> None:
    done = command(*arguments)
    assert done.returncode == 2
    assert "usage" in done.stderr


def test_server_that_is_not_told_where_to_keep_its_buffers_asks_for_it() -> None:
    assert "data_dir is not set; give --data-dir DIR" in refusal_of("--listen", "127.0.0.1:0")


def test_ipv6_is_served(tmp_path: Path) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    with (
        ServerProcess(tmp_path / "data", listen="[::1]:0") as server,
        Wire(server.address) as wire,
    ):
        assert server.address.startswith("[::1]:")
        assert wire.health() == SERVING


def test_more_mapped_files_than_the_usual_limit_of_descriptors(tmp_path: Path) -> None:
    soft, hard = 100, 2000
    prefix = ["prlimit", f"--nofile={soft}:{hard}"]
    with (
        ServerProcess(tmp_path / "data", prefix=prefix) as server,
        Wire(server.address) as wire,
    ):
        for number in range(10):
            wire.create(f"b{number}", spec_message({f"c{n}": ("bool", (300,)) for n in range(20)}))
        assert server.stats.num_fds() > soft
        with Wire(server.address) as other:
            assert other.health() == SERVING
