"""Time never decides anything: no wall clock is read, and a server whose clock jumps does not mind.

Sequence numbers order what happens, and the monotonic clock, which nobody sets, ends waiting.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import replayring
from tests.support import ServerProcess

ROOT = Path(__file__).parents[1]
PACKAGES = ("proto/replayring_proto", "server/replayring_server", "client/replayring")

# What reads a clock that can be set, or what such a clock has written.
WALL_CLOCKS = {
    *("time.time", "time.time_ns", "time.localtime", "time.gmtime", "time.ctime", "time.asctime"),
    *("time.strftime", "time.mktime", "time.clock_gettime", "time.clock_gettime_ns"),
    *("os.path.getmtime", "os.path.getctime", "os.path.getatime", "os.utime", "uuid.uuid1"),
}
MODULES = {"datetime", "calendar", "sched"}
ATTRIBUTES = re.compile(r"st_[amc]time(_ns)?|time_remaining")

# Files that may read the time of day all the same, with what for. The stamps of log lines are
# logging's own affair.
ALLOWED = {
    "proto/replayring_proto/tls.py": "whether a certificate's file is another one than "
    "before: only ever compared for equality, beside its inode and size",
    "server/replayring_server/logs.py": "how logging writes the stamps of log lines, in UTC",
    "server/replayring_server/telemetry/otlp.py": "the stamps of what is exported, which "
    "OpenTelemetry's receivers want",
    "server/replayring_server/inspection/directory.py": "whether a server came and went while a "
    "directory was verified: only ever compared for equality",
}


def clocks_in(path: Path) -> Iterator[str]:
    """Yields every wall clock that a module reads, or could."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from names & WALL_CLOCKS
            yield from {str(node.module)} & MODULES
        elif isinstance(node, ast.Attribute):
            if ATTRIBUTES.fullmatch(node.attr):
                yield node.attr
            yield from {ast.unparse(node)} & WALL_CLOCKS


def test_no_wall_clock_is_read() -> None:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "_pb2" not in path.name:
                name = str(path.relative_to(ROOT))
                found = [clock for clock in clocks_in(path) if name not in ALLOWED]
                assert not found, f"{name} reads {found}"


@pytest.mark.parametrize(
    "code",
    [
        "import time\ntime.time()",
        "from time import time",
        "import datetime",
        "from datetime import datetime",
        "import os\nos.stat('x').st_mtime_ns",
        "import os\nos.path.getmtime('x')",
        "import uuid\nuuid.uuid1()",
    ],
)
def test_a_wall_clock_would_be_found(tmp_path: Path, code: str) -> None:
    path = tmp_path / "module.py"
    path.write_text(code)
    assert [*clocks_in(path)]


# Each look at the clock is years off the one before, in either direction.
JUMPING = """
import itertools
import time

years = itertools.cycle((0, 30, -40, 60, -25))
real, real_ns = time.time, time.time_ns
time.time = lambda: real() + next(years) * 31_557_600
time.time_ns = lambda: real_ns() + next(years) * 31_557_600 * 10**9
"""


def test_a_server_whose_clock_jumps_serves_syncs_and_recognises_retries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A jump back or forth between any two looks at the clock, of Python's side of the server."""
    (tmp_path / "sitecustomize.py").write_text(JUMPING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    data = tmp_path / "data"
    with ServerProcess(data) as server, replayring.connect(server.address) as client:
        buffer = client.create_buffer("b", {"x": {"shape": (), "dtype": "int64"}}, 50, fps=10)
        with buffer.writer(writer_id="w") as writer:
            for tag in range(20):
                writer.add_episode({"x": np.full(7, tag)})
        client.publish("policy", {"w": np.zeros(3)})
        assert next(client.watch("policy", timeout=60)).version == 1
        assert len(buffer.sample(30, min_frames=50, timeout=60)["x"]) == 30
        address = server.address
        server.kill()
        with ServerProcess(data, listen=address) as successor:
            with buffer.writer(writer_id="w") as writer:  # its sequences begin anew: all retries
                for tag in range(20):
                    writer.add_episode({"x": np.full(7, tag)})
            assert buffer.info().next_index == 140
            log = successor.log_text()
            assert successor.stop() == 0
    years = {int(line[:4]) for line in log.splitlines() if line[:4].isdigit()}
    assert max(years) - min(years) >= 30, "the clock did not jump"
