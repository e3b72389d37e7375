"""The server dies, is stopped, or freezes, and comes back: clients carry on by themselves."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import replayring
from tests.client.conftest import SPEC
from tests.support import ServerProcess, eventually

pytestmark = pytest.mark.usefixtures("no_threads_left")

EPISODE = {"state": np.zeros((50, 2)), "reward": np.zeros(50)}


class Mortal:
    """A server that can be brought down and up again at one address."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._server = ServerProcess(data_dir)
        self.address = self._server.address

    def down(self, how: str) -> None:
        self._server.kill() if how == "kill" else self._server.stop()
        self._server.close()

    def up(self) -> None:
        self._server = ServerProcess(self._data_dir, "--grace", "0.2", listen=self.address)

    def signal(self, number: int) -> None:
        self._server.signal(number)

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Mortal]:
    server = Mortal(tmp_path / "data")
    yield server
    server.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["kill", "stop"])
def test_everything_goes_on_and_nothing_is_lost(how: str, mortal: Mortal) -> None:
    client = replayring.connect(mortal.address, timeout=100)
    buffer = client.create_buffer("b", SPEC, 100_000, fps=10)
    buffer.add_episode(EPISODE)
    client.publish("p", {"w": [0]})
    counts = {"batches": 0, "written": 0, "added": 0, "versions": 0, "calls": 0}
    errors: list[str] = []
    stop = threading.Event()

    def stream() -> None:
        with buffer.sample_stream(8) as batches:
            while not stop.is_set():
                next(batches)
                counts["batches"] += 1

    def write() -> None:
        with buffer.writer(max_in_flight_bytes=1 << 16) as writer:
            while not stop.is_set():
                writer.add_episode(EPISODE)
                counts["written"] += 1
            writer.flush()
            assert writer.acknowledged == counts["written"]

    def add() -> None:
        while not stop.is_set():
            counts["added"] += len(buffer.add_episodes([EPISODE] * 3))

    def watch() -> None:
        newest = 0
        for version, _ in client.watch("p"):
            assert version > newest
            newest = version
            counts["versions"] += 1
            if stop.is_set():
                return

    def call() -> None:
        while not stop.is_set():
            client.publish("p", {"w": [0]})
            buffer.get([0])
            counts["calls"] += 1

    def guarded(use: Callable[[], None]) -> None:
        try:
            use()
        except BaseException as error:
            errors.append(f"{use.__name__}: {error!r}")

    threads = [
        threading.Thread(target=guarded, args=(use,)) for use in (stream, write, add, watch, call)
    ]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            before = dict(counts)
            eventually(
                lambda: errors or all(counts[key] > before[key] + 2 for key in counts),  # noqa: B023
                "all carry on",
                patience=100,
            )
            mortal.down(how)
            mortal.up()
    finally:
        stop.set()
        client.publish("p", {"w": [0]})
        for thread in threads:
            thread.join(100)
    assert errors == []
    assert buffer.info().next_episode_index == 1 + counts["written"] + counts["added"]
    client.close()


def test_a_writer_outlives_an_outage_that_calls_do_not(mortal: Mortal) -> None:
    with replayring.connect(mortal.address, timeout=0.5) as client:
        buffer = client.create_buffer("b", SPEC, 1000, timeout=30)
        with buffer.writer() as writer:
            mortal.down("kill")
            for _ in range(5):
                writer.add_episode(EPISODE)
            with pytest.raises(replayring.ServerUnavailableError, match=mortal.address):
                buffer.info()
            mortal.up()
            writer.flush(timeout=60)
            assert writer.acknowledged == 5
        assert buffer.info(timeout=30).num_episodes == 5


@pytest.mark.parametrize("restarted", [False, True])
def test_a_retry_is_recognised_long_after_its_frames_are_gone(
    restarted: bool, mortal: Mortal
) -> None:
    with replayring.connect(mortal.address) as client:
        buffer = client.create_buffer("b", SPEC, 100)
        with buffer.writer(writer_id="me") as writer:
            assert writer.add_episode(EPISODE) == 1
        buffer.add_episodes([EPISODE] * 10)
        assert buffer.info().oldest_index > 50
        if restarted:
            mortal.down("kill")
            mortal.up()
        with buffer.writer(writer_id="me") as writer:
            writer.add_episode(EPISODE)
            writer.flush()
            acknowledgement = writer.last_acknowledgement
        assert acknowledgement == replayring.Acknowledgement(1, 0, 0, 50, True)
        other = {**EPISODE, "reward": np.ones(50)}
        with (
            pytest.raises(replayring.SequenceReusedError, match="used sequence 1 before"),
            buffer.writer(writer_id="me") as writer,
        ):
            writer.add_episode(other)
        assert buffer.info().next_episode_index == 11


