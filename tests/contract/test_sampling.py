"""Sampling: uniform over the eligible frames, whatever the mix of episodes."""

from __future__ import annotations

import numpy as np
import pytest

from replayring_proto.errors import DeadlineError, InvalidRequestError
from tests.contract.data import DATA_SPEC, PRESETS, episode, make
from tests.contract.transports import BufferUnderTest, Transport


def mixed(transport: Transport, name: str) -> BufferUnderTest:
    """Returns a ring that has turned: 2..4 of a truncated episode, 5, 6..11 and 12..13."""
    buffer = make(transport, name, 12)
    buffer.add_episodes([episode(5), episode(1, 5), episode(6, 6), episode(2, 12)])
    return buffer


ELIGIBLE = {
    0: [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13],
    1: [2, 3, 6, 7, 8, 9, 10, 12],
    2: [2, 6, 7, 8, 9],
    3: [6, 7, 8],
    5: [6],
}


@pytest.mark.parametrize(("drop", "eligible"), ELIGIBLE.items())
def test_eligible_frames_are_equally_likely_and_no_other_is_drawn(
    transport: Transport, name: str, drop: int, eligible: list[int]
) -> None:
    count = 40_000
    drawn = mixed(transport, name).sample(count, drop_n_last_frames=drop, seed=drop)
    indices, counts = np.unique(drawn["index"], return_counts=True)
    assert indices.tolist() == eligible
    share = 1 / len(eligible)
    assert np.abs(counts - count * share).max() <= 5 * np.sqrt(count * share * (1 - share))


def test_batch_is_what_those_frames_hold(transport: Transport, name: str) -> None:
    buffer = mixed(transport, name)
    view = {"delta_indices": {"state": [0, 1]}, "delta_timestamps": {"image": [-0.1, 0.1]}}
    drawn = buffer.sample(300, drop_n_last_frames=1, **view)
    fetched = buffer.get(indices=drawn["index"], **view)
    assert drawn.keys() == fetched.keys()
    for key, array in fetched.items():
        np.testing.assert_array_equal(drawn[key], array)
        assert drawn[key].dtype == array.dtype
    assert not drawn["state_is_pad"].any()  # the next frame exists where it was asked for
    assert drawn["image_is_pad"].any()


def test_chosen_columns_come_with_the_presets(transport: Transport, name: str) -> None:
    buffer = mixed(transport, name)
    assert buffer.sample(2, keys=["done"]).keys() == PRESETS | {"done"}
    assert buffer.sample(2).keys() == PRESETS | DATA_SPEC.keys()


def test_seed_repeats_and_none_does_not(transport: Transport, name: str) -> None:
    buffer = mixed(transport, name)

    def draw(seed: int | None) -> tuple[int, ...]:
        return tuple(buffer.sample(100, seed=seed)["index"].tolist())

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)
    assert len({draw(None) for _ in range(4)}) == 4


def test_batch_may_be_larger_than_the_buffer(transport: Transport, name: str) -> None:
    buffer = make(transport, name)
    buffer.add_episode(episode(1, 9))
    drawn = buffer.sample(1000)
    assert drawn["index"].tolist() == [0] * 1000
    assert (drawn["state"] == [9, -9]).all()


def test_nothing_to_sample_ends_with_the_callers_patience(transport: Transport, name: str) -> None:
    buffer = make(transport, name)
    with pytest.raises(DeadlineError):
        buffer.sample(2, timeout=0.2)
    buffer.add_episodes([episode(2), episode(3)])
    with pytest.raises(DeadlineError) as caught:
        buffer.sample(2, drop_n_last_frames=3, timeout=0.2)
    assert isinstance(caught.value, TimeoutError)
    assert set(buffer.sample(20, drop_n_last_frames=2)["index"].tolist()) == {2}


@pytest.mark.parametrize("batch_size", [0])
def test_empty_batch_is_refused(transport: Transport, name: str, batch_size: int) -> None:
    with pytest.raises(InvalidRequestError, match="batch_size is 0"):
        mixed(transport, name).sample(batch_size)
