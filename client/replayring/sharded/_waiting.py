"""Waiting for frames of several shards: until there are enough, and what is said otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from replayring._patience import Patience, passing
from replayring._sampling import Sampling
from replayring.sharded._part import Part
from replayring.sharded._shard import AWAY
from replayring_proto.errors import ReplayRingError

SILENT_SECONDS = 1.5
"""After which a shard that answers nothing counts as away."""

Out = Mapping[Part, ReplayRingError | None]
"""The shards that the others go on without, and why, if that is known."""


class Waiting:
    """What a sampling waits for. Thread-safe."""

    def __init__(
        self, parts: Sequence[Part], sampling: Sampling, held: Callable[[float], int]
    ) -> None:
        """Presents it.

        Args:
            parts: the shards.
            sampling: what is sampled.
            held: returns the live frames of all shards, within some seconds.
        """
        self._parts = parts
        self._sampling = sampling
        self._held = held

    def patience(self, timeout: float | None) -> Patience:
        """Returns the patience for one batch; `timeout` None means the client's own."""
        caller = self._parts[0].shard.client._caller
        return caller.patience(f"sampling from {self._sampling.buffer!r}", timeout)

    def enough(self, seconds: float) -> bool:
        """Whether the shards hold `min_frames`, as far as can be found out in some seconds."""
        return self._frames_held(seconds) >= self._sampling.min_frames

    def check(self, out: Out) -> None:
        """Raises what keeps all shards from serving, if it will not pass by itself."""
        lasting = [error for error in out.values() if error is not None and not passing(error)]
        if len(lasting) == len(self._parts):
            raise type(lasting[0])(str(lasting[0]))

    def overdue(self, patience: Patience, out: Out) -> ReplayRingError:
        """Returns the error for a batch whose time is up."""
        # One that serves, else one that is away, which may be what is waited for.
        part = min(self._parts, key=lambda part: self._hopelessness(part, out))
        return part.shard.client._caller.overdue(patience, out.get(part), self._explanation)

    @staticmethod
    def _hopelessness(part: Part, out: Out) -> int:
        trouble = out.get(part)
        if not part.counts or (trouble is not None and not passing(trouble)):
            return 2
        return 1 if part in out or part.shard.lost else 0

    def _explanation(self) -> str:
        return self._sampling.waiting(f"{self._frames_held(SILENT_SECONDS):,}")

    def _frames_held(self, seconds: float) -> int:
        try:
            return self._held(max(min(seconds, SILENT_SECONDS), 0.001))
        except AWAY:
            return 0
