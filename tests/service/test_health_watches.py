"""Watches of the health service: none holds up another, nor the server."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from replayring_server import health
from replayring_server.health import Health, _Room
from replayring_server.server import _grpc_server, _listen
from tests.security.resets import keeping_up
from tests.service.frames import refused
from tests.support import LocalServer, ServerProcess, eventually
from tests.wire import NOT_SERVING, SERVING, Refused, Stream, Wire

REQUEST = health_pb2.HealthCheckRequest()


class Watcher:
    """A peer of the service, which hears what it is told, unless it takes nothing."""

    def __init__(self, *, takes: bool = True) -> None:
        self.heard: list[int] = []
        self.asked = asyncio.Event()
        self._takes = takes

    async def write(self, message: bytes) -> None:
        self.asked.set()
        if not self._takes:
            await asyncio.Event().wait()
        self.heard.append(health_pb2.HealthCheckResponse.FromString(message).status)


async def request() -> AsyncIterator[bytes]:
    yield REQUEST.SerializeToString()


async def watching(health: Health, watcher: Any) -> asyncio.Task[None]:
    """Begins a watch, and returns when it has said something."""
    task = asyncio.create_task(health._watch(_Room(), request(), watcher))
    await asyncio.wait_for(watcher.asked.wait(), 60)
    return task


def test_watcher_that_takes_nothing_holds_up_nobody() -> None:
    async def main() -> None:
        health = Health([])
        stalled, honest = Watcher(takes=False), Watcher()
        stuck, told = await watching(health, stalled), await watching(health, honest)
        health.set_serving(True)
        await asyncio.sleep(0)
        health.set_serving(False)
        health.end_watches()
        await asyncio.wait_for(told, 60)
        assert honest.heard[-1] == NOT_SERVING
        assert not stuck.done()
        stuck.cancel()

    asyncio.run(main())


def test_watch_that_begins_when_the_server_stops_is_told_and_ends() -> None:
    async def main() -> None:
        health = Health([])
        health.end_watches()
        watcher = Watcher()
        await asyncio.wait_for(await watching(health, watcher), 60)
        assert watcher.heard == [NOT_SERVING]

    asyncio.run(main())


def watch(wire: Wire) -> Stream:
    stream = wire.stream("/grpc.health.v1.Health/Watch", timeout=60)
    stream.send(REQUEST)
    stream.done_sending()
    return stream


def next_status(stream: Stream) -> int:
    return health_pb2.HealthCheckResponse.FromString(stream.receive()).status


def test_watcher_that_leaves_takes_nothing_from_the_others(tmp_path: Path) -> None:
    async def announce(server: LocalServer) -> None:
        server.server.announce_stop()

    with LocalServer(tmp_path / "data") as server, Wire(server.address) as wire:
        leaving, staying = watch(wire), watch(wire)
        assert (next_status(leaving), next_status(staying)) == (SERVING, SERVING)
        leaving.cancel()
        with Wire(server.address) as other:
            assert next_status(watch(other)) == SERVING
            server.run(announce(server))
        assert next_status(staying) == NOT_SERVING


def test_watches_are_limited_as_anybody_may_begin_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And keep no probe from being answered, however many there are and however long they last."""
    monkeypatch.setattr(health, "MAX_CALLS", 3)
    with LocalServer(tmp_path / "data") as server, Wire(server.address) as wire:
        watches = [watch(wire) for _ in range(3)]
        assert [next_status(stream) for stream in watches] == [SERVING] * 3
        with refused("RESOURCE_EXHAUSTED", None, "received 4, the limit is 3"):
            watch(wire).receive()
        assert wire.health() == SERVING
        watches.pop().cancel()
        eventually(lambda: _is_answered(watch(wire)), "there is room again")


def _is_answered(stream: Stream) -> bool:
    try:
        return next_status(stream) == SERVING
    except Refused:
        return False


@pytest.mark.parametrize("method", ["Check", "Watch"])
def test_a_call_that_asks_for_nothing_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(health, "REQUEST_SECONDS", 0.1)
    with LocalServer(tmp_path / "data") as server, Wire(server.address) as wire:
        silent = wire.stream(f"/grpc.health.v1.Health/{method}", timeout=60)
        with refused("UNAVAILABLE", None, "no request came within 0.1 s"):
            silent.receive()


def test_what_comes_to_one_address_keeps_no_probe_from_another(tmp_path: Path) -> None:
    probes = ["--health-listen", "127.0.0.1:0"]
    with ServerProcess(tmp_path / "data", *probes) as server, Wire(server.address) as wire:
        (port,) = re.findall(r"health on 127\.0\.0\.1:(\d+)", server.log_text())
        watches = [watch(wire) for _ in range(health.MAX_CALLS)]
        assert {next_status(stream) for stream in watches} == {SERVING}
        with refused("RESOURCE_EXHAUSTED", None, "calls that ask for health"):
            watch(wire).receive()
        with Wire(f"127.0.0.1:{port}") as probe:
            assert probe.health() == SERVING


def test_an_address_for_probes_lets_go_of_peers_that_ask_for_nothing(tmp_path: Path) -> None:
    """Who answers pings would otherwise keep the few connections that there are."""

    async def listen(server: LocalServer) -> tuple[grpc.aio.Server, int]:
        probes = _grpc_server(max_connections=1, max_streams=1, idle_seconds=1)
        probes.add_generic_rpc_handlers((server.server._health.handler(),))
        port = _listen(probes, "--health-listen", "127.0.0.1", 0)
        await probes.start()
        return probes, port

    with LocalServer(tmp_path / "data") as server:
        probes, port = server.run(listen(server))
        with keeping_up(f"127.0.0.1:{port}") as closed:
            assert closed.wait(60)
        with Wire(f"127.0.0.1:{port}") as probe:
            assert probe.health() == SERVING
        server.run(probes.stop(0))
