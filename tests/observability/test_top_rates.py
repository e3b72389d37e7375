"""Rates of one server and of several: restarts, shards that leave and return, late answers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from replayring.sharded.statuses import total
from replayring.top.rates import BufferRates, Rates, Reading
from replayring_proto.server_status import Durations, ServerStatus
from tests.observability.made import buffer, method, server

NAMES = ["a:1", "b:2"]


def told(at: float, *, answered: float | None = None, **shards: ServerStatus) -> Reading:
    """Returns a reading of the shards `a` and `b`, of which only those given could be reached."""
    parts = {name: shards[name[0]] for name in NAMES if name[0] in shards}
    return Reading(at, at if answered is None else answered, total(NAMES, parts))


def shard(uptime: float, added: int, sampled: int) -> ServerStatus:
    there = buffer(next_index=added, frames_sampled=sampled, batches_sampled=sampled // 100)
    return server(uptime_s=uptime, buffers=(there,), received_bytes=sampled, sent_bytes=2 * sampled)


def with_another(status: ServerStatus, added: int) -> ServerStatus:
    return replace(status, buffers=(*status.buffers, buffer("other", next_index=added)))


def rates_of(before: Reading, now: Reading) -> BufferRates | None:
    return Rates(before, now).of_buffer(now.status.buffers[0])


def test_a_new_life_that_is_older_than_the_one_before_was_is_still_another() -> None:
    old = Reading(10.0, 10.0, shard(3.0, 900, 900))
    new = Reading(20.0, 20.0, shard(5.0, 950, 100))
    assert rates_of(old, new) is None
    assert Rates(old, new).received_bytes is None


def test_a_life_that_answers_late_is_the_same() -> None:
    old = Reading(10.0, 11.5, shard(3.0, 900, 900))
    new = Reading(12.0, 13.5, shard(5.0, 950, 1000))
    assert rates_of(old, new) == BufferRates(25.0, 50.0, 0.5)


def test_rates_of_shards_are_added() -> None:
    before = told(10, a=shard(100, 0, 0), b=shard(50, 0, 0))
    now = told(12, a=shard(102, 20, 400), b=shard(52, 60, 200))
    assert rates_of(before, now) == BufferRates(40.0, 300.0, 3.0)
    rates = Rates(before, now)
    assert rates.of_shard("a:1") == BufferRates(10.0, 200.0, 2.0)
    assert rates.of_shard("b:2") == BufferRates(30.0, 100.0, 1.0)
    assert rates.of_shard("c:3") is None
    assert (rates.received_bytes, rates.sent_bytes) == (300.0, 600.0)


def test_each_buffer_has_its_own_and_a_shard_those_of_all() -> None:
    before = told(10, a=with_another(shard(100, 0, 0), 0))
    now = told(12, a=with_another(shard(102, 20, 0), 4))
    assert rates_of(before, now) == BufferRates(10.0, 0.0, 0.0)
    assert Rates(before, now).of_buffer(buffer("other")) == BufferRates(2.0, 0.0, 0.0)
    assert Rates(before, now).of_shard("a:1") == BufferRates(12.0, 0.0, 0.0)


def test_one_that_is_silent_does_not_make_the_others_look_faster() -> None:
    """A frozen shard holds up the reading; the next one comes sooner after it than it seems."""
    before = told(10, answered=11.5, a=shard(100, 0, 0))  # at once, at 10
    now = told(12, a=shard(102, 20, 400))
    assert rates_of(before, now) == BufferRates(10.0, 200.0, 2.0)


def test_what_leaves_with_a_shard_was_not_taken_back() -> None:
    both = told(10, a=shard(100, 100, 0), b=shard(50, 9_000_000, 9_000_000))
    left = told(12, a=shard(102, 120, 400))
    assert rates_of(both, left) == BufferRates(10.0, 200.0, 2.0)
    assert Rates(both, left).received_bytes == 200.0
    assert Rates(both, left).of_shard("b:2") is None


def test_what_returns_with_a_shard_was_not_added_now() -> None:
    left = told(12, a=shard(102, 120, 400))
    back = told(14, a=shard(104, 140, 800), b=shard(54, 9_000_000, 9_000_000))
    assert rates_of(left, back) == BufferRates(10.0, 200.0, 2.0)
    assert Rates(left, back).of_shard("b:2") is None
    later = told(16, a=shard(106, 160, 1200), b=shard(56, 9_000_100, 9_000_000))
    assert rates_of(back, later) == BufferRates(60.0, 200.0, 2.0)


@pytest.mark.parametrize("uptime", [1.0, 60.0], ids=["younger", "older"])
def test_a_shard_that_was_restarted_in_between_counts_anew(uptime: float) -> None:
    before = told(10, a=shard(100, 100, 0), b=shard(50, 9_000_000, 9_000_000))
    now = told(80, a=shard(170, 800, 1400), b=shard(uptime, 9_000_000, 10))
    assert rates_of(before, now) == BufferRates(10.0, 20.0, 0.2)
    assert Rates(before, now).of_shard("b:2") is None


def test_nothing_is_known_when_no_shard_can_be_compared() -> None:
    now = told(12, b=shard(52, 5, 5))
    for rates in (Rates(told(10, a=shard(100, 0, 0)), now), Rates(None, now)):
        assert rates.received_bytes is None
        assert rates.of_buffer(buffer()) is None
        assert rates.of_method(method()) is None


def test_a_buffer_that_only_one_shard_has_anew_is_that_shards_loss() -> None:
    before = told(10, a=shard(100, 100, 0), b=server(uptime_s=50, buffers=()))
    now = told(12, a=shard(102, 120, 0), b=shard(52, 500, 0))
    assert rates_of(before, now) == BufferRates(10.0, 0.0, 0.0)
    assert Rates(before, now).of_shard("b:2") == BufferRates(0.0, 0.0, 0.0)


def test_methods_are_added_too() -> None:
    def busy(uptime: float, fast: int, slow: int, failed: int) -> ServerStatus:
        work = Durations((0.001, 1.0), (fast, slow, 0), 1.0)
        finished = {"OK": fast + slow, "NOT_FOUND": failed}
        return server(uptime_s=uptime, methods=(method(work=work, finished=finished),))

    before = told(10, a=busy(100, 5, 5, 0), b=busy(50, 1000, 0, 0))
    now = told(12, a=busy(102, 8, 5, 2), b=busy(52, 1000, 7, 4))
    found = Rates(before, now).of_method(method())
    assert found is not None
    assert (found.done, found.refused) == (5.0, 3.0)
    assert found.work.counts == (3, 7, 0)
