"""One process of load: says that it is ready, waits to be told to go, prints what it did.

python -m tests.benchmarks.load ROLE ADDRESS BUFFER WORKLOAD SECONDS

A role that ends with `_files` reads from the server's files, all others over the wire.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc

import replayring
from tests.benchmarks.workloads import WORKLOADS, Workload

Step = Callable[[], int]


@contextmanager
def insert(buffer: replayring.Buffer, workload: Workload) -> Iterator[Step]:
    """Adds whole episodes, pipelined; counts frames."""
    episode = workload.episode()
    # What is under way when the time is up is counted: keep it small.
    with buffer.writer(max_in_flight_bytes=8 << 20) as writer:

        def step() -> int:
            writer.add_episode(episode)
            return workload.episode_frames

        yield step


@contextmanager
def sample(buffer: replayring.Buffer, workload: Workload) -> Iterator[Step]:
    """Samples a stream of batches; counts frames, or windows."""
    with buffer.sample_stream(workload.batch_size, **workload.sampling) as stream:

        def step() -> int:
            next(stream)
            return workload.batch_size

        yield step


@contextmanager
def sample_one(buffer: replayring.Buffer, workload: Workload) -> Iterator[Step]:
    """Samples a batch at a time, waiting for each; counts batches."""

    def step() -> int:
        buffer.sample(workload.batch_size, drop_n_last_frames=1, **workload.sampling)
        return 1

    yield step


@contextmanager
def echo(address: str, size: int, frames: int) -> Iterator[Step]:
    """Streams replies of `size` bytes from a bare gRPC server; counts `frames` for each."""
    with grpc.insecure_channel(address) as channel:
        replies = channel.unary_stream("/echo/Stream")(str(size).encode())
        pieces = max(1, -(-size // (1 << 20)))

        def step() -> int:
            for _ in range(pieces):
                next(replies)
            return frames

        yield step
        replies.cancel()


FILES = "_files"
ROLES = {"insert": insert, "sample": sample, "sample_one": sample_one}


def run(step: Step, seconds: float) -> dict[str, float]:
    """Repeats `step` for some seconds and returns counts per second and latencies."""
    step()
    print("ready", flush=True)
    sys.stdin.readline()
    begin = last = time.perf_counter()
    count, latencies = 0, []
    while last - begin < seconds:
        count += step()
        now = time.perf_counter()
        latencies.append(now - last)
        last = now
    latencies.sort()
    return {
        "per_second": count / (last - begin),
        "p50_us": latencies[len(latencies) // 2] * 1e6,
        "p99_us": latencies[len(latencies) * 99 // 100] * 1e6,
    }


def main() -> None:
    """Runs one role."""
    role, address, name, workload_name, seconds = sys.argv[1:]
    workload = WORKLOADS[workload_name]
    if role == "echo":
        with echo(address, int(name), workload.batch_size) as step:
            print(json.dumps(run(step, float(seconds))), flush=True)
        return
    with (
        replayring.connect(address, timeout=60, same_host=role.endswith(FILES)) as client,
        ROLES[role.removesuffix(FILES)](client.buffer(name), workload) as step,
    ):
        result = run(step, float(seconds))
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
