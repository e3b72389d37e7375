"""What is measured, running: a server with a full buffer, our clients, and the peers' processes."""

from __future__ import annotations

import itertools
import sys
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import replayring
from replayring.benchmark.processes import START_SECONDS, Worker
from replayring.benchmark.roles import fill
from replayring.benchmark.tasks import Task
from replayring.benchmark.workloads import FPS, Workload
from replayring_proto.query import View
from replayring_proto.ring import Plan
from replayring_proto.spec import BufferSpec
from tests.support import ServerProcess

ROOT = Path(__file__).parents[2]
BUFFER = "bench"


@dataclass(frozen=True)
class Peers:
    """Where the peers are; None for one that is not to be measured.

    Attributes:
        reverb: an interpreter that has Reverb.
        torchrl: one that has TorchRL.
        flight: one that has pyarrow.
        online_buffer: LeRobot's file of that name.
    """

    reverb: str | None = None
    torchrl: str | None = None
    flight: str | None = None
    online_buffer: Path | None = None


class Rig(ExitStack):
    """A server with one full buffer of a workload, and processes around it.

    A context manager; leaving it ends all of them.

    Attributes:
        workload: what the buffer holds.
        peers: where others are.
        folder: the buffer's directory.
        memory: MiB of the server's memory that belong to no file, five times a second.
    """

    def __init__(self, workload: Workload, peers: Peers, folder: Path) -> None:
        """Starts a server in an empty folder, and fills its buffer."""
        super().__init__()
        self.workload, self.peers, self._home = workload, peers, folder
        self._numbers = itertools.count()
        self.server = self.enter_context(ServerProcess(folder / "data"))
        self.wire = self._connect(same_host=False)
        self.files = self._connect(same_host=True)
        self.buffer(workload)
        self.folder = folder / "data" / BUFFER
        self.memory = [0.0]
        self._watching = threading.Event()
        watch = threading.Thread(target=self._watch)
        watch.start()
        self.callback(watch.join)
        self.callback(self._watching.set)

    def buffer(self, workload: Workload, name: str = BUFFER) -> str:
        """Makes and fills a buffer, and returns its name."""
        buffer = self.wire.create_buffer(name, workload.data_spec, workload.capacity, fps=FPS)
        fill(buffer, workload)
        return name

    def ours(self, role: str, *, same_host: bool = False, name: str = BUFFER) -> Worker:
        """Starts a client of our own."""
        client = self.files if same_host else self.wire
        worker = self._start(Task.command())
        worker.say(Task(role, client.buffer(name), self.workload).line())
        return worker

    def peer(self, python: str, module: str, role: str, *arguments: object) -> Worker:
        """Starts a peer's client."""
        return self._start(self._program(python, module, role, arguments))

    def serving(self, python: str, module: str, *arguments: object) -> str:
        """Starts a peer's server, and returns its address."""
        return self._start(self._program(python, module, "serve", arguments)).hear(START_SECONDS)

    @property
    def batch_bytes(self) -> int:
        """Bytes of a sampled batch as it crosses the wire."""
        workload = self.workload
        spec = BufferSpec.from_data_spec(workload.data_spec, workload.capacity, FPS)
        plan = Plan(spec, View.of(**workload.sampling))
        return plan.layout(workload.batch_size).nbytes

    @property
    def episode_bytes(self) -> int:
        """Bytes of an episode as it crosses the wire, its timestamps and frame indices included."""
        columns = self.workload.episode().values()
        return sum(column.nbytes for column in columns) + 16 * self.workload.episode_frames

    def _connect(self, *, same_host: bool) -> replayring.Client:
        return self.enter_context(
            replayring.connect(self.server.address, timeout=60, same_host=same_host)
        )

    def _start(self, command: list[str]) -> Worker:
        log = self._home / f"process-{next(self._numbers)}.log"
        worker = Worker(command, log, cwd=ROOT)
        self.callback(worker.close)
        return worker

    def _program(
        self, python: str, module: str, role: str, arguments: tuple[object, ...]
    ) -> list[str]:
        command = [python, "-m", f"tests.benchmarks.peers.{module}", role]
        workload = self.workload
        return [*command, workload.name, str(workload.capacity), *map(str, arguments)]

    def _watch(self) -> None:
        """Keeps `memory`."""
        status = Path(f"/proc/{self.server.pid}/status")
        while not self._watching.wait(0.2):
            lines = status.read_text().splitlines()
            (anonymous,) = (line for line in lines if line.startswith("RssAnon"))
            self.memory.append(int(anonymous.split()[1]) / 1024)


PYTHON = sys.executable
