"""`replayring top` for tests: its screen at any size, and the command on a pipe or a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from replayring.top.rates import Reading
from replayring.top.screen import Screen
from replayring_proto.server_status import ServerStatus
from tests.support import PATIENCE


def drawn(
    now: ServerStatus,
    before: ServerStatus | None = None,
    *,
    width: int = 200,
    height: int = 50,
    trouble: str | None = None,
    away: dict[str, float] | None = None,
) -> list[str]:
    """Returns the lines that a terminal of this size would show, two seconds after `before`."""
    console = Console(width=width, height=height, force_terminal=True, color_system=None)
    old = None if before is None else Reading(10.0, 10.0, before)
    with console.capture() as capture:
        console.print(Screen("host:1", Reading(12.0, 12.0, now), old, trouble, away))
    text = re.sub(r"\x1b\[[0-9;]*m", "", capture.get())
    return [line.rstrip() for line in text.splitlines()]


def row(lines: list[str], name: str) -> dict[str, str]:
    """Returns a table's row by its headings."""
    (line,) = (line for line in lines if line.startswith(name))
    heading = next(each for each in reversed(lines[: lines.index(line)]) if each[:6] in HEADINGS)
    return dict(zip(re.split(r"  +", heading), re.split(r"  +", line), strict=True))


HEADINGS = ("buffer", "method", "shard ")


@contextmanager
def top(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """`replayring top` as a process whose output is read."""
    command = [str(Path(sys.executable).with_name("replayring")), "top", *arguments]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def once(*arguments: str, **environment: str) -> tuple[int, str, str]:
    with top("--once", *arguments, **environment) as process:
        out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


class Terminal:
    """A process on a terminal of its own."""

    def __init__(self, *arguments: str, columns: int = 80, rows: int = 24) -> None:
        self._fd, slave = pty.openpty()
        termios.tcsetwinsize(slave, (rows, columns))
        command = [str(Path(sys.executable).with_name("replayring")), "top", *arguments]
        environment = {**os.environ, "TERM": "xterm"}
        environment = {k: v for k, v in environment.items() if k not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
        )
        os.close(slave)
        os.set_blocking(self._fd, False)
        self._seen = ""

    def seen(self) -> str:
        """Everything that was written so far."""
        try:
            while data := os.read(self._fd, 65_536):
                self._seen += data.decode(errors="replace")
        except (BlockingIOError, OSError):
            pass
        return self._seen

    def close(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        os.close(self._fd)
