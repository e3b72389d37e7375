"""Lives of a writing server, to be ended by SIGKILL.

`Zygote` is a small process that has imported everything and forks one process per life, which costs
milliseconds. A life opens the store, appends self-checking episodes, and says before and after each
what it does. Whoever holds the zygote kills lives by their process id.

Run as a module, this is the zygote: a JSON object per line on stdin starts a life.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from replayring_proto.spec import BufferSpec
from replayring_server.engine import Origin, Store
from tests.engine.frames import checked_episode, checked_spec

BUFFER = "ring"
WRITER = "writer"
ROOT = Path(__file__).parents[2]


@dataclasses.dataclass
class Sent:
    """An episode that a life was about to append, and what became of it as far as it said."""

    sequence: int
    frames: int
    index: int | None = None  # of its first frame, once acknowledged


class Life:
    """One life, as its killer sees it."""

    def __init__(self, zygote: Zygote, pid: int) -> None:
        self.pid = pid
        self.dead = False
        self.sent: list[Sent] = []
        self._zygote = zygote

    def read_one(self) -> bool:
        """Reads one thing that the life said; False when it is dead."""
        word, *numbers = self._zygote.read()
        if word == "dead":
            self.dead = True
            return False
        if word == "send":
            self.sent.append(Sent(*numbers))
        elif word == "stored":
            sequence, index = numbers
            next(sent for sent in reversed(self.sent) if sent.sequence == sequence).index = index
        return True

    def wait_for_first_append(self) -> None:
        """Reads until the life has stored an episode."""
        while not (self.sent and self.sent[-1].index is not None):
            assert self.read_one(), "the writer ended by itself"

    def kill(self) -> None:
        """Ends the life, if it has not ended, and reads what it said until then."""
        if not self.dead:
            os.kill(self.pid, signal.SIGKILL)
        while not self.dead:
            self.read_one()


class Zygote:
    """Starts lives, one at a time. A context manager; leaving it ends the life and the process."""

    _life: Life | None = None

    def __enter__(self) -> Zygote:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.engine.killed_writer"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        return self

    def __exit__(self, *_: object) -> None:
        if self._life:
            self._life.kill()
        self._process.communicate()

    def start(self, folder: Path, spec: BufferSpec, **plan: Any) -> Life:
        """Starts a life in `folder`; `plan` is what `live` takes."""
        width = spec.column("b.bytes").shape[0]
        command = {"folder": str(folder), "capacity": spec.capacity, "width": width, **plan}
        assert self._process.stdin
        self._process.stdin.write(json.dumps(command) + "\n")
        word, pid = self.read()
        assert word == "born"
        self._life = Life(self, pid)
        return self._life

    def read(self) -> tuple[Any, ...]:
        """Returns the next thing said: a word, and numbers."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "the zygote died"
        word, *numbers = line.split()
        return word, *map(int, numbers)


def main() -> None:
    """The zygote: starts a life for each line, and says when it is dead."""
    for line in sys.stdin:
        command = json.loads(line)
        pid = os.fork()
        if not pid:
            say("born", os.getpid())
            live(**command)
            os._exit(0)
        os.waitpid(pid, 0)
        say("dead")


def live(
    folder: str,
    capacity: int,
    width: int,
    first: int,
    longest: int,
    seed: int = 0,
    retry: tuple[int, int] | None = None,
    quiet: bool = False,
) -> None:
    """Appends episodes until killed, some of them together.

    Args:
        folder: the data directory.
        capacity: of the buffer.
        width: of its widest column, in bytes.
        first: sequence of the first episode.
        longest: frames of the longest episodes.
        seed: of their lengths.
        retry: sequence and frames of an episode to send again first.
        quiet: say nothing after the first episode.
    """
    spec = checked_spec(capacity, width)
    buffer, _ = Store(folder).create(BUFFER, spec)
    for group in plan(random.Random(seed), first, longest, retry):
        heard = not quiet or group[0][0] == first
        if heard:
            for sequence, frames in group:
                say("send", sequence, frames)
        stored, refusal = buffer.store_all(
            (checked_episode(spec, sequence, frames), Origin(WRITER, sequence))
            for sequence, frames in group
        )
        assert refusal is None
        if heard:
            for (sequence, _), one in zip(group, stored, strict=True):
                say("stored", sequence, one.index)


def plan(
    rng: random.Random, first: int, longest: int, retry: tuple[int, int] | None
) -> Iterator[list[tuple[int, int]]]:
    """Yields the sequences and lengths of a life's episodes, in groups that are sent together."""
    if retry:
        yield [retry]
    sequences = iter(range(first, 1 << 62))
    while True:
        count = rng.choice((1, 1, 4))
        yield [
            (sequence, rng.choice((1, rng.randint(1, longest), longest)))
            for sequence in islice(sequences, count)
        ]


def say(word: str, *numbers: int) -> None:
    """Says something in one write, which a kill cannot cut in two."""
    os.write(1, " ".join((word, *map(str, numbers))).encode() + b"\n")


if __name__ == "__main__":
    main()
