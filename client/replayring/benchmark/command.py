"""`replayring bench`: how fast a server is, as seen from this machine.

Makes a buffer of its own on the server, fills it, lets processes on this machine insert into it and
sample from it, and deletes it. Other buffers are left alone, but share the server's time. Of its
disk, the three workloads take 15, 600 and 15 MB, one after the other.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import tempfile
import uuid
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replayring.benchmark.processes import ProcessFailedError, Worker, summed, together
from replayring.benchmark.roles import fill
from replayring.benchmark.tasks import Task
from replayring.benchmark.workloads import FPS, WORKLOADS, Workload
from replayring.buffer import Buffer
from replayring.client import Client
from replayring.commands.connection import (
    add_connection_arguments,
    connect_to_one_by,
    in_flags,
)
from replayring_proto import argument_types
from replayring_proto.errors import NotFoundError, ReplayRingError

__all__ = ["HELP", "add_arguments", "run"]

HELP = "measure how fast a server is, as seen from this machine"

TIMEOUT = 60.0
FIRST_TIMEOUT = 5.0
"""Whoever mistyped the address is told soon; a server that was reached once is waited for."""
DELETE_TIMEOUT = 10.0
INTERRUPTED = 130
LINE = "{:10}{:42}{:>13} {:8}{:>7}{:>9}{:>9}{:>9}"
HEADING = ("workload", "", "per second", "", "MB/s", "p50 ms", "p99 ms", "p99.9 ms")


@dataclass(frozen=True)
class Load:
    """What processes do at once.

    Attributes:
        name: what it is called.
        roles: the role of each.
        same_host: whether they may read the server's files, if they can.
    """

    name: str
    roles: tuple[str, ...]
    same_host: bool = False


LOADS = (
    Load("insert, 1 actor", ("insert",)),
    Load("insert, 4 actors", ("insert",) * 4),
    Load("insert, each episode waited for", ("insert_one",)),
    Load("sample, 1 learner", ("sample",)),
    Load("sample, 2 learners", ("sample",) * 2),
    Load("sample, each batch waited for", ("sample_one",)),
    Load("both at once", ("insert", "sample")),
    Load("sample from files, 1 learner", ("sample",), same_host=True),
    Load("sample from files, 2 learners", ("sample",) * 2, same_host=True),
    Load("sample from files, each batch waited for", ("sample_one",), same_host=True),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options on this parser."""
    add_connection_arguments(parser)
    parser.add_argument(
        "--workload",
        choices=WORKLOADS,
        action="append",
        help="instead of all three; may be repeated",
    )
    parser.add_argument(
        "--seconds",
        type=argument_types.seconds(0.01),
        default=3.0,
        help="of each measurement (%(default)s)",
    )
    parser.add_argument(
        "--frames",
        type=argument_types.positive,
        help="capacity of the buffer, instead of the workload's",
    )
    parser.add_argument("--json", action="store_true", help="print lines of JSON instead")


def run(args: argparse.Namespace) -> int:
    """Measure.

    Returns:
        0 when all was measured, 130 after Ctrl-C, 1 when something failed.
    """
    # SIGTERM has to end it as Ctrl-C does, so that the buffer goes too.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    # What the client logs of episodes that were on their way then concerns nobody.
    logging.getLogger("replayring").addHandler(logging.NullHandler())
    try:
        _run(args)
    except KeyboardInterrupt:
        return INTERRUPTED
    except (ReplayRingError, ProcessFailedError, OSError) as error:
        print(f"replayring bench: {in_flags(error)}", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _run(args: argparse.Namespace) -> None:
    with (
        connect_to_one_by(args, TIMEOUT, same_host=False) as wire,
        connect_to_one_by(args, TIMEOUT) as files,
    ):
        files.status(timeout=FIRST_TIMEOUT)
        if not args.json:
            print(LINE.format(*HEADING))
        for name in args.workload or WORKLOADS:
            workload = WORKLOADS[name]
            if args.frames:
                workload = workload.of_capacity(max(args.frames, workload.episode_frames))
            with closing(_measure(wire, files, workload, args.seconds)) as figures:
                for figure in figures:
                    print(json.dumps(figure) if args.json else _line(figure), flush=True)


def _measure(
    wire: Client, files: Client, workload: Workload, seconds: float
) -> Generator[dict[str, Any], None, None]:
    """Yields the figures of a workload, from a buffer that exists meanwhile."""
    with _buffer(files, workload) as from_files:
        over_wire = wire.buffer(from_files.name)
        fill(over_wire, workload)
        for load in LOADS:
            if load.same_host and not from_files.info().same_host:
                continue
            buffer = from_files if load.same_host else over_wire
            yield from _figures(load, buffer, workload, seconds)


@contextmanager
def _buffer(client: Client, workload: Workload) -> Iterator[Buffer]:
    """Yields a buffer that no one else has, and deletes it."""
    name = f"bench-{uuid.uuid4().hex}"
    try:
        yield client.create_buffer(name, workload.data_spec, workload.capacity, fps=FPS)
    finally:
        try:
            client.delete_buffer(name, timeout=DELETE_TIMEOUT)
        except NotFoundError:  # it was refused
            pass
        except ReplayRingError as error:
            print(f"the buffer {name!r} may be left on the server: {error}", file=sys.stderr)


def _figures(
    load: Load, buffer: Buffer, workload: Workload, seconds: float
) -> Iterator[dict[str, Any]]:
    """Lets processes work at once, and yields a figure for each role among them."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="replayring-bench-")))
        workers = []
        for number, role in enumerate(load.roles):
            worker = Worker(Task.command(), folder / f"{number}.log")
            stack.callback(worker.close)
            worker.say(Task(role, buffer, workload).line())
            workers.append(worker)
        for worker in workers:
            worker.wait_until_ready()
        results = together(workers, seconds)
    for role in dict.fromkeys(load.roles):
        mine = [result for name, result in zip(load.roles, results, strict=True) if name == role]
        inserts = role.startswith("insert")
        figure = summed(mine)
        frames = figure["per_second"] * (1 if inserts else workload.window)
        yield {
            "workload": workload.name,
            "what": load.name if len(set(load.roles)) == 1 else f"{load.name}: {role}",
            "unit": "frames" if inserts else workload.unit,
            "megabytes_per_second": frames * workload.frame_bytes / 1e6,
            **figure,
        }


def _line(figure: dict[str, Any]) -> str:
    return LINE.format(
        figure["workload"],
        figure["what"],
        f"{figure['per_second']:,.0f}",
        figure["unit"],
        f"{figure['megabytes_per_second']:,.0f}",
        *(f"{figure[name] * 1e3:.2f}" for name in ("p50", "p99", "p999")),
    )
