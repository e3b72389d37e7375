"""Many clients in one process, each with a connection and a thread of its own.

python -m tests.service.crowd ADDRESS FIRST COUNT ROUNDS
    runs clients FIRST to FIRST + COUNT - 1, prints a JSON object with what they saw
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import replayring
from tests.service.told_apart import body, episode

BUFFER, PARAMETERS = "crowd", "policy"
TIMEOUT = 60.0
ROLES = 4


class Crowd:
    """What the clients of this process do, and what they saw."""

    def __init__(self, address: str, rounds: int) -> None:
        self._address = address
        self._rounds = rounds
        self._lock = threading.Lock()
        self.seconds: list[float] = []
        self.errors: list[str] = []
        self.acknowledged: dict[int, int] = {}

    def client(self, number: int) -> None:
        """Is one client: each has a role that follows from its number."""
        try:
            with replayring.connect(self._address, timeout=TIMEOUT) as client:
                buffer = client.buffer(BUFFER)
                for sequence in range(1, self._rounds + 1):
                    if number % ROLES == 0:
                        self._timed(lambda: buffer.add_episode(episode(number, sequence)))  # noqa: B023
                        self.acknowledged[number] = sequence
                    elif number % ROLES == 1:
                        check(self._timed(lambda: buffer.sample(64)))
                    elif number % ROLES == 2:
                        check(self._timed(lambda: buffer.get([0, 1, 2])))
                        self._timed(buffer.info)
                    else:
                        self._timed(lambda: next(client.watch(PARAMETERS, timeout=TIMEOUT)))
                        if number % 64 == 3:
                            self._timed(lambda: client.publish(PARAMETERS, {"w": np.ones(9)}))
        except Exception as error:
            self.errors.append(f"client {number}: {error!r}")

    def _timed(self, call: Callable[[], object]) -> object:
        begun = time.monotonic()
        result = call()
        with self._lock:
            self.seconds.append(time.monotonic() - begun)
        return result


def check(arrays: object) -> None:
    """Checks that every frame is whole."""
    assert isinstance(arrays, dict)
    expected = body(arrays["writer"], arrays["sequence"])
    if not (arrays["body"] == expected[:, None]).all():
        raise AssertionError("a torn row")


def main() -> None:
    """Runs the clients that the command line asks for."""
    address, first, count, rounds = sys.argv[1], *map(int, sys.argv[2:])
    crowd = Crowd(address, rounds)
    with ThreadPoolExecutor(count) as threads:
        list(threads.map(crowd.client, range(first, first + count)))
    json.dump(
        {"seconds": crowd.seconds, "errors": crowd.errors, "acknowledged": crowd.acknowledged},
        sys.stdout,
    )


if __name__ == "__main__":
    main()
