"""Processes and signals: starts children, restarts those that fall, ends them all.

What the children do is not known here. Each runs in a session of its own, so that Ctrl-C reaches
only this process and the end is orderly; each is tethered, so that even a SIGKILL of this process
leaves none behind. Nothing here uses gRPC, since forking a process that did is not safe.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO

from replayring.demo.tether import tethered

__all__ = ["Ended", "Event", "Line", "StopSignals", "Supervisor"]

QUICK_FAILURE_SECONDS = 10.0
QUICK_FAILURES_ALLOWED = 3
SECONDS_TO_END = 5.0


@dataclass(frozen=True)
class Line:
    """A child wrote this line on its stdout."""

    name: str
    text: str


@dataclass(frozen=True)
class Ended:
    """A child ended. `how` continues a sentence: "was killed by SIGKILL".

    For a child that failed by itself it has the last line of its log as well.
    """

    name: str
    how: str
    succeeded: bool
    restarted: bool


Event = Line | Ended


@dataclass
class _Child:
    name: str
    command: Sequence[str]
    restart: bool
    environment: Mapping[str, str] | None = None
    process: subprocess.Popen[bytes] = field(init=False)
    started: float = field(init=False)
    log_start: int = 0
    quick_failures: int = 0
    unfinished_line: bytes = b""

    @property
    def stdout(self) -> IO[bytes]:
        assert self.process.stdout is not None  # every child is started with a pipe
        return self.process.stdout


class Supervisor:
    """Child processes by name, whose stderr goes to a log file each.

    A context manager; leaving it ends every child. Not thread-safe, and to be used from the main
    thread, which is the one that children are tethered to.
    """

    def __init__(self, log_folder: Path) -> None:
        """Write the children's logs to this folder, which must exist."""
        self._log_folder = log_folder
        self._children: dict[str, _Child] = {}
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        restart: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start a child, in this process's environment unless another is given.

        With `restart` it is started again whenever it ends.
        """
        self.log(name).write_bytes(b"")
        child = _Child(name, command, restart, environment)
        self._children[name] = child
        self._launch(child)

    def restart_with(self, name: str, command: Sequence[str]) -> None:
        """From now on, start this child again whenever it ends, with this command."""
        child = self._children[name]
        child.command, child.restart = command, True

    def log(self, name: str) -> Path:
        """The file that has what this child wrote on its stderr."""
        return self._log_folder / f"{name}.log"

    def pids(self) -> dict[str, int]:
        """The process id of every child that is running."""
        return {name: child.process.pid for name, child in self._children.items()}

    def events(self, timeout: float) -> list[Event]:
        """What happened, after waiting at most this many seconds for something to happen."""
        events: list[Event] = []
        for key, _ in self._selector.select(timeout):
            events += self._read(key.data)
        for child in list(self._children.values()):
            if child.process.poll() is not None:
                events += self._read(child)
                events.append(self._bury(child))
        return events

    def close(self) -> None:
        """End all children: those started last first, by SIGKILL if they take too long."""
        for child in reversed(self._children.values()):
            child.process.terminate()
        deadline = time.monotonic() + SECONDS_TO_END
        for child in reversed(self._children.values()):
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            child.stdout.close()
        self._children.clear()
        self._selector.close()

    def _launch(self, child: _Child) -> None:
        with self.log(child.name).open("ab") as log:
            child.log_start = log.tell()
            child.process = subprocess.Popen(
                tethered(child.command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                env=child.environment,
            )
        child.started = time.monotonic()
        child.unfinished_line = b""
        os.set_blocking(child.stdout.fileno(), False)
        self._selector.register(child.stdout, selectors.EVENT_READ, child)

    def _read(self, child: _Child) -> Iterator[Line]:
        while chunk := _read_available(child.stdout):
            *lines, child.unfinished_line = (child.unfinished_line + chunk).split(b"\n")
            for line in lines:
                yield Line(child.name, line.decode(errors="replace"))
        if chunk == b"":  # the end of it, which would be reported for ever
            self._stop_reading(child)

    def _stop_reading(self, child: _Child) -> None:
        if child.stdout in self._selector.get_map():
            self._selector.unregister(child.stdout)

    def _bury(self, child: _Child) -> Ended:
        self._stop_reading(child)
        child.stdout.close()
        returncode = child.process.returncode
        # A signal comes from outside and says nothing against starting again; a process that
        # keeps ending by itself would only do so once more.
        quick = time.monotonic() - child.started < QUICK_FAILURE_SECONDS
        failed_quickly = quick and returncode >= 0
        child.quick_failures = child.quick_failures + 1 if failed_quickly else 0
        how = _describe(returncode)
        if returncode > 0 and (reason := self._last_words(child)):
            how = f"{how}: {reason}"
        restarted = child.restart and child.quick_failures < QUICK_FAILURES_ALLOWED
        if restarted:
            self._launch(child)
        else:
            del self._children[child.name]
        return Ended(child.name, how, returncode == 0, restarted)

    def _last_words(self, child: _Child) -> str:
        with self.log(child.name).open("rb") as log:
            log.seek(child.log_start)  # earlier lines are those of an earlier life
            lines = log.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


class StopSignals:
    """Turns Ctrl-C, SIGTERM and SIGHUP into a flag, so that nothing is interrupted half-way.

    A context manager, for the main thread; leaving it puts back the handlers found.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._exit_stack = contextlib.ExitStack()

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            previous = signal.signal(number, self._note)
            self._exit_stack.callback(signal.signal, number, previous)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._exit_stack.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number


def _read_available(stream: IO[bytes]) -> bytes | None:
    """What has been written since; nothing yet is None, and the end is empty."""
    try:
        return os.read(stream.fileno(), 65536)
    except BlockingIOError:
        return None


def _describe(returncode: int) -> str:
    if returncode >= 0:
        return f"ended with exit code {returncode}"
    names = {number.value: number.name for number in signal.Signals}
    return f"was killed by {names.get(-returncode, f'signal {-returncode}')}"
