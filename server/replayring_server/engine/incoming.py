"""Episodes that are about to be stored: whether they fit, and which may share an append.

A large column may come as `Rows`: it is never one array, but goes from where it was received right
into the ring.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from replayring_proto.arrays import Array
from replayring_proto.episode import check_episode
from replayring_proto.errors import ReplayRingError
from replayring_proto.spec import BufferSpec
from replayring_server.engine.records import Origin, Record


class Rows:
    """An array whose rows lie in several places, one run after another. At least one row.

    Attributes:
        runs: arrays of one dtype and one shape but for their length; not aligned, maybe.
        shape: the shape of the whole.
        dtype: its dtype.
    """

    __slots__ = ("dtype", "runs", "shape")

    def __init__(self, runs: Sequence[Array]) -> None:
        self.runs = runs
        self.dtype = runs[0].dtype
        self.shape = (sum(map(len, runs)), *runs[0].shape[1:])

    def joined(self) -> Array:
        """Returns it as one array."""
        return np.concatenate(self.runs)

    def outline(self) -> Array:
        """Returns an array of its dtype and shape that holds nothing and takes no memory."""
        return np.broadcast_to(np.zeros((), self.dtype), self.shape)


@dataclass(frozen=True, slots=True)
class Checked:
    """An episode that fits the spec.

    Attributes:
        columns: its columns in the spec's dtypes, each as arrays whose rows follow each other.
        frames: how many it has.
        origin: who sent it, if that is known.
        payload_hash: tells it from others; empty without an origin.
    """

    columns: Mapping[str, Sequence[Array]]
    frames: int
    origin: Origin | None
    payload_hash: bytes

    def may_share(self, before: Checked) -> bool:
        """Whether it can be appended together with the new one before it, without a look at more.

        It is new as well if it is the same writer's and has a higher sequence. All but the last of
        a writer's records are in the log alone, which is why those of an append are one writer's.
        """
        if self.columns.keys() != before.columns.keys():
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
    """Returns episodes up to the first that does not fit the spec, and why it does not.

    Args:
        spec: what the buffer holds.
        episodes: data and origin of each. Data is as `check_episode` takes it, or in `Rows`.
    """
    checked: list[Checked] = []
    for data, origin in episodes:
        try:
            columns = _columns(spec, data)
        except ReplayRingError as error:
            return checked, error.with_traceback(None)  # without the frames that it has passed
        frames = sum([len(run) for run in next(iter(columns.values()))])
        payload_hash = hash_arrays(columns) if origin else b""
        checked.append(Checked(columns, frames, origin, payload_hash))
    return checked, None


def _columns(spec: BufferSpec, data: Mapping[str, Any]) -> dict[str, Sequence[Array]]:
    """Returns the columns of an episode that fits the spec.

    Raises:
        InvalidEpisodeError: it does not.
    """
    if not isinstance(data, Mapping) or Rows not in map(type, data.values()):
        return {name: (array,) for name, array in check_episode(spec, data).items()}
    whole = dict(data)
    in_runs = {name: value for name, value in data.items() if isinstance(value, Rows)}
    for name, rows in list(in_runs.items()):
        column = spec.declared.get(name)
        if column is not None and column.dtype == rows.dtype:
            whole[name] = rows.outline()  # values matter only where they are to be converted
        else:
            whole[name] = in_runs.pop(name).joined()
    arrays = check_episode(spec, whole)
    return {
        name: in_runs[name].runs if name in in_runs else (array,) for name, array in arrays.items()
    }


def side_by_side(episodes: Sequence[Checked]) -> dict[str, Sequence[Array]]:
    """Returns the columns of episodes that may share an append, one episode after another."""
    if len(episodes) == 1:
        return dict(episodes[0].columns)
    return {
        name: [run for one in episodes for run in one.columns[name]] for name in episodes[0].columns
    }


def hash_arrays(columns: Mapping[str, Sequence[npt.NDArray[Any]]]) -> bytes:
    """Returns 16 bytes that tell episodes apart: XXH3-128 over names and values."""
    digest = xxhash.xxh3_128()
    for name in sorted(columns):
        digest.update(name.encode())
        for run in columns[name]:
            digest.update(np.ascontiguousarray(run).data)
    return digest.digest()
