"""Random use of a RemoteDataset on a real server, against the naive list."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replayring.collation import collate
from replayring.dataset import RemoteDataset
from replayring.weights import compute_sampler_weights
from tests.client.torch_buffers import (
    MakeBuffer,
    make_naive,
    rollout,
)

pytest_plugins = ["tests.client.torch_fixtures"]

KEYS = ["state", "action", "image", "index", "frame_index", "timestamp"]
# Multiples of an eighth add and subtract exactly, so that equal distances are equal.
EIGHTHS = st.integers(-24, 24).map(lambda n: n / 8)


@st.composite
def episodes(draw: st.DrawFn, fps: float = 4.0) -> dict[str, np.ndarray]:
    """Whole episodes, some with repeated, late or uneven timestamps."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    data = rollout(*lengths, start=draw(st.integers(0, 60_000)), fps=fps)
    kind = draw(st.sampled_from(["even", "padded", "uneven"]))
    start = 0
    for length in lengths:
        times = data["timestamp"][start : start + length]
        if kind == "padded":
            times[-draw(st.integers(1, length)) :] = times[-1]
        elif kind == "uneven":
            steps = draw(st.lists(st.integers(0, 4), min_size=length, max_size=length))
            times[:] = np.cumsum(steps) / 8
        start += length
    return data


@st.composite
def views(draw: st.DrawFn) -> dict[str, Any]:
    keys = draw(st.lists(st.sampled_from(KEYS), unique=True, max_size=4))
    cut = draw(st.integers(0, len(keys)))
    seconds = st.lists(EIGHTHS, min_size=1, max_size=4)
    frames = st.lists(st.integers(-12, 12), min_size=1, max_size=4)
    return {
        "delta_timestamps": {key: draw(seconds) for key in keys[:cut]},
        "delta_indices": {key: draw(frames) for key in keys[cut:]},
        "keys": draw(st.none() | st.lists(st.sampled_from(KEYS), unique=True)),
    }


def outcome(function: Any, *args: Any) -> Any:
    """What a call returns, or the built-in error that it raises."""
    try:
        return function(*args)
    except (IndexError, AssertionError) as error:
        return IndexError if isinstance(error, IndexError) else AssertionError


def same(ours: Any, naive: Any) -> bool:
    """Whether two outcomes are equal, to the bit and the dtype."""
    if isinstance(ours, dict) and isinstance(naive, dict):
        return ours.keys() == naive.keys() and all(same(ours[key], naive[key]) for key in naive)
    if isinstance(ours, torch.Tensor) and isinstance(naive, torch.Tensor):
        return ours.dtype == naive.dtype and ours.equal(naive)
    return type(ours) is type(naive) and bool(ours == naive)


def compare(ours: RemoteDataset, naive: RemoteDataset, positions: list[int]) -> None:
    assert len(ours) == len(naive)
    assert ours.num_episodes == naive.num_episodes
    for key in ours.data_keys:
        assert same(ours.get_data_by_key(key), naive.get_data_by_key(key))
    for position in positions:
        assert same(outcome(ours.__getitem__, position), outcome(naive.__getitem__, position))
    if positions:
        batches = [outcome(dataset.__getitems__, positions) for dataset in (ours, naive)]
        if isinstance(batches[1], type):
            # A batch may hold two kinds of mistake; which one is reported is not promised.
            assert batches[0] in (IndexError, AssertionError)
        else:
            assert same(*map(collate, batches))


def weights(dataset: RemoteDataset, drop: int) -> Any:
    try:
        return compute_sampler_weights([], 0, dataset, 1.0, drop)
    except ValueError as error:
        return str(error)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), capacity=st.integers(9, 25))
def test_random_use(make_real: MakeBuffer, data: st.DataObject, capacity: int) -> None:
    ours, naive = (
        RemoteDataset(make(capacity=capacity, fps=4.0)) for make in (make_real, make_naive)
    )
    for _ in range(data.draw(st.integers(1, 4), label="rounds")):
        added = data.draw(episodes(), label="episodes")
        acknowledged = [
            [(a.episode_index, a.index, a.num_frames) for a in dataset.add_data(added)]
            for dataset in (ours, naive)
        ]
        assert acknowledged[0] == acknowledged[1]
        view = data.draw(views(), label="view")
        tolerance = data.draw(st.sampled_from([None, 0.0, 0.125, 0.25, 1.0]), label="tolerance")
        viewed = [RemoteDataset(dataset.buffer, **view) for dataset in (ours, naive)]
        for dataset in viewed:
            dataset.tolerance_s = tolerance
        position = st.integers(-capacity - 1, capacity)
        compare(*viewed, data.draw(st.lists(position, max_size=8), label="positions"))
        drop = data.draw(st.integers(0, 10), label="drop")
        assert same(weights(ours, drop), weights(naive, drop))
    assert [int(item["index"]) for item in ours] == [int(item["index"]) for item in naive]
    ours.buffer.delete()  # or the examples would reach the server's limit of buffers


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), capacity=st.integers(9, 25), drop=st.integers(0, 8))
def test_samples_are_eligible_and_whole(
    make_real: MakeBuffer, data: st.DataObject, capacity: int, drop: int
) -> None:
    """What is sampled is what `get` would give for the same frame, and may be drawn."""
    ours, naive = make_real(capacity=capacity, fps=4.0), make_naive(capacity=capacity, fps=4.0)
    for added in data.draw(st.lists(episodes(), min_size=1, max_size=4), label="episodes"):
        ours.add_data(added)
        naive.add_data(added)
    offsets = data.draw(st.lists(st.integers(-12, 12), min_size=1, max_size=3), label="offsets")
    eligible = {int(frame["index"]) for frame in naive.eligible(drop)}
    options = {"delta_indices": {"state": offsets}, "drop_n_last_frames": drop}
    if not eligible:
        with pytest.raises(TimeoutError):
            ours.sample(4, timeout=0.05, **options)
        ours.delete()
        return
    batch = ours.sample(200, **options)
    drawn = batch["index"].tolist()
    assert set(drawn) <= eligible
    if len(eligible) <= 8:  # then missing one has a chance below 8 * (7/8)^200
        assert set(drawn) == eligible
    expected = naive.get(indices=drawn, delta_indices={"state": offsets})
    assert batch.keys() == expected.keys()
    for key in expected:
        assert batch[key].dtype == expected[key].dtype
        assert np.array_equal(batch[key], expected[key])
    ours.delete()
