"""Deaths at every step of the engine: each line of it that a life runs is one.

The steps are written down nowhere, so they cannot fall behind the code: `sys.settrace` stops a life
before every line of the engine, of the ring's counters, of opening files, and of `shutil`, which
removes folders file by file. To die before one line a second time, with every file as it was the
first time, would leave nothing new; so a point of death is a line together with what files hold.

`Mortals` is a small process that has imported everything and forks one life per request. A life
does things to a store and kills itself (SIGKILL) before the step that it was told.

Run as a module, this is that process: a JSON object per line on stdin starts a life.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from replayring_proto import files, layout
from replayring_proto.layout import LOCK
from replayring_proto.pack import Pack
from replayring_proto.ring import counters
from replayring_proto.spec import BufferSpec
from replayring_server import engine, snapshots
from replayring_server.engine import Origin, Store, Stored, syncer

ROOT = Path(__file__).parents[2]
WRITER = "writer"
NEVER = 1 << 62

_FOLDERS = tuple(str(Path(package.__file__).parent) for package in (engine, snapshots))
_STEPPED = {
    counters.__file__,
    files.__file__,
    shutil.__file__,
    str(Path(__file__).with_name("mutations.py")),  # a planted defect is part of the engine
}

Deed = list[Any]
"""A method of `Hand` and its arguments."""


@dataclasses.dataclass
class Death:
    """How a life ended.

    Attributes:
        done: how many of its deeds were finished.
        kinds: where it took steps, as MODULE.FUNCTION, if it was not to die.
        points: the numbers of the steps that are points of death, and of these
        changes: the first ones before which the files hold what they did not hold before.
        error: what ended it besides a kill, or nothing.
    """

    done: int = 0
    kinds: list[str] = dataclasses.field(default_factory=list)
    points: list[int] = dataclasses.field(default_factory=list)
    changes: list[int] = dataclasses.field(default_factory=list)
    error: str = ""


class Mortals:
    """Lets lives do things and die. A context manager; leaving it ends the process."""

    def __enter__(self) -> Mortals:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.engine.failpoints"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def live(
        self,
        folder: Path,
        deeds: list[Deed],
        first: int = 0,
        die_at: int = NEVER,
        boot: int = 1,
        mutation: str = "",
    ) -> Death:
        """Lets a life do `deeds` in `folder` and end without `close`.

        Args:
            folder: the data directory.
            deeds: what to do.
            first: the first deed whose steps count.
            die_at: the step before which it kills itself.
            boot: which start of the machine this is.
            mutation: a defect to live with, by its name in `tests.engine.mutations`.
        """
        life = {"folder": str(folder), "deeds": deeds, "first": first, "die_at": die_at}
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({**life, "boot": boot, "mutation": mutation}) + "\n")
        death = Death()
        while True:
            line = self._process.stdout.readline()
            assert line, "the process that starts lives died"
            word, content = json.loads(line)
            if word == "done":
                death.done += 1
            elif word == "steps":
                death.kinds, death.points, death.changes = content
            elif word == "error":
                death.error = content
            else:
                return death


def spec_of(capacity: int, durability: str) -> BufferSpec:
    """Returns a spec of few files."""
    columns = {"value": {"shape": (), "dtype": "int64"}}
    return BufferSpec.from_data_spec(columns, capacity, durability=durability)


def episode_of(tag: int, frames: int) -> dict[str, np.ndarray]:
    """Returns an episode that no other tag has."""
    return {"value": tag * 1000 + np.arange(frames)}


class Hand:
    """Does to a store what it is told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def do(self, deed: Deed) -> Any:
        """Does one deed."""
        return getattr(self, deed[0])(*deed[1:])

    def open(self) -> None:
        self.store = Store(self.folder)

    def close(self) -> None:
        self.store.close()

    def create(self, name: str, capacity: int, durability: str) -> bool:
        return self.store.create(name, spec_of(capacity, durability))[1]

    def delete(self, name: str) -> None:
        self.store.delete(name)

    def append(self, name: str, tag: int, frames: int, *, named: bool = True) -> Stored:
        buffer = self.store.get(name)
        origin = Origin(WRITER, tag) if named else None
        return buffer.append(episode_of(tag, frames), origin)

    def append_unnamed(self, name: str, tag: int, frames: int) -> Stored:
        return self.append(name, tag, frames, named=False)

    def sync(self, name: str) -> None:
        self.store.get(name).sync()

    def publish(self, name: str, version: int) -> int:
        return self.store.parameters.publish(name, Pack.of({"version": np.array(version)}))

    def snapshot(self, data_dir: str) -> None:
        """Copies another data directory to the folder, in parts of nine frames."""
        snapshots.parts.PART_BYTES = 512
        snapshots.snapshot(data_dir, str(self.folder))

    def restore(self, source: str) -> None:
        snapshots.restore(source, self.folder)


