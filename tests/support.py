"""What tests of a running server share: the server as a process, and as an object in this process.

The raw client that talks to either is `tests.wire`.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import psutil

from replayring_proto.limits import ServerLimits
from replayring_server.engine import Store
from replayring_server.server import Server
from replayring_server.service.calls import Calls

if TYPE_CHECKING:
    import pytest

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds after which something that should happen has not. Never how long a test takes."""

LISTENING = "replayring listening on "


def eventually(condition: Callable[[], T], what: str, patience: float = PATIENCE) -> T:
    """Returns the first truthy value of `condition`, asked again and again."""
    deadline = time.monotonic() + patience
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {patience} s")
        time.sleep(0.01)
    return value


@dataclass
class MemoryPeak:
    """The highest resident memory that was seen, above that at the beginning, in bytes."""

    growth: int = 0


def command(*arguments: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
    """Runs one of the server's commands, which is expected to end by itself."""
    line = [sys.executable, "-m", "replayring_server", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=timeout, check=False)


def refusal_of(*arguments: str) -> str:
    """Runs `serve`, which must end with 1 and say why in one line; returns the line."""
    done = command("serve", *arguments)
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if " ERROR " in line]
    assert len(errors) == 1, done.stderr
    return errors[0]


def plant(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has servers that are started run `code` before anything else."""
    (folder / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv("PLANTED_IN", str(folder))


def hold_up(
    patch: pytest.MonkeyPatch, owner: type, name: str
) -> tuple[threading.Event, threading.Event]:
    """Holds a method up; returns what is set once it was entered, and what lets it go on."""
    entered, go_on = threading.Event(), threading.Event()
    real = getattr(owner, name)

    def held_up(*arguments: Any, **options: Any) -> Any:
        entered.set()
        assert go_on.wait(PATIENCE)
        return real(*arguments, **options)

    patch.setattr(owner, name, held_up)
    return entered, go_on


class ServerProcess:
    """`python -m replayring_server serve` on a free port of 127.0.0.1, ready when made.

    A context manager: whatever happened to the process, it is gone at the end.

    Attributes:
        data_dir: what it serves.
        address: where it listens, HOST:PORT.
        log: the file that gets its stderr.
    """

    def __init__(
        self,
        data_dir: Path,
        *arguments: str,
        listen: str = "127.0.0.1:0",
        prefix: Sequence[str] = (),
    ) -> None:
        """Starts it with more `arguments`, and `prefix` before its command line."""
        self.data_dir = data_dir
        self.log = data_dir.parent / f"{data_dir.name}.log"
        command = [*prefix, sys.executable, "-m", "replayring_server", "serve"]
        command += ["--data-dir", str(data_dir), "--listen", listen, *arguments]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        try:
            self.address = self._wait_for_address()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def stats(self) -> psutil.Process:
        """Its resources."""
        return psutil.Process(self._process.pid)

    @contextmanager
    def memory_peak(self) -> Iterator[MemoryPeak]:
        """Measures by how much its resident memory grows, at most, within the context."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")  # the peak begins anew
        before, measured = self._peak(), MemoryPeak()
        yield measured
        measured.growth = self._peak() - before

    def _peak(self) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) << 10

    def log_text(self) -> str:
        """Returns what it has logged so far."""
        return self.log.read_text()

    def signal(self, number: int) -> None:
        """Sends it a signal."""
        self._process.send_signal(number)

    def wait(self, patience: float = PATIENCE) -> int:
        """Returns its exit code once it has ended."""
        return self._process.wait(patience)

    def running(self) -> bool:
        """Returns whether it has not ended yet."""
        return self._process.poll() is None

    def stop(self) -> int:
        """Stops it as an orchestrator does, and returns its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """Kills it with SIGKILL and waits until it is gone."""
        self.signal(signal.SIGKILL)
        self.wait()

    def close(self) -> None:
        """Makes sure that it is gone."""
        if self.running():
            self._process.kill()
        self._process.wait(PATIENCE)
        if self._process.stdout:
            self._process.stdout.close()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _wait_for_address(self) -> str:
        assert self._process.stdout is not None
        line = read_line(self._process.stdout.fileno())
        if not line.startswith(LISTENING):
            raise AssertionError(f"the server said {line!r} and logged:\n{self.log_text()}")
        return line.removeprefix(LISTENING).strip()


def read_line(fd: int, patience: float = PATIENCE) -> str:
    """Returns the next line of a pipe, or what there was of it when the pipe closed."""
    deadline = time.monotonic() + patience
    line = b""
    while not line.endswith(b"\n"):
        if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise AssertionError(f"no whole line within {patience} s, only {line!r}")
        byte = os.read(fd, 1)
        if not byte:
            break
        line += byte
    return line.decode()


class LocalServer:
    """A server in this process, on a thread of its own, so that tests can reach into it.

    Attributes:
        store: what it serves.
        server: the server.
        address: where it listens, HOST:PORT.
    """

    def __init__(self, data_dir: Path, limits: ServerLimits | None = None, **security: Any) -> None:
        """Starts it with the `certificates` and `tokens` that `Server` takes."""
        self.store = Store(data_dir, limits)
        self._security = security
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="local-server")
        self._thread.start()
        self.address = f"127.0.0.1:{self.run(self._start())}"

    def run(self, work: Coroutine[Any, Any, T], patience: float = PATIENCE) -> T:
        """Runs `work` on the server's event loop and returns its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(patience)

    @property
    def calls(self) -> Calls:
        """The calls in flight."""
        return self.server._service._calls

    async def _start(self) -> int:
        self.server = Server(self.store, **self._security)
        return await self.server.start("127.0.0.1", 0)

    def close(self) -> None:
        """Stops it at once; calls still in flight are cut."""
        try:
            self.run(self.server.stop(0))
        finally:
            self.store.close()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(PATIENCE)
            self._loop.close()

    def __enter__(self) -> LocalServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
