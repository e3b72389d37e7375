"""The command line of the benchmark: see the package."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from replayring.benchmark.workloads import WORKLOADS
from tests.benchmarks.contest import compete
from tests.benchmarks.goals import MEMORY, Record
from tests.benchmarks.parts import GPU_ONLY, PARTS, SMALL_ONLY
from tests.benchmarks.picture import draw
from tests.benchmarks.report import report
from tests.benchmarks.rig import Peers, Rig


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures what the command line asks for, or takes what was measured, and prints it."""
    options = _parser().parse_args(arguments)
    source = load(options.show) if options.show else measure(options)
    records = []
    for record in source:
        records.append(record)
        if options.json:
            with options.json.open("a") as file:
                print(json.dumps(record), file=file)
        elif not options.show:
            print(json.dumps(record), flush=True)
    print(report(records))
    if options.picture:
        draw(options.picture, records)
    return 0


def load(paths: Sequence[Path]) -> Iterator[Record]:
    """Yields the records that earlier runs have written to files."""
    for path in paths:
        with path.open() as file:
            yield from map(json.loads, file)


def measure(options: argparse.Namespace) -> Iterator[Record]:
    """Yields a record for the machine and each figure, as they come."""
    yield machine(options)
    for name in options.workload or WORKLOADS:
        for part in options.part or parts_measured_unasked():
            if part not in SMALL_ONLY or name == "small":
                yield from figures(name, part, options)


def parts_measured_unasked() -> list[str]:
    """Returns all parts that are of use on this machine."""
    return [part for part in PARTS if part not in GPU_ONLY or shutil.which("nvidia-smi")]


def figures(name: str, part: str, options: argparse.Namespace) -> Iterator[Record]:
    """Yields the figures of one part for one workload."""
    workload = WORKLOADS[name]
    peers = Peers(
        options.reverb_python, options.torchrl_python, options.flight_python, options.online_buffer
    )
    about = {"kind": "figure", "workload": name, "part": part}
    with (
        tempfile.TemporaryDirectory(prefix="replayring-bench-") as folder,
        Rig(workload, peers, Path(folder), quick=options.quick) as rig,
    ):
        found = compete(
            list(PARTS[part](rig)),
            rounds=options.rounds,
            seconds=options.seconds,
            repeats=options.repeats,
        )
    for figure, values in found.items():
        unit = "frames" if "insert" in (part, figure.split(",")[0]) else workload.unit
        yield {**about, "name": figure, "unit": unit, **values.record()}
    most = round(max(rig.memory), 1)
    yield {**about, "name": MEMORY, "unit": "MiB", "value": most, "turns": [most]}


def machine(options: argparse.Namespace) -> Record:
    """Returns where and with what versions this runs."""
    found = versions(sys.executable, "replayring", "grpcio", "numpy", "protobuf", "torch", "uvloop")
    if options.reverb_python:
        found |= versions(options.reverb_python, "dm-reverb", "tensorflow")
    if options.torchrl_python:
        found |= versions(options.torchrl_python, "torchrl", "tensordict")
    if options.flight_python:
        found |= versions(options.flight_python, "pyarrow")
    return {
        "kind": "machine",
        "at": time.strftime("%Y-%m-%d %H:%M"),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "system": platform.release(),
        "python": platform.python_version(),
        "versions": found,
    }


def versions(python: str, *names: str) -> dict[str, str]:
    """Returns what is installed where an interpreter looks."""
    script = "import sys\nfrom importlib.metadata import *\nprint(*map(version, sys.argv[1:]))"
    command = [python, "-c", script, *names]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return dict(zip(names, done.stdout.split(), strict=True))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    add = parser.add_argument
    add("--workload", choices=WORKLOADS, action="append", help="default: all")
    add("--part", choices=PARTS, action="append", help="default: all, training with a GPU only")
    add("--seconds", type=float, default=1.0, help="of each turn (%(default)s)")
    add("--rounds", type=int, default=5, help="turns of each (%(default)s)")
    add("--repeats", type=int, default=10, help="disturbed turns repeated per part (%(default)s)")
    add("--quick", action="store_true", help="tiny buffers, for a look at whether it runs")
    add("--json", type=Path, metavar="FILE", help="append a line per figure")
    add("--show", type=Path, metavar="FILE", nargs="+", help="show such files; measure nothing")
    add("--picture", type=Path, metavar="FILE", help="draw the goals")
    peers = parser.add_argument_group("others, measured where it is said where they are")
    add = peers.add_argument
    add("--reverb-python", metavar="PATH", help="an interpreter with dm-reverb")
    add("--torchrl-python", metavar="PATH", help="an interpreter with torchrl")
    add("--flight-python", metavar="PATH", help="an interpreter with pyarrow")
    add("--online-buffer", type=Path, metavar="PATH", help="online_buffer.py of LeRobot 0.3.3")
    return parser


if __name__ == "__main__":
    # So that SIGTERM ends processes and removes folders, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