class Steps:
    """Counts the steps of the thread that entered it, and ends the process before one of them.

    If there is none to die at, it notes which there are.
    """

    def __init__(self, folder: Path, die_at: int) -> None:
        self.kinds: set[str] = set()
        self.points: list[int] = []
        self.changes: list[int] = []
        self._die_at = die_at
        self._count = 0
        self._files = Files(folder)
        self._last = self._files.look()
        self._lines: set[tuple[str, int]] = set()  # seen since the files changed

    def __enter__(self) -> Steps:
        sys.settrace(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _called(self, frame: FrameType, event: str, argument: Any) -> Any:
        path = frame.f_code.co_filename
        return self._step if path in _STEPPED or path.startswith(_FOLDERS) else None

    def _step(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            if self._count == self._die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            if self._die_at == NEVER:
                self._note(frame)
            self._count += 1
        return self._step

    def _note(self, frame: FrameType) -> None:
        path = frame.f_code.co_filename
        self.kinds.add(f"{Path(path).stem}.{frame.f_code.co_name}")
        files = self._files.look()
        if files != self._last:
            self._last = files
            self._lines.clear()
            self.changes.append(self._count)
        if (path, frame.f_lineno) not in self._lines:
            self._lines.add((path, frame.f_lineno))
            self.points.append(self._count)


class Files:
    """Looks at a data directory again and again, and keeps open what it has seen, to be quick."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._open: dict[tuple[str, int], int] = {}

    def look(self) -> dict[str, bytes]:
        """Returns what lies there, by path; of the lock, which is no state, nothing."""
        found: dict[str, bytes] = {}
        self._look_into(self._folder, found)
        return found

    def _look_into(self, folder: str, found: dict[str, bytes]) -> None:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.is_dir():
                    found[entry.path] = b""
                    self._look_into(entry.path, found)
                elif entry.name != LOCK:
                    key = entry.path, entry.inode()
                    if key not in self._open:
                        self._open[key] = os.open(entry.path, os.O_RDONLY)
                    found[entry.path] = os.pread(self._open[key], 1 << 20, 0)

    def close(self) -> None:
        """Closes what was kept open."""
        while self._open:
            os.close(self._open.popitem()[1])


def main() -> None:
    """Starts a life for each line, and says when it is dead."""
    syncer.INTERVAL_S = 3600.0  # what a life does, it does because it was told
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            live(**json.loads(line))
            os._exit(0)
        os.waitpid(pid, 0)
        say("dead")


def live(folder: str, deeds: list[Deed], first: int, die_at: int, boot: int, mutation: str) -> None:
    """Does everything that was asked for, or dies."""
    boot_id, ids = boot.to_bytes(16, "big"), itertools.count(1)
    layout.machine_boot_id = lambda: boot_id
    uuid.uuid4 = lambda: uuid.UUID(int=next(ids))
    if mutation:
        from tests.engine.mutations import MUTATIONS

        MUTATIONS[mutation](setattr)
    hand = Hand(Path(folder))
    try:
        for deed in deeds[:first]:
            hand.do(deed)
            say("done")
        with Steps(hand.folder, die_at) as steps:
            for deed in deeds[first:]:
                hand.do(deed)
                say("done")
        if die_at == NEVER:
            say("steps", [sorted(steps.kinds), steps.points, steps.changes])
    except Exception as error:
        sys.settrace(None)
        say("error", repr(error))


def say(word: str, content: Any = None) -> None:
    """Says something on stdout."""
    line = json.dumps([word, content]).encode() + b"\n"
    while line:
        line = line[os.write(1, line) :]


if __name__ == "__main__":
    main()
