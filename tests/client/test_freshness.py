"""How stale batches may be: the bound, what is dropped, and what the iterator says."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from replayring import _freshness
from replayring._freshness import Freshness
from replayring.batches import BatchDataset
from replayring_proto.errors import DeadlineError, InvalidRequestError
from tests.client.torch_buffers import MakeBuffer, make_naive, rollout

pytest_plugins = ["tests.client.torch_fixtures"]


@pytest.fixture
def always_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_freshness, "_LOOK_SECONDS", 0.0)


def filled(make: MakeBuffer, **options: Any) -> Any:
    buffer = make(capacity=1000, **options)
    buffer.add_data(rollout(100))
    return buffer


@pytest.fixture(params=["wire", "files", "device"])
def options(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    if request.param == "wire":
        monkeypatch.setattr("replayring.buffer.Buffer._files", lambda _: None)
    return {"device": "cpu"} if request.param == "device" else {}


@pytest.mark.usefixtures("always_ask")
def test_after_a_pause_no_old_batch_is_handed_out(
    make_real: MakeBuffer, options: dict[str, Any]
) -> None:
    buffer = filled(make_real)
    bounded = BatchDataset(buffer, 8, max_staleness_frames=50, **options)
    with bounded, BatchDataset(buffer, 8, **options) as unbounded:
        one, other = iter(bounded), iter(unbounded)
        next(one), next(other)
        assert (one.next_index, one.dropped) == (100, 0)
        for _ in range(8):  # the learner evaluates, say
            buffer.add_data(rollout(60))
            next(one)
            added = buffer.info().next_index
            assert one.next_index is not None
            assert added - one.next_index <= 50
        next(other)
        assert other.next_index is not None
        # What was drawn ahead shows where nothing bounds it; files are read when asked.
        assert (other.next_index < added - 50) == (options != {} or one.dropped > 0)


@pytest.mark.usefixtures("always_ask")
def test_staleness_up_to_the_bound_is_allowed(make_real: MakeBuffer) -> None:
    buffer = filled(make_real)
    with BatchDataset(buffer, 8, max_staleness_frames=60, device="cpu", in_flight=2) as batches:
        iterator = iter(batches)
        next(iterator)
        buffer.add_data(rollout(60))
        next(iterator)
        assert iterator.dropped == 0


def test_the_bound_to_the_frame() -> None:
    freshness = Freshness(lambda: 100, 10, 1.0)
    freshness.look()
    assert freshness.allows(90)
    assert not freshness.allows(89)
    assert freshness.allows(120)  # drawn after the answer
    assert freshness.allows(None)


def test_the_server_is_asked_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = itertools.count(start=0.0, step=0.03)
    monkeypatch.setattr(_freshness.time, "monotonic", lambda: next(now))
    answers = itertools.count(1)
    freshness = Freshness(lambda: next(answers), 10, 1.0)
    for _ in range(20):
        freshness.look()
    assert 5 <= next(answers) <= 8


class Stale:
    """A source whose batches are all old."""

    def __init__(self) -> None:
        self.given = 0

    def take(self) -> Any:
        self.given += 1
        return {}, 0

    def close(self) -> None:
        pass


def test_when_nothing_is_fresh_enough_time_runs_out() -> None:
    batches = BatchDataset(make_naive(), 4, max_staleness_frames=5, timeout=0.1)
    iterator = iter(batches)
    iterator._source = Stale()
    iterator._freshness = Freshness(lambda: 100, 5, 0.1)
    with pytest.raises(DeadlineError, match="max_staleness_frames"):
        next(iterator)
    assert iterator.dropped == iterator._source.given > 0


@pytest.mark.parametrize("bound", [-1, 1.5])
def test_bounds_that_are_none(bound: Any) -> None:
    with pytest.raises(InvalidRequestError, match="max_staleness_frames"):
        BatchDataset(make_naive(), 4, max_staleness_frames=bound)
