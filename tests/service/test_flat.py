"""Calls of every kind, thousands of each: memory, threads and descriptors stay where they were.

REPLAYRING_CALLS=20000 makes that many of each kind, where the suite makes a hundred.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from replayring_proto.v1 import replay_pb2
from tests.service.frames import SPEC, episode
from tests.support import ServerProcess, eventually
from tests.wire import Wire, spec_message, start_message

CALLS = int(os.environ.get("REPLAYRING_CALLS", "100"))
THREADS = 4
MIB = 1 << 20

Kind = Callable[[Wire, int], object]


def made_and_deleted(wire: Wire, number: int) -> None:
    name = f"new{number}"
    wire.create(name, spec_message({"x": ("uint8", ())}, capacity=1))
    wire.delete(name)


def cancelled(wire: Wire, _: int) -> None:
    call = wire.stream("SampleBatch")
    spec = replay_pb2.SampleSpec(buffer="b", batch_size=1, min_frames=10, drop_n_last_frames=9)
    call.send(replay_pb2.SampleBatchRequest(spec=spec))
    call.cancel()
    wire._streams.remove(call)


def half(wire: Wire, number: int) -> None:
    assert wire.refusal("AddEpisodes", start_message("b", f"h{number}"), b"\x0a\x00\x20\x01")


KINDS: dict[str, Kind] = {
    "create again": lambda wire, _: wire.create("b", SPEC),
    "create and delete": made_and_deleted,
    "info": lambda wire, _: wire.info("b"),
    "list": lambda wire, _: wire.ask("ListBuffers", b""),
    "add": lambda wire, n: wire.add("b", episode(4, n % 100), writer_id=f"w{n}"),
    "get": lambda wire, _: wire.get("b", [0, -1]),
    "sample": lambda wire, _: wire.sample("b", 8, batches=2),
    "read columns": lambda wire, _: wire.columns("b", "pixel", "index"),
    "publish": lambda wire, n: wire.publish(f"p{n % 8}", {"w": np.zeros(1 + n % 50)}),
    "latest": lambda wire, n: wire.refusal("WatchParameters", b"\x0a\x02p%d" % (n % 8)),
    "refused": lambda wire, _: wire.refusal("GetBuffer", b"\x0a\x04nope"),
    "broken episode": half,
    "cancelled": cancelled,
}


def footprint(server: ServerProcess) -> tuple[int, int, int]:
    with server.stats.oneshot():
        rss = server.stats.memory_info().rss
        return rss, server.stats.num_threads(), server.stats.num_fds()


@pytest.mark.timeout(120 + CALLS)
def test_calls_of_every_kind_leave_nothing_behind(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server, Wire(server.address) as wire:
        wire.create("b", SPEC)
        wire.add("b", episode(4))

        def run(calls: range) -> None:
            with ThreadPoolExecutor(THREADS) as threads:
                for kind in KINDS.values():
                    list(threads.map(lambda n: kind(wire, n), calls))  # noqa: B023

        run(range(50))  # caches and pools fill
        memory, threads, descriptors = footprint(server)
        run(range(100, 100 + CALLS))
        eventually(lambda: footprint(server)[2] <= descriptors, "descriptors are closed")
        now = footprint(server)
        print(f"{CALLS} calls of {len(KINDS)} kinds: {(now[0] - memory) / MIB:+.1f} MiB")
        assert now[0] - memory < 20 * MIB
        assert now[1] <= threads + 24  # the engine's lanes fill; gRPC's own pool comes and goes
        assert wire.add("b", episode(2), writer_id="last")
        assert server.stop() == 0
        assert "Traceback" not in server.log_text()
