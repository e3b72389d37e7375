"""Runs the benchmark and prints a line of JSON for each figure, and tables at the end."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import replayring
from replayring_proto.pack import PackLayout
from replayring_proto.query import View
from replayring_proto.ring import Plan
from replayring_server.engine import Store
from replayring_server.inspection import verify
from tests.benchmarks.limits import gather_per_second
from tests.benchmarks.workloads import WORKLOADS, Workload

CAPACITIES = (10_000, 100_000, 1_000_000, 10_000_000)


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Runs a Python module as a process, and ends it."""
    command = [sys.executable, "-m", *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            yield running
        finally:
            running.terminate()


@contextmanager
def serving(*arguments: str) -> Iterator[str]:
    """Runs a server that prints its address last in its first line, and returns that."""
    with process(*arguments) as server:
        assert server.stdout is not None
        yield server.stdout.readline().split()[-1]


class Benchmark:
    """One run. Prints figures as they come and keeps them for the table."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.rows: list[tuple[str, str, float]] = []

    def note(self, workload: str, what: str, per_second: float, **more: float) -> None:
        """Prints one figure."""
        self.rows.append((workload, what, per_second))
        line = {"workload": workload, "what": what, "per_second": round(per_second, 1)}
        print(json.dumps(line | {k: round(v, 1) for k, v in more.items()}), flush=True)

    def load(self, address: str, buffer: str, workload: Workload, roles: Sequence[str]) -> None:
        """Runs processes of load at once and notes the sum of each role."""
        with ExitStack() as stack:
            running = [
                (
                    role,
                    stack.enter_context(
                        process(
                            *("tests.benchmarks.load", role, address, buffer),
                            *(workload.name, str(self.seconds)),
                        )
                    ),
                )
                for role in roles
            ]
            for _, one in running:
                assert one.stdout is not None
                assert one.stdout.readline() == "ready\n"
            for _, one in running:
                assert one.stdin is not None
                print("go", file=one.stdin, flush=True)
            results = [(role, json.loads(one.communicate()[0])) for role, one in running]
        together = " + ".join(f"{roles.count(role)} {role}" for role in dict.fromkeys(roles))
        for role in dict.fromkeys(roles):
            mine = [result for name, result in results if name == role]
            more = {key: max(r[key] for r in mine) for key in ("p50_us", "p99_us")}
            what = together if len(set(roles)) == 1 else f"{together}: {role}"
            self.note(workload.name, what, sum(r["per_second"] for r in mine), **more)

    def workload(self, workload: Workload, folder: Path) -> None:
        """Measures one workload: the limits of memory and wire, then the server."""
        with serving(
            *("replayring_server", "serve", "--data-dir", str(folder)),
            *("--listen", "127.0.0.1:0"),
        ) as address:
            with replayring.connect(address) as client:
                buffer = client.create_buffer(
                    "bench", workload.data_spec, workload.capacity, fps=30
                )
                fill(buffer, workload, workload.capacity)
            for roles in (
                *(["insert"], ["insert"] * 4),
                *(["sample"], ["sample"] * 2, ["sample_one"]),
                *(["sample_files"], ["sample_files"] * 2, ["sample_one_files"]),
            ):
                self.load(address, "bench", workload, roles)
            self.load(address, "bench", workload, ["insert", "sample"])
        gathered = gather_per_second(folder / "bench", workload, self.seconds)
        self.note(workload.name, "limit of memory: numpy gather", gathered)
        with serving("tests.benchmarks.limits") as address:
            self.load(address, str(reply_layout(workload).nbytes), workload, ["echo"])

    def reopening(self, folder: Path) -> None:
        """Measures how soon a million frames are served again, and verified."""
        million = replace(WORKLOADS["small"], capacity=1_000_000)
        serve = ("replayring_server", "serve", "--data-dir", str(folder), "--listen", "127.0.0.1:0")
        with serving(*serve) as address, replayring.connect(address) as client:
            fill(client.create_buffer("b", million.data_spec, million.capacity), million, 1_000_000)
        with self.timing("process start to listening") as done, serving(*serve):
            done()
        with self.timing("opening the store alone") as done, Store(folder):
            done()
        with self.timing("replayring verify") as done:
            assert not verify(folder).damaged
            done()

    @contextmanager
    def timing(self, what: str) -> Iterator[Callable[[], None]]:
        """Notes how often a second something can be done that ends when `done` is called."""
        begin = time.perf_counter()

        def done() -> None:
            took = time.perf_counter() - begin
            self.note("reopening", f"1,000,000 frames: {what}", 1 / took, ms=took * 1e3)

        yield done

    def capacities(self, folder: Path) -> None:
        """Measures one sample at growing capacities."""
        small = WORKLOADS["small"]
        with (
            serving(
                *("replayring_server", "serve", "--data-dir", str(folder)),
                *("--listen", "127.0.0.1:0"),
            ) as address,
            replayring.connect(address) as client,
        ):
            for capacity in CAPACITIES:
                name = f"of-{capacity}"
                fill(client.create_buffer(name, small.data_spec, capacity), small, capacity)
            for capacity in CAPACITIES:
                sized = replace(small, capacity=capacity)
                self.load(address, f"of-{capacity}", sized, ["sample_one"])
                workload, what, per_second = self.rows.pop()
                self.rows.append((workload, f"{what} of {capacity:,} frames", per_second))

    def table(self) -> None:
        """Prints all figures."""
        for workload, what, per_second in self.rows:
            print(f"{workload:10} {what:45} {per_second:14,.0f} /s")


def fill(buffer: replayring.Buffer, workload: Workload, frames: int) -> None:
    """Fills a buffer."""
    episode = workload.episode()
    with buffer.writer() as writer:
        for _ in range(frames // workload.episode_frames):
            writer.add_episode(episode)


def reply_layout(workload: Workload) -> PackLayout:
    """Returns the layout of a batch, for its size."""
    return Plan(workload.spec, View.of(**workload.sampling)).layout(workload.batch_size)


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--workload", choices=WORKLOADS, action="append", help="default: all")
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement")
    parser.add_argument("--no-capacities", action="store_true", help="skip the largest buffers")
    arguments = parser.parse_args()
    benchmark = Benchmark(arguments.seconds)
    with tempfile.TemporaryDirectory(prefix="replayring-bench-") as folder:
        for name in arguments.workload or WORKLOADS:
            benchmark.workload(WORKLOADS[name], Path(folder) / name)
        if not arguments.no_capacities:
            benchmark.reopening(Path(folder) / "reopening")
            benchmark.capacities(Path(folder) / "capacities")
    benchmark.table()


if __name__ == "__main__":
    main()
