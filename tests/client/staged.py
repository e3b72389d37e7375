"""A device that is as late as it may, and batches to bring there."""

from __future__ import annotations

import threading

import numpy as np
import torch

from replayring._device import Link, Sent
from tests.client.scripted_streams import Arrays, Together

_POISON = 0xA5


class LateCopy:
    """A copy that is not made before somebody waits for it, as a device may be that late."""

    def __init__(self, source: torch.Tensor, target: torch.Tensor) -> None:
        self._source, self.target = source, target
        self._made = False
        self._lock = threading.Lock()

    def query(self) -> bool:
        return self._made

    def synchronize(self) -> None:
        with self._lock:
            if not self._made:
                self.target.copy_(self._source)
                self._made = True


class LateLink(Link):
    """A device whose copies come as late as they may, and whose fresh memory is poisoned."""

    def __init__(self) -> None:
        self.sent: list[LateCopy] = []

    def allocate(self, nbytes: int) -> torch.Tensor:
        return torch.full((nbytes,), _POISON, dtype=torch.uint8)

    def send(self, block: torch.Tensor) -> Sent:
        copy = torch.full_like(block, _POISON)
        # Its own tensor of the same memory, so that it is the stage that keeps the other one.
        target = torch.empty(0, dtype=torch.uint8).set_(copy.untyped_storage())
        self.sent.append(LateCopy(block.view(-1), target))
        return Sent(copy, self.sent[-1])

    def receive(self, sent: Sent) -> None:
        sent.event.synchronize()


def batch(number: int, rows: int = 4) -> Arrays:
    values = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3) + number
    return {"x": values, "done": np.arange(rows) % 2 == number % 2, "n": np.full(rows, number)}


def together(*numbers: int) -> Together:
    parts = [batch(number) for number in numbers]
    return Together({key: np.concatenate([p[key] for p in parts]) for key in parts[0]}, len(parts))
