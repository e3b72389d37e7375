"""What no server could beat: gathering from the same mapped columns, and the bare wire.

python -m tests.benchmarks.limits          # the wire: prints its address, serves until killed
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from replayring_proto.layout import physical_rows
from tests.benchmarks.workloads import Workload

CHUNK = 1 << 20


def gather_per_second(folder: Path, workload: Workload, seconds: float) -> float:
    """Gathers random rows of the declared columns, as plain numpy does; frames per second."""
    spec = workload.spec
    rows = physical_rows(spec.capacity)
    columns = [
        np.memmap(folder / "columns" / c.name, c.dtype, "r", shape=(rows, *c.shape))
        for c in spec.columns
    ]
    windows = workload.sampling.get("delta_indices", {})
    offsets = np.arange(max(map(len, windows.values()), default=1))
    rng = np.random.default_rng(0)
    begin, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - begin) < seconds:
        index = rng.integers(0, spec.capacity - len(offsets), workload.batch_size)
        picked = index[:, None] + offsets if windows else index
        for column in columns:
            column[picked]
        count += workload.batch_size
    return count / elapsed


async def _stream(request: bytes, _: Any) -> AsyncIterator[bytes]:
    size = int(request)
    payload = bytes(size)
    while True:
        for start in range(0, size, CHUNK):
            # A new object each time, as replies are.
            yield bytes(memoryview(payload)[start : start + CHUNK])


async def serve() -> None:
    """Serves bytes for as long as it lives."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handler = grpc.method_handlers_generic_handler(
        "echo", {"Stream": grpc.unary_stream_rpc_method_handler(_stream)}
    )
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"listening on 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve())
