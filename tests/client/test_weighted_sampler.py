"""WeightedSampler: distribution, refreshing, size, validation."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader

from replayring.collation import collate
from replayring.concat import ConcatDataset
from replayring.dataset import RemoteDataset
from replayring.weighted_sampler import WeightedSampler
from replayring.weights import compute_sampler_weights
from replayring_proto.errors import InvalidRequestError
from tests.client.torch_buffers import (
    MakeBuffer,
    rollout,
)

pytest_plugins = ["tests.client.torch_fixtures"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_draws_in_proportion() -> None:
    weights = torch.tensor([0.0, 1.0, 0.0, 2.0, 5.0, 0.0])
    sampler = WeightedSampler(weights, 80_000, generator=seeded())
    counts = np.bincount(list(sampler), minlength=6)
    assert counts.sum() == 80_000
    assert counts[[0, 2, 5]].tolist() == [0, 0, 0]
    # The standard deviation of each is below 140.
    assert np.abs(counts - 80_000 / 8 * weights.numpy()).max() < 700


@given(
    st.lists(st.one_of(st.just(0.0), st.floats(5e-324, 1e300)), min_size=1, max_size=20).filter(any)
)
def test_never_draws_what_weighs_nothing(weights: list[float]) -> None:
    drawn = set(WeightedSampler(weights, 200, generator=seeded()))
    assert drawn <= {i for i, weight in enumerate(weights) if weight > 0}


def test_numbers_on_a_boundary_belong_to_the_position_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Above all 0.0, which `rand` gives, must not draw a first position that weighs nothing."""
    numbers = torch.tensor([0.0, 0.25, 0.5, 1 - 2**-53], dtype=torch.float64)
    monkeypatch.setattr(torch, "rand", lambda count, **options: numbers[:count])
    assert list(WeightedSampler([0.0, 1.0, 0.0, 1.0, 0.0], 4)) == [1, 1, 3, 3]


def test_more_than_two_to_the_24_weights() -> None:
    """There, torch's WeightedRandomSampler stops."""
    count = (1 << 24) + 3
    weights = torch.zeros(count, dtype=torch.float32)
    weights[[0, 1 << 23, count - 1]] = 1 / 3
    with pytest.raises(RuntimeError, match="2"):
        torch.multinomial(weights, 1, True)
    assert set(WeightedSampler(weights, 300, generator=seeded())) == {0, 1 << 23, count - 1}


