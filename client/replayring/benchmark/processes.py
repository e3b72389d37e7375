"""Processes that take turns: the side of whoever gives them. The other side is `turns`."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from replayring.benchmark.turns import PERCENTILES, READY

__all__ = ["Process", "ProcessFailedError", "Worker", "summed", "together"]

START_SECONDS = 90.0
TURN_SECONDS = 60.0
END_SECONDS = 10.0
LOG_SHOWN = 2000


class ProcessFailedError(RuntimeError):
    """A process ended, or said nothing for too long; the message has the end of its log."""


class Process:
    """A process that is spoken with in lines. A context manager, which ends it.

    It is its own session, so that Ctrl-C reaches the caller alone, and is expected to end when its
    stdin does: so it ends even if the caller is killed.

    Attributes:
        pid: its process id.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Starts it.

        Args:
            command: program and arguments.
            log: the file that gets its stderr.
            cwd: its working directory; None for the caller's.
            env: what to add to the caller's environment.
        """
        self._command, self._log = command, log
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=cwd,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        self.pid = self._process.pid
        self._read = b""

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:  # in the middle of a turn, maybe, whose end nobody wants to hear
            self._process.kill()
        self.close()

    def say(self, line: str) -> None:
        """Writes a line to its stdin."""
        assert self._process.stdin
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure("ended") from None

    def hear(self, seconds: float) -> str:
        """Returns the next line of its stdout.

        Raises:
            ProcessFailedError: there was none in so many seconds.
        """
        assert self._process.stdout
        out, deadline = self._process.stdout.fileno(), time.monotonic() + seconds
        while b"\n" not in self._read:
            if not select.select([out], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise self._failure(f"said nothing for {seconds:.0f} s")
            if not (more := os.read(out, 1 << 16)):
                raise self._failure("ended")
            self._read += more
        line, _, self._read = self._read.partition(b"\n")
        return line.decode().strip()

    def close(self) -> None:
        """Ends it: by the end of its stdin, or else by force."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _failure(self, what: str) -> ProcessFailedError:
        shown = self._log.read_text(errors="replace")[-LOG_SHOWN:]
        return ProcessFailedError(f"`{' '.join(self._command)}` {what}; its log ends:\n{shown}")


class Worker(Process):
    """A process that takes turns."""

    def wait_until_ready(self) -> None:
        """Waits until it can take the first turn.

        Raises:
            ProcessFailedError: it ended, or was not ready in time.
        """
        while self.hear(START_SECONDS) != READY:  # libraries may greet on stdout
            pass

    def begin(self, seconds: float) -> None:
        """Gives it a turn of some seconds."""
        self.say(str(seconds))

    def result(self, seconds: float) -> dict[str, float]:
        """Returns what it did in the turn.

        Raises:
            ProcessFailedError: it ended, or took far longer.
        """
        result: dict[str, float] = json.loads(self.hear(seconds + TURN_SECONDS))
        return result


def together(workers: Sequence[Worker], seconds: float) -> list[dict[str, float]]:
    """Gives several workers the same turn, and returns what each did."""
    for worker in workers:
        worker.begin(seconds)
    return [worker.result(seconds) for worker in workers]


def summed(results: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns what several workers did in the same turn: of latencies, the worst."""
    return {"per_second": sum(result["per_second"] for result in results)} | {
        name: max(result[name] for result in results) for name in PERCENTILES
    }
