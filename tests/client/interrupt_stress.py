"""A program hit by Ctrl-C again and again: `python -m tests.client.interrupt_stress ADDRESS TIMES`.

Each time it is somewhere within calls, a writer and a stream. It must get out, and its client must
go on working. Prints how many interrupts got through.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import threading
import time

import numpy as np

import replayring
from replayring.batches import BatchDataset

EPISODE = {"state": np.zeros((5, 2)), "reward": np.zeros(5)}
SPEC = {"state": {"shape": (2,), "dtype": "float32"}, "reward": {"shape": (), "dtype": "float32"}}


def use(buffer: replayring.Buffer, kind: int) -> None:
    """Uses the client until an interrupt comes."""
    if kind == 0:
        while True:
            buffer.info()
            buffer.sample(8)
            buffer.get([0])
            buffer.add_episode(EPISODE)
    if kind == 1:
        with buffer.sample_stream(8) as stream:
            for _ in stream:
                pass
    if kind == 2:
        with buffer.writer(max_in_flight_bytes=1000) as writer:
            while True:
                writer.add_episode(EPISODE)
    if kind == 3:
        with BatchDataset(buffer, 8, device="cpu") as batches:
            for _ in batches:
                pass
    buffer.sample(8, min_frames=1000)  # which never come


def main(address: str, times: int) -> int:
    """Returns how many interrupts got through to what was being done."""
    rng = random.Random(1)
    interrupts = 0
    with replayring.connect(address, timeout=60) as client:
        for number, kind in zip(range(times), itertools.cycle(range(5)), strict=False):
            buffer = client.create_buffer(f"interrupt-{os.getpid()}-{number % 7}", SPEC, 1000)
            buffer.add_episode(EPISODE)
            timer = threading.Timer(rng.uniform(0, 0.05), os.kill, (os.getpid(), signal.SIGINT))
            try:
                timer.start()
                use(buffer, kind)
            except KeyboardInterrupt:
                interrupts += 1
            try:
                timer.join()
                time.sleep(0)  # where it may strike late
            except KeyboardInterrupt:
                pass
            assert buffer.info().num_episodes >= 1
    return interrupts


if __name__ == "__main__":
    print(main(sys.argv[1], int(sys.argv[2])))
