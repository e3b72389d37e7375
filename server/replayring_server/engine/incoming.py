"""Episodes that are about to be stored: whether they fit, and which may share an append."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from replayring_proto.episode import Array, Arrays, check_episode
from replayring_proto.errors import ReplayRingError
from replayring_proto.spec import BufferSpec
from replayring_server.engine.records import Origin, Record


@dataclass(frozen=True, slots=True)
class Checked:
    """An episode that fits the spec.

    Attributes:
        arrays: its columns, as `check_episode` returns them.
        origin: who sent it, if that is known.
        payload_hash: tells it from others; empty without an origin.
    """

    arrays: Arrays
    origin: Origin | None
    payload_hash: bytes

    @property
    def frames(self) -> int:
        """How many frames it has."""
        return len(next(iter(self.arrays.values())))

    def may_share(self, before: Checked) -> bool:
        """Whether it can be appended together with the new one before it, without a look at more.

        It is new as well if it is the same writer's and has a higher sequence. All but the last of
        a writer's records are in the log alone, which is why those of an append are one writer's.
        """
        if self.arrays.keys() != before.arrays.keys():
            return False
        if self.origin is None or before.origin is None:
            return self.origin is before.origin
        same = self.origin.writer_id == before.origin.writer_id
        return same and self.origin.sequence > before.origin.sequence

    def record(self, episode_index: int, index: int) -> Record | None:
        """Returns what the log is to say of it, given its number and its first `index`."""
        if self.origin is None:
            return None
        return Record(episode_index, index, self.frames, self.origin, self.payload_hash)


def check_all(
    spec: BufferSpec, episodes: Iterable[tuple[Mapping[str, Any], Origin | None]]
) -> tuple[list[Checked], ReplayRingError | None]:
    """Returns episodes up to the first that does not fit the spec, and why it does not."""
    checked: list[Checked] = []
    for data, origin in episodes:
        try:
            arrays = check_episode(spec, data)
        except ReplayRingError as error:
            return checked, error.with_traceback(None)  # without the frames that it has passed
        checked.append(Checked(arrays, origin, hash_arrays(arrays) if origin else b""))
    return checked, None


def side_by_side(episodes: Sequence[Checked]) -> dict[str, list[Array]]:
    """Returns, by column, the arrays of episodes that may share an append."""
    return {name: [one.arrays[name] for one in episodes] for name in episodes[0].arrays}


def hash_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Returns 16 bytes that tell episodes apart: XXH3-128 over names and values."""
    digest = xxhash.xxh3_128()
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.digest()
