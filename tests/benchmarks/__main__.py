"""The command line of the benchmark: see the package."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from replayring.benchmark.workloads import WORKLOADS
from tests.benchmarks.contest import compete
from tests.benchmarks.goals import MEMORY, Record
from tests.benchmarks.parts import PARTS, SMALL_ONLY
from tests.benchmarks.report import report
from tests.benchmarks.rig import Peers, Rig

QUICK_FRAMES = 2_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures what the command line asks for, and prints it."""
    options = _parser().parse_args(arguments)
    if options.show:
        records = [json.loads(line) for path in options.show for line in path.open()]
    else:
        records = []
        for record in measure(options):
            records.append(record)
            if options.json:
                with options.json.open("a") as file:
                    print(json.dumps(record), file=file)
            else:
                print(json.dumps(record), flush=True)
    print(report(records))
    return 0


def measure(options: argparse.Namespace) -> Iterator[Record]:
    """Yields a record for the machine and each figure, as they come."""
    yield machine()
    peers = Peers(
        options.reverb_python, options.torchrl_python, options.flight_python, options.online_buffer
    )
    for name in options.workload or WORKLOADS:
        workload = WORKLOADS[name]
        if options.quick:
            workload = workload.of_capacity(QUICK_FRAMES)
        for part in options.part or PARTS:
            if part in SMALL_ONLY and name != "small":
                continue
            with (
                tempfile.TemporaryDirectory(prefix="replayring-bench-") as folder,
                Rig(workload, peers, Path(folder)) as rig,
            ):
                contenders = list(PARTS[part](rig))
                figures = compete(
                    contenders,
                    rounds=options.rounds,
                    seconds=options.seconds,
                    repeats=options.repeats,
                )
            where = {"workload": name, "part": part}
            for figure, values in figures.items():
                unit = "frames" if "insert" in (part, figure.split(",")[0]) else workload.unit
                yield {"kind": "figure", **where, "name": figure, "unit": unit, **values.record()}
            memory = [round(value, 1) for value in rig.memory]
            about = {"name": MEMORY, "unit": "MiB", "value": max(memory), "turns": [max(memory)]}
            yield {"kind": "figure", **where, **about}


def machine() -> Record:
    """Returns where and with what versions this runs."""
    names = ("replayring", "grpcio", "numpy", "protobuf", "torch", "uvloop")
    return {
        "kind": "machine",
        "at": time.strftime("%Y-%m-%d %H:%M"),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "system": platform.release(),
        "python": platform.python_version(),
    } | {name: version(name) for name in names}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    add = parser.add_argument
    add("--workload", choices=WORKLOADS, action="append", help="default: all")
    add("--part", choices=PARTS, action="append", help="default: all")
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
    sys.exit(main())
