"""What is measured, running: a server with a full buffer, our clients, and the peers' processes."""

from __future__ import annotations

import itertools
import sys
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import replayring
from replayring.benchmark.processes import START_SECONDS, Worker
from replayring.benchmark.roles import fill
from replayring.benchmark.tasks import Task
from replayring.benchmark.workloads import FPS, Workload
from replayring_proto.query import View
from replayring_proto.ring import MappedRing, Plan
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


QUICK_FRAMES = 2_000


class Rig(ExitStack):
    """A server with one full buffer of a workload, and processes around it.

    A context manager; leaving it ends all of them.

    Attributes:
        workload: what the buffer holds.
        peers: where others are.
        folder: the buffer's directory.
        powers: of ten: capacities that are compared.
        shards: numbers of servers that are compared.
        memory: MiB of the server's memory that belong to no file, five times a second.
    """

    def __init__(self, workload: Workload, peers: Peers, folder: Path, *, quick: bool) -> None:
        """Prepares a server in an empty folder; with a small buffer, to be quick."""
        super().__init__()
        self.powers = (3, 4) if quick else (4, 5, 6, 7)
        self.shards = (2,) if quick else (1, 2, 4)
        if quick:
            workload = workload.of_capacity(QUICK_FRAMES)
        self.workload, self.peers, self._home = workload, peers, folder
        self._numbers = itertools.count()
        self.folder = folder / "data" / BUFFER
        self.memory = [0.0]
        self._watching = threading.Event()

    def __enter__(self) -> Rig:
        try:
            self._begin()
        except BaseException:
            self.close()
            raise
        return self

    def _begin(self) -> None:
        """Starts the server and fills its buffer."""
        self.server = self.enter_context(ServerProcess(self.folder.parent))
        self.wire = self._connect(same_host=False)
        self.files = self._connect(same_host=True)
        self.buffer(self.workload)
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
        return self.client(role, client.buffer(name))

    def client(self, role: str, buffer: Any) -> Worker:
        """Starts a client of our own, with a buffer of whatever client."""
        return self._busy(Task.command(), Task(role, buffer, self.workload))

    def trainer(self, role: str, *, same_host: bool = False) -> Worker:
        """Starts a client of our own that trains a network."""
        client = self.files if same_host else self.wire
        task = Task(role, client.buffer(BUFFER), self.workload)
        return self._busy(Task.command("tests.benchmarks.training"), task)

    def sharded(self, count: int) -> Any:
        """Starts servers, and returns a full buffer of all of them, over the wire."""
        addresses = []
        for number in range(count):
            data_dir = self._home / f"shard-{number}-of-{count}"
            addresses.append(self.enter_context(ServerProcess(data_dir)).address)
        client = self.enter_context(replayring.connect(addresses, timeout=60, same_host=False))
        workload = self.workload
        buffer = client.create_buffer(BUFFER, workload.data_spec, workload.capacity, fps=FPS)
        for address in addresses:  # as many actors would; one writer fills one shard
            with replayring.connect(address, timeout=60, same_host=False) as shard:
                share = shard.buffer(BUFFER)
                fill(share, workload.of_capacity(share.spec.capacity))
        return buffer

    def peer(self, python: str, module: str, role: str, *arguments: object) -> Worker:
        """Starts a peer's client."""
        return self._start(self._program(python, module, role, arguments))

    def serving(self, python: str, module: str, *arguments: object) -> str:
        """Starts a peer's server, and returns its address."""
        return self._start(self._program(python, module, "serve", arguments)).hear(START_SECONDS)

    def plain(self, name: str = BUFFER) -> Path:
        """Returns a folder that has a buffer's frames as numpy alone would: a file per column."""
        folder = self._home / f"plain-{name}"
        if not folder.exists():
            folder.mkdir()
            ring = MappedRing(self.folder.with_name(name))
            for key in ring.reader.spec.by_name:
                ring.reader.columns[key].tofile(folder / key)
        return folder

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

    def _busy(self, command: list[str], task: Task) -> Worker:
        worker = self._start(command)
        worker.say(task.line())
        return worker

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