def test_small_weights_among_many_are_exact() -> None:
    """A float32 running sum would stop growing at 2^24 ones, and never reach the last ones."""
    count = 1 << 25
    drawn = np.array(
        list(WeightedSampler(torch.ones(count, dtype=torch.uint8), 2000, generator=seeded()))
    )
    assert 900 < (drawn >= count // 2).sum() < 1100


def test_the_generator_makes_it_reproducible() -> None:
    weights = [1.0, 2.0, 3.0]
    assert list(WeightedSampler(weights, 50, generator=seeded(7))) == list(
        WeightedSampler(weights, 50, generator=seeded(7))
    )
    generator = seeded(7)
    sampler = WeightedSampler(weights, 50, generator=generator)
    assert list(sampler) != list(sampler)


def test_without_a_generator_torchs_own_is_used() -> None:
    sampler = WeightedSampler([1.0] * 100, 20)
    state = torch.get_rng_state()
    try:
        torch.manual_seed(5)
        first = list(sampler)
        torch.manual_seed(5)
        assert list(sampler) == first
    finally:
        torch.set_rng_state(state)


@pytest.mark.parametrize("generator", [None, seeded()])
def test_a_default_device_is_not_for_this(generator: torch.Generator | None) -> None:
    """As with `torch.set_default_device("cuda")`, beside which torch's own sampler works."""
    with torch.device("meta"):
        assert list(WeightedSampler([0.0, 1.0], 3, generator=generator)) == [1, 1, 1]


@pytest.mark.parametrize(
    "weights",
    [
        [1, 2],
        (1e-300, 1e-300),  # which float32 cannot hold
        np.array([1.0, 2.0], np.float16),
        np.broadcast_to(np.float64(1), 2),  # not writable
        torch.tensor([1, 2]),
        torch.tensor([0.5, 1.0], requires_grad=True),
    ],
)
def test_weights_of_any_kind(weights: object) -> None:
    assert set(WeightedSampler(weights, 100, generator=seeded())) == {0, 1}


def test_later_changes_to_the_weights_do_nothing() -> None:
    weights = torch.tensor([1.0, 0.0], dtype=torch.float64)
    sampler = WeightedSampler(weights, 20)
    weights[:] = torch.tensor([0.0, 1.0])
    assert set(sampler) == {0}


@pytest.mark.parametrize(
    "weights",
    [
        [],
        [0.0, 0.0],
        [1.0, -0.1],
        [1.0, float("nan")],
        [1.0, float("inf")],
        [1.7e308, 1.7e308],
        [[1.0, 2.0]],
        1.0,
    ],
)
def test_weights_that_cannot_be(weights: object) -> None:
    with pytest.raises(InvalidRequestError):
        WeightedSampler(weights, 10)
    sampler = WeightedSampler(lambda: weights, 10)
    with pytest.raises(InvalidRequestError):
        next(iter(sampler))


@pytest.mark.parametrize("number", [0, -1, 2.5, True])
@pytest.mark.parametrize("name", ["num_samples", "refresh_every"])
def test_numbers_that_cannot_be(name: str, number: object) -> None:
    with pytest.raises(ValueError, match=name):
        WeightedSampler([1.0], **{name: number})


def test_length() -> None:
    assert len(WeightedSampler([1.0], 7)) == 7
    assert len(list(WeightedSampler([1.0], 7))) == 7
    with pytest.raises(TypeError, match="num_samples"):
        len(WeightedSampler([1.0]))


def test_without_end() -> None:
    drawn = list(itertools.islice(WeightedSampler([0.0, 1.0]), 30_000))
    assert drawn == [1] * 30_000
    batches = BatchSampler(WeightedSampler([1.0]), 3, drop_last=False)
    assert list(itertools.islice(batches, 2)) == [[0] * 3] * 2


class Counting:
    """Weights that put everything on the number of the call."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> list[float]:
        self.calls += 1
        return [0.0] * self.calls + [1.0]


@pytest.mark.parametrize(
    ("num_samples", "refresh_every", "expected"),
    [
        (7, 3, [1] * 3 + [2] * 3 + [3]),
        (6, 3, [1] * 3 + [2] * 3),
        (2, 3, [1] * 2),
        (3, 1, [1, 2, 3]),
        (9000, 5000, [1] * 5000 + [2] * 4000),
        (9000, None, [1] * 9000),
    ],
)
def test_a_function_is_asked_again(
    num_samples: int, refresh_every: int | None, expected: list[int]
) -> None:
    function = Counting()
    sampler = WeightedSampler(function, num_samples, refresh_every=refresh_every)
    assert function.calls == 0
    assert list(sampler) == expected
    calls = function.calls
    assert next(iter(sampler)) == calls + 1  # each iteration begins with a call


def test_the_default_follows_a_growing_buffer() -> None:
    function = Counting()
    assert set(itertools.islice(WeightedSampler(function), 25_000)) == {1, 2, 3}


def test_pickling() -> None:
    copy = pickle.loads(pickle.dumps(WeightedSampler([0.0, 1.0], 5)))
    assert list(copy) == [1] * 5


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_sees_frames_that_arrive(make_real: MakeBuffer, workers: int) -> None:
    """The reference's loader never saw new frames; torch's sampler never would either."""
    offline, online = RemoteDataset(make_real()), RemoteDataset(make_real(capacity=30))
    offline.add_data(rollout(4))
    loader = DataLoader(
        ConcatDataset([offline, online]),
        batch_size=8,
        sampler=WeightedSampler(
            lambda: compute_sampler_weights(offline, 0, online, 0.5, 1), refresh_every=8
        ),
        num_workers=workers,
        collate_fn=collate,
        timeout=60 if workers else 0,
    )
    batches = iter(loader)
    assert next(batches)["action"].min() >= -3
    online.add_data(rollout(20, start=100))
    found = next(i for i, batch in enumerate(batches) if batch["action"].min() <= -100)
    assert found <= 10  # what was drawn ahead, and some luck: all of 8 from one half is rare
    del batches


def test_weights_over_a_buffer(make_buffer: MakeBuffer) -> None:
    online = RemoteDataset(make_buffer(capacity=10))
    online.add_data(rollout(6, 3, 3))  # frames 2..11; the last episode is in slots 9, 0, 1
    sampler = WeightedSampler(
        lambda: compute_sampler_weights([], 0, online, 1.0, 1), 500, generator=seeded()
    )
    indices = {int(online[position]["index"]) for position in set(sampler)}
    assert indices == {2, 3, 4, 6, 7, 9, 10}
