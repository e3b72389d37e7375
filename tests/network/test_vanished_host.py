"""A host that is gone without a word: its connections, calls and memory on the server go too."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replayring
from replayring._channel import Channel
from replayring_proto.framing import encode_pack
from replayring_proto.pack import Pack
from replayring_proto.v1 import replay_pb2
from tests.network.hosts import Hosts
from tests.support import eventually, read_line

EPISODE_BYTES = 100_000_000

# Half a minute, as the server has it, is long for a test.
_HASTY = """
import runpy, sys
import replayring_server.server as server
hasty = {"grpc.keepalive_time_ms": 2_000, "grpc.keepalive_timeout_ms": 1_000}
assert hasty.keys() <= {key for key, _ in server._OPTIONS}
server._OPTIONS[:] = [(key, hasty.get(key, value)) for key, value in server._OPTIONS]
sys.argv = sys.argv[3:]
runpy.run_module("replayring_server", run_name="__main__")
"""


@pytest.mark.timeout(240)
def test_leaves_nothing_behind(hosts: Hosts, tmp_path: Path) -> None:
    with hosts.serve(tmp_path / "data", prefix=[sys.executable, "-c", _HASTY]) as server:
        port = server.address.rpartition(":")[2]
        listed = [*hosts.on(hosts.server), "ss", "-Htn", "state", "established", f"sport = :{port}"]

        def connections() -> int:
            return len(subprocess.check_output(listed, text=True).splitlines())

        def memory() -> int:
            return int(server.stats.memory_info().rss)

        subprocess.run(hosts.client_command(prepare, server.address), check=True)
        eventually(lambda: connections() == 0, "the first client has left")
        threads, before = server.stats.num_threads(), memory()
        command = hosts.client_command(hold_on, server.address)
        with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
            assert client.stdout is not None
            try:
                assert read_line(client.stdout.fileno()) == "holding\n"
                assert connections() >= 3
                eventually(lambda: memory() > before + EPISODE_BYTES // 2, "it holds the episode")
                hosts.unplug()  # before the process ends, which would say goodbye
            finally:
                client.kill()
        subprocess.run(["ip", "netns", "del", hosts.client], check=True)
        eventually(lambda: connections() == 0, "the connections are given up")
        eventually(lambda: memory() < before + EPISODE_BYTES // 2, "the memory is given back")
        assert server.stats.num_threads() <= threads + 2, "threads of the pools, not of calls"
        assert "Traceback" not in server.log_text(), server.log_text()


def prepare(hosts: Hosts, address: str) -> None:
    with replayring.connect(address) as client:
        spec = {"x": {"shape": (1000,), "dtype": "float64"}}
        client.create_buffer("b", spec, 20_000).add_episode({"x": np.zeros((1, 1000))})


def hold_on(hosts: Hosts, address: str) -> None:
    """A stream, a watch, and an episode that stops half-way, each on a connection of its own."""
    streaming, watching = replayring.connect(address), replayring.connect(address)
    stream = streaming.buffer("b").sample_stream(4)
    next(stream)
    threading.Thread(target=lambda: next(watching.watch("p")), daemon=True).start()
    sent = threading.Event()

    def requests() -> Any:
        start = replay_pb2.AddEpisodesStart(buffer="b", writer_id="gone")
        first = replay_pb2.AddEpisodesRequest(start=start, sequence=1).SerializeToString()
        pack = Pack.of({"x": np.ones((EPISODE_BYTES // 8000, 1000))})
        pieces = list(encode_pack(pack, first))
        yield from itertools.islice(pieces, len(pieces) - 1)
        sent.set()
        threading.Event().wait()

    with (
        Channel(address).use(lasting=True) as stub,
        stub.converse("AddEpisodes", requests(), 600),
    ):
        assert sent.wait(60)
        print("holding", flush=True)
        threading.Event().wait()
