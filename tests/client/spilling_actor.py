"""An actor as a process of its own, which fills memory and its spill directory and then waits.

    python -m tests.client.spilling_actor ADDRESS SPILL_DIR EPISODES

It says `held SEQUENCE ...` when all its episodes are queued, with the server away, and lives on.
"""

from __future__ import annotations

import sys
import threading

import numpy as np

import replayring


def main(address: str, spill_dir: str, episodes: int) -> None:
    with replayring.connect(address, timeout=60) as client:
        writer = client.buffer("b").writer(spill_dir=spill_dir, max_in_flight_bytes=1)
        writer.add_episode(episode(1))
        writer.flush()
        print("go", flush=True)
        sys.stdin.readline()  # the server is away by now
        for number in range(2, episodes + 1):
            writer.add_episode(episode(number))
        print("held", *writer.pending, flush=True)
        threading.Event().wait()


def episode(number: int) -> dict[str, np.ndarray]:
    return {"state": np.full((3, 2), number), "reward": np.full(3, number)}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
