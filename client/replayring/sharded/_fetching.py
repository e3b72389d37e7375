"""Fetching frames of several shards: which shard has which, and putting them in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from replayring._patience import Patience
from replayring._replies import Arrays
from replayring.sharded._form import Form
from replayring.sharded._numbers import shard_of, to_all
from replayring.sharded._part import Part
from replayring.sharded._shard import Shard, ask_all, raise_first
from replayring_proto.errors import FrameNotFoundError, ReplayRingError

Numbers: TypeAlias = "npt.NDArray[np.int64]"


def at_positions(positions: Numbers, held: Mapping[Part, int]) -> tuple[Numbers, Numbers]:
    """Returns the shard that each position is on, and the position there.

    Args:
        positions: numbers of live frames over all these shards; negative ones count from the end.
        held: how many frames each shard holds, in the order of shards.

    Raises:
        FrameNotFoundError: one is out of range.
    """
    ends = np.cumsum([*held.values()])
    count = int(ends[-1])
    outside = (positions < -count) | (positions >= count)
    if outside.any():
        raise FrameNotFoundError(
            f"position {int(positions[outside][0])} is out of range: "
            + (f"{count:,} frames are live on {len(held)} shards" if count else "")
            + ("" if count else "the buffer is empty")
        )
    positions = np.where(positions < 0, positions + count, positions)
    places = np.searchsorted(ends, positions, side="right")
    numbers = np.array([part.shard.number for part in held])
    return numbers[places], positions - np.concatenate([[0], ends])[places]


def check_shards(indices: Numbers, count: int) -> None:
    """Checks that each `index` lies on one of so many shards.

    Raises:
        FrameNotFoundError: one does not.
    """
    shards = shard_of(indices)
    beyond = shards >= count
    if beyond.any():
        raise FrameNotFoundError(
            f"there is no frame with `index` {indices[beyond][0]}: it would lie on shard "
            f"{shards[beyond][0]}, and there are {count}"
        )


def fetch(
    parts: Sequence[Part],
    form: Form,
    which: str,
    shards: Numbers,
    numbers: Numbers,
    options: Mapping[str, Any],
    patience: Patience,
) -> Arrays:
    """Returns frames of several shards, each asked for its own, in the order of `numbers`.

    Args:
        parts: all shards.
        form: what is to come.
        which: what `numbers` are: "positions" or "indices".
        shards: the shard of each frame.
        numbers: what it is called there.
        options: further arguments of `Buffer.get`.
        patience: the time.
    """
    asked = np.unique(shards).tolist()
    places = {number: np.flatnonzero(shards == number) for number in asked}
    left = max(patience.remaining(), 0.001)

    def ask(shard: Shard) -> Arrays:
        wanted: Any = numbers[places[shard.number]]
        found = parts[shard.number].buffer.get(**options, **{which: wanted}, timeout=left)
        return to_all(form.check(shard, found), shard.number)

    found = ask_all([parts[number].shard for number in asked], ask)
    raise_first(found)
    fetched = [one for one in found if not isinstance(one, ReplayRingError)]
    if len(fetched) == 1:
        return fetched[0]
    form_of = fetched[0].items()
    joined = {key: np.empty((len(numbers), *a.shape[1:]), a.dtype) for key, a in form_of}
    for arrays, rows in zip(fetched, places.values(), strict=True):
        for key, array in arrays.items():
            joined[key][rows] = array
    return joined
