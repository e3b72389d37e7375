"""Sampling weights over an offline dataset and an online buffer.

Owns which frames may be drawn and with what weight. Asks datasets for their episodes only, in the
forms that LeRobot's datasets and ring buffers have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from replayring._arguments import as_dataset, share, whole
from replayring_proto.arrays import as_array
from replayring_proto.errors import InvalidRequestError
from replayring_proto.spec import EPISODE_INDEX, INDEX

__all__ = ["compute_sampler_weights"]

Mask = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]


def compute_sampler_weights(
    offline_dataset: Any,
    offline_drop_n_last_frames: int = 0,
    online_dataset: Any = None,
    online_sampling_ratio: float | None = None,
    online_drop_n_last_frames: int = 0,
) -> Tensor:
    """Returns the weight with which to sample each item of [offline; online].

    Within each dataset all frames weigh the same, except the last ones of each episode, which may
    be left out. Between them, `online_sampling_ratio` of the weight is the online one's. If one
    side has no frame to draw (it is empty, or all its frames are left out), the other has all the
    weight. Episodes are told apart by `index` and `episode_index`, so those that wrap round the end
    of a ring, or have lost their oldest frames, are weighed exactly.

    A buffer may grow meanwhile. The weights are those of one moment, and so is their length; see
    `WeightedSampler` for following it.

    Args:
        offline_dataset: a LeRobotDataset, in any version: with `episode_data_index["from"/"to"]`,
            or `meta.episodes["dataset_from_index"/"dataset_to_index"]` where some of the episodes
            may be loaded. A RemoteDataset will do as well.
        offline_drop_n_last_frames: frames to leave out at the end of each offline episode.
        online_dataset: a RemoteDataset, or any other with `get_data_by_key` and a length.
        online_sampling_ratio: share of the online dataset, in [0, 1].
        online_drop_n_last_frames: frames to leave out at the end of each online episode.

    Returns:
        A float32 tensor of shape (offline + online frames,), that sums to 1.

    Raises:
        ValueError: only one of `online_dataset` and `online_sampling_ratio` is given, the ratio is
            outside [0, 1], a number of frames to drop is none or negative, a dataset has no length
            or tells of no episodes, or there is nothing left to draw.
    """
    drop_offline = whole(offline_drop_n_last_frames, "offline_drop_n_last_frames", 0)
    drop_online = whole(online_drop_n_last_frames, "online_drop_n_last_frames", 0)
    if (online_dataset is None) != (online_sampling_ratio is None):
        raise InvalidRequestError("give both online_dataset and online_sampling_ratio, or neither")
    ratio = share(0.0 if online_sampling_ratio is None else online_sampling_ratio)
    offline = _eligible(as_dataset(offline_dataset, "offline_dataset"), drop_offline)
    online = np.zeros(0, np.bool_)
    if online_dataset is not None:
        online = _eligible(as_dataset(online_dataset, "online_dataset"), drop_online)
    return torch.from_numpy(_weigh(offline, online, ratio))


def _weigh(offline: Mask, online: Mask, ratio: float) -> npt.NDArray[np.float32]:
    offline_count, online_count = int(offline.sum()), int(online.sum())
    if not offline_count and not online_count:
        raise InvalidRequestError(
            f"nothing to sample: of {len(offline):,} offline and {len(online):,} online frames "
            "none is left; add data, or drop fewer frames of each episode"
        )
    if not offline_count or not online_count:
        ratio = 0.0 if offline_count else 1.0
    offline_weight = np.float32((1 - ratio) / max(offline_count, 1))
    online_weight = np.float32(ratio / max(online_count, 1))
    zero = np.float32(0)
    return np.concatenate(
        [np.where(offline, offline_weight, zero), np.where(online, online_weight, zero)]
    )


def _eligible(dataset: Any, drop: int) -> Mask:
    """Returns which items may be drawn: those that `drop` more frames of their episode follow."""
    if hasattr(dataset, "get_data_by_key"):
        return _eligible_in_ring(dataset, drop)
    count = len(dataset)
    if not count:
        return np.zeros(0, np.bool_)  # whose tables of episodes may be empty or missing
    if hasattr(dataset, "episode_data_index"):
        starts, ends = _table(dataset.episode_data_index, "from", "to")
        return _eligible_in_table(starts, ends, drop, count)
    episodes = getattr(getattr(dataset, "meta", None), "episodes", None)
    starts, ends = _table(episodes, "dataset_from_index", "dataset_to_index")
    absolute, relative = _loaded(dataset, count)
    if absolute is None:
        return _eligible_in_table(starts, ends, drop, count)
    total = max(ends.max(initial=0), absolute.max(initial=-1) + 1)
    mask = np.zeros(count, np.bool_)
    mask[relative] = _eligible_in_table(starts, ends, drop, total)[absolute]
    return mask


def _eligible_in_ring(dataset: Any, drop: int) -> Mask:
    """Eligible frames of a ring buffer, whose columns come in the order of its slots."""
    if hasattr(dataset, "read_columns"):
        columns = dataset.read_columns([INDEX, EPISODE_INDEX])
    else:
        columns = {key: dataset.get_data_by_key(key) for key in (INDEX, EPISODE_INDEX)}
    # In order of `index`, every episode is in one piece. The sort meets two sorted runs, which
    # costs numpy's stable one (timsort) hardly more than reading them.
    order = np.argsort(as_array(columns[INDEX]), kind="stable")
    episode_index = as_array(columns[EPISODE_INDEX])[order]
    bounds = np.flatnonzero(episode_index[1:] != episode_index[:-1]) + 1
    starts = np.concatenate([[0], bounds])
    ends = np.concatenate([bounds, [len(order)]])
    mask = np.zeros(len(order), np.bool_)
    mask[order] = _eligible_in_table(starts, ends, drop, len(order))
    return mask


def _eligible_in_table(starts: Integers, ends: Integers, drop: int, count: int) -> Mask:
    """Eligible ones of `count` items, where episode i consists of items [starts[i], ends[i])."""
    if ((starts < 0) | (ends < starts) | (ends > count)).any():
        raise InvalidRequestError(
            f"the dataset's table of episodes goes beyond its {count:,} frames; if only some of "
            "its episodes are loaded, it needs absolute_to_relative_idx or hf_dataset['index']"
        )
    steps = np.zeros(count + 1, np.int64)
    np.add.at(steps, starts, 1)
    np.add.at(steps, np.maximum(ends - min(drop, count), starts), -1)
    return np.cumsum(steps[:-1]) > 0


def _table(episodes: Any, start_key: str, end_key: str) -> tuple[Integers, Integers]:
    try:
        starts, ends = _integers(episodes[start_key]), _integers(episodes[end_key])
    except (KeyError, TypeError, InvalidRequestError):
        raise InvalidRequestError(
            f"the offline dataset has frames but no table of episodes ({start_key!r}, "
            f"{end_key!r}); LeRobot datasets have one in episode_data_index or meta.episodes"
        ) from None
    if len(starts) != len(ends):
        raise InvalidRequestError(
            f"the table of episodes has {len(starts):,} of {start_key!r} and {len(ends):,} of "
            f"{end_key!r}"
        )
    return starts, ends


def _loaded(dataset: Any, count: int) -> tuple[Integers | None, Integers]:
    """Returns which absolute frames are loaded, and at which item each is; None for all."""
    relative = np.arange(count)
    for owner in (dataset, getattr(dataset, "reader", None)):
        for name in ("absolute_to_relative_idx", "_absolute_to_relative_idx"):
            mapping = getattr(owner, name, None)
            if isinstance(mapping, Mapping):
                keys = np.fromiter(mapping.keys(), np.int64, len(mapping))
                return keys, np.fromiter(mapping.values(), np.int64, len(mapping))
    rows = getattr(dataset, "hf_dataset", None)
    if getattr(dataset, "episodes", None) is None or rows is None:
        return None, relative
    if hasattr(rows, "select_columns"):
        rows = rows.select_columns([INDEX])  # or every image is decoded to read one column
    return _integers(rows[INDEX]), relative


def _integers(values: Any) -> Integers:
    if not hasattr(values, "dtype") and hasattr(values, "__getitem__"):
        values = values[:]  # a lazy column of `datasets`, read at once instead of value by value
    array = as_array(values)
    return array.astype(np.int64, casting="same_kind" if array.size else "unsafe", copy=False)
