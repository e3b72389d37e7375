"""Many writers and many readers of the same buffers, in processes and in threads of these.

Run as a module, this is one such process, which does its part until its stdin closes:

    write FOLDER                  threads that append to all buffers as fast as they can
    read FOLDER ROWS SEED         threads that together read so many rows and check each
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from replayring_proto.errors import OvertakenError
from replayring_server.engine import Origin, Store
from tests.engine.frames import checked_episode, checked_spec
from tests.engine.mapped import open_for_reading, read_batch

ROOT = Path(__file__).parents[2]
BUFFERS = ("a", "b")
SPEC = checked_spec(3000, width=8)
WRITERS = 6
READERS = 2
LONGEST = 300  # frames; the slack is 187, so that `low` rises as well


@contextlib.contextmanager
def member(*arguments: object) -> Iterator[Any]:
    """Runs a process of the crowd; its stdout says a line when it has begun, or is done."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.engine.crowd", *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process.stdout
    finally:
        process.communicate()


def write(folder: Path) -> None:
    """Appends to all buffers from many threads; says "full" once each has turned."""
    numbers, stopping = itertools.count(1), threading.Event()
    with Store(folder) as store, ThreadPoolExecutor(WRITERS) as threads:
        buffers = [store.create(name, SPEC)[0] for name in BUFFERS]

        def append(writer: int) -> None:
            rng = random.Random(writer)
            for sequence in itertools.count(1):
                if stopping.is_set():
                    return
                frames = rng.choice((1, rng.randint(1, 60), LONGEST))
                episode = checked_episode(SPEC, next(numbers), frames)
                rng.choice(buffers).append(episode, Origin(f"w{writer}", sequence))

        running = [threads.submit(append, writer) for writer in range(WRITERS)]
        while any(buffer.reader.live.end < 2 * SPEC.capacity for buffer in buffers):
            assert not any(thread.done() for thread in running), "a writer ended by itself"
        print("full", flush=True)
        sys.stdin.read()
        stopping.set()
        for thread in running:
            thread.result()


def read(folder: Path, rows: int, seed: int) -> None:
    """Reads and checks rows in several threads; says how many, and how many batches were torn."""
    readers = [open_for_reading(folder / name, SPEC) for name in BUFFERS]

    def read_share(number: int) -> tuple[int, int]:
        rng = random.Random(seed * READERS + number)
        done = torn = 0
        while done < rows // READERS:
            with contextlib.suppress(OvertakenError):
                size, is_torn = read_batch(rng.choice(readers), rng, rng.choice((1, 256, 2048)))
                done += size
                torn += is_torn
        return done, torn

    with ThreadPoolExecutor(READERS) as threads:
        shares = list(threads.map(read_share, range(READERS)))
    print(json.dumps([sum(numbers) for numbers in zip(*shares, strict=True)]), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    role, folder, *numbers = sys.argv[1:]
    if role == "write":
        write(Path(folder))
    else:
        read(Path(folder), *map(int, numbers))