def test_a_server_that_has_no_call_left_is_waited_for(tmp_path: Path) -> None:
    with (
        ServerProcess(tmp_path / "data", "--limit", "max_calls=3") as server,
        replayring.connect(server.address, same_host=False) as client,
        replayring.connect(server.address, same_host=False) as others,
    ):
        buffer = client.create_buffer("b", SPEC, 1000)
        buffer.add_episode(EPISODE)
        busy = [others.buffer("b").sample_stream(4) for _ in range(3)]
        for stream in busy:
            next(stream)
        writer = buffer.writer()
        writer.add_episode(EPISODE)
        with buffer.sample_stream(4) as stream:
            with pytest.raises(replayring.ServerUnavailableError, match="in flight: received"):
                client.buffers(timeout=0.5)
            assert writer.pending == [1]
            for one in busy:
                one.close()
            next(stream)
            writer.close()
        assert buffer.info().num_episodes == 2


def test_a_frozen_server_is_unavailable(mortal: Mortal) -> None:
    with replayring.connect(mortal.address, timeout=30) as client:
        buffer = client.create_buffer("b", SPEC, 1000)
        buffer.add_episode(EPISODE)
        mortal.signal(signal.SIGSTOP)
        try:
            with pytest.raises(replayring.ServerUnavailableError, match=mortal.address):
                buffer.sample(4, timeout=0.5)
        finally:
            mortal.signal(signal.SIGCONT)
        assert buffer.sample(4)["index"].shape == (4,)


@pytest.mark.timeout(200)
def test_five_seconds_of_a_frozen_server_are_nobodys_error(mortal: Mortal) -> None:
    """As the default settings have it; the client gives its connections up after four."""
    client = replayring.connect(mortal.address)
    buffer = client.create_buffer("b", SPEC, 100_000, fps=10)
    buffer.add_episode(EPISODE)
    client.publish("p", {"w": [0]})
    done: dict[str, float] = {}
    errors: list[str] = []
    stop = threading.Event()
    versions = client.watch("p")

    with (
        buffer.writer(max_in_flight_bytes=1) as writer,
        buffer.sample_stream(8) as stream,
        replayring.BatchDataset(buffer, 8) as dataset,
    ):
        batches, items = iter(dataset), replayring.RemoteDataset(buffer)
        uses: dict[str, Callable[[], object]] = {
            "writer": lambda: writer.add_episode(EPISODE),
            "stream": lambda: next(stream),
            "dataset": lambda: next(batches),
            "items": lambda: items[0],
            "watch": lambda: (client.publish("p", {"w": [0]}), next(versions)),
            "add": lambda: buffer.add_episode(EPISODE),
        }

        def repeat(name: str) -> None:
            try:
                while not stop.is_set():
                    uses[name]()
                    done[name] = time.monotonic()
            except BaseException as error:
                errors.append(f"{name}: {error!r}")

        threads = [threading.Thread(target=repeat, args=(name,)) for name in uses]
        for thread in threads:
            thread.start()
        try:
            eventually(lambda: errors or len(done) == len(uses), "all have begun")
            mortal.signal(signal.SIGSTOP)
            time.sleep(5)  # the time is what is tested
            mortal.signal(signal.SIGCONT)
            thawed = time.monotonic()
            eventually(lambda: errors or all(at > thawed for at in done.values()), "all carry on")
        finally:
            mortal.signal(signal.SIGCONT)
            stop.set()
            for thread in threads:
                thread.join(60)
        assert errors == []
        writer.flush()
        assert writer.pending == []
    columns = buffer.read_columns(["frame_index"])
    assert len(columns["frame_index"]) == 50 * buffer.info().num_episodes
    client.close()
