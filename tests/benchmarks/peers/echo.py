"""The wire's limit: gRPC carries as many bytes as replayring would, and neither side looks at them.

Server and client are of the same kind as replayring's: asyncio with uvloop where it is installed,
and a blocking client. Nothing is gathered, packed, checked or copied on either side; chunks are the
same bytes objects again and again.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
from benchmark.turns import take_turns
from benchmark.workloads import Workload

from replayring_proto.limits import CHUNK_BYTES, TOGETHER_BYTES
from tests.benchmarks.peers.program import run, serve_until_told

OPTIONS = [("grpc.enable_retries", 0)]
"""Without retries gRPC does not keep what it has sent: replayring's client has none either."""

GROUPS_IN_FLIGHT = 2
BATCHES_PER_GROUP = 4
"""As a sample stream asks for them, which has 8 batches in flight."""

BYTES_IN_FLIGHT = 64 << 20
"""As a writer has them."""


def chunks(size: int) -> list[bytes]:
    """Returns so many bytes in pieces as they cross the wire."""
    return [bytes(min(CHUNK_BYTES, size - start)) for start in range(0, size, CHUNK_BYTES)]


async def _pull(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
    """Answers each request, a number of bytes, with so many bytes."""
    size, pieces = b"", []
    async for request in requests:
        if request != size:
            size, pieces = request, chunks(int(request))
        for piece in pieces:
            yield piece


async def _push(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
    """Acknowledges each group of chunks, whose last one is shorter than the others."""
    async for request in requests:
        if len(request) < CHUNK_BYTES:
            yield b""


def serve(_: Workload) -> None:
    """Serves both."""
    try:
        import uvloop
    except ModuleNotFoundError:
        asyncio.run(_serve())
    else:
        uvloop.run(_serve())


async def _serve() -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handlers = {
        "Pull": grpc.stream_stream_rpc_method_handler(_pull),
        "Push": grpc.stream_stream_rpc_method_handler(_push),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await asyncio.to_thread(serve_until_told, f"127.0.0.1:{port}")
    await server.stop(0)


def sample(workload: Workload, address: str, batch_bytes: str) -> None:
    """Pulls batches of so many bytes, with as many in flight as a sample stream has."""
    size = int(batch_bytes) * BATCHES_PER_GROUP
    pieces, request = len(chunks(size)), str(size).encode()
    requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    for _ in range(GROUPS_IN_FLIGHT):
        requests.put(request)
    with grpc.insecure_channel(address, OPTIONS) as channel:
        replies = channel.stream_stream("/echo/Pull")(iter(requests.get, None))

        def step() -> int:
            for _ in range(pieces):
                next(replies)
            requests.put(request)
            return workload.batch_size * BATCHES_PER_GROUP

        take_turns(step)
        requests.put(None)
        replies.cancel()


def insert(workload: Workload, address: str, episode_bytes: str) -> None:
    """Pushes episodes of so many bytes. Small ones share chunks, and acknowledgements."""
    together = max(1, (TOGETHER_BYTES - 1) // int(episode_bytes))
    size = int(episode_bytes) * together
    if size % CHUNK_BYTES == 0:
        size -= 1  # the last chunk has to be told from the others
    pieces = chunks(size)
    room = threading.Semaphore(in_flight := max(1, BYTES_IN_FLIGHT // size))
    episodes: queue.SimpleQueue[list[bytes] | None] = queue.SimpleQueue()

    def requests() -> Iterator[bytes]:
        for episode in iter(episodes.get, None):
            yield from episode

    def acknowledge() -> None:
        for _ in replies:
            room.release()

    def step() -> int:
        room.acquire()
        episodes.put(pieces)
        return workload.episode_frames * together

    def settle() -> None:
        for _ in range(in_flight):
            room.acquire()
        room.release(in_flight)

    with grpc.insecure_channel(address, OPTIONS) as channel:
        replies = channel.stream_stream("/echo/Push")(requests())
        acknowledging = threading.Thread(target=acknowledge)
        acknowledging.start()
        take_turns(step, settle)
        episodes.put(None)
        acknowledging.join()


if __name__ == "__main__":
    run({"serve": serve, "sample": sample, "insert": insert})
