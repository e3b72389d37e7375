"""An actor for tests that freeze it: writes large episodes until its stdin closes.

python -m tests.service.frozen_actor ADDRESS
    prints a line for each acknowledged episode, and at the end "errors: []" or what went wrong
"""

from __future__ import annotations

import sys
import threading

import numpy as np

import replayring

BUFFER = "frozen"
FRAMES = 12
MIB = 1 << 20
DATA_SPEC = {"image": {"shape": (MIB,), "dtype": "uint8"}}


def episode(sequence: int) -> dict[str, np.ndarray]:
    """Returns an episode of many chunks, so that it is mostly in the middle of being sent."""
    return {"image": np.full((FRAMES, MIB), sequence % 251, np.uint8)}


def main() -> None:
    """Writes until stdin closes."""
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    errors = []
    try:
        with replayring.connect(sys.argv[1], timeout=60) as client:
            buffer = client.buffer(BUFFER)
            sequence = 0
            while not stop.is_set():
                sequence += 1
                buffer.add_episode(episode(sequence))
                print(sequence, flush=True)
    except Exception as error:
        errors.append(repr(error))
    print(f"errors: {errors}", flush=True)


if __name__ == "__main__":
    main()
