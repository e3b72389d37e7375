"""Numbers that are valid over all shards: a shard's own, with the shard's number above them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from replayring._adding import Acknowledgement
from replayring._replies import Arrays
from replayring_proto.spec import EPISODE_INDEX, INDEX

SHARD_BITS = 48
MAX_SHARDS = 1 << 15

_LOCAL = (1 << SHARD_BITS) - 1


def shard_of(index: Any) -> Any:
    """Returns the number of the shard that frames or episodes lie on.

    Args:
        index: values of `index` or `episode_index`: an integer, or an array or tensor of any shape.

    Returns:
        The place of each one's shard in `ShardedClient.shards`, in the form of `index`.
    """
    return index >> SHARD_BITS


def to_all(arrays: Arrays, shard: int) -> Arrays:
    """Returns a shard's arrays with numbers that are valid over all shards; changed in place."""
    for key in (INDEX, EPISODE_INDEX):
        if shard and key in arrays:
            arrays[key] += shard << SHARD_BITS
    return arrays


def acknowledged_at(shard: int, acknowledgement: Acknowledgement) -> Acknowledgement:
    """Returns a shard's acknowledgement with numbers that are valid over all shards."""
    above = shard << SHARD_BITS
    return replace(
        acknowledgement,
        episode_index=acknowledgement.episode_index + above,
        index=acknowledgement.index + above,
    )


def apart(indices: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns the shard of each frame, and its `index` there."""
    return indices >> SHARD_BITS, indices & _LOCAL
