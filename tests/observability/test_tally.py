"""Counters: how long things took, and who writes."""

from __future__ import annotations

import pytest

from replayring_server import tally
from replayring_server.tally import FORGOTTEN_AFTER_S, Stopwatch, Writers, quiet_of


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def writers(clock: Clock) -> Writers:
    return Writers(clock)


def test_a_bound_is_part_of_what_it_bounds() -> None:
    watch = Stopwatch((1.0, 2.0))
    for seconds in (0.0, 1.0, 1.5, 2.0, 2.1, 100.0):
        watch.add(seconds)
    durations = watch.durations()
    assert durations.counts == (2, 2, 2)
    assert durations.count == 6
    assert durations.sum_s == pytest.approx(106.6)


def test_what_fails_is_not_measured() -> None:
    watch = Stopwatch()
    with watch.running():
        pass
    with pytest.raises(RuntimeError), watch.running():
        raise RuntimeError
    assert watch.durations().count == 1


def test_what_was_measured_later_changes_nothing_that_was_read() -> None:
    watch = Stopwatch()
    before = watch.durations()
    watch.add(0.3)
    assert before.count == 0
    assert watch.durations().since(before).count == 1


def test_shares() -> None:
    watch = Stopwatch((1.0, 2.0))
    assert watch.durations().at_most(0.5) is None
    for seconds in (0.5, 0.6, 1.5, 50.0):
        watch.add(seconds)
    durations = watch.durations()
    assert [durations.at_most(share) for share in (0.5, 0.75, 1.0)] == [1.0, 2.0, float("inf")]


def test_writers_are_listed_by_how_long_they_have_been_quiet(
    clock: Clock, writers: Writers
) -> None:
    for name in ("a", "b"):
        writers.joined(name)
        clock.now += 1
    writers.acknowledged("a", 7)
    clock.now += 4
    statuses = writers.statuses()
    assert [(w.writer_id, w.quiet_s, w.sequence) for w in statuses] == [("b", 5, 0), ("a", 4, 7)]
    assert all(writer.connected for writer in statuses)


def test_another_call_is_no_news_of_a_writer(clock: Clock, writers: Writers) -> None:
    writers.joined("a")
    clock.now += 100
    writers.joined("a")
    writers.left("a")
    (writer,) = writers.statuses()
    assert writer.quiet_s == 100
    assert writer.connected


def test_a_retry_does_not_set_the_sequence_back(writers: Writers) -> None:
    writers.acknowledged("a", 9)
    writers.acknowledged("a", 3)
    assert writers.statuses()[0].sequence == 9


def test_a_writer_that_left_is_forgotten_and_one_that_is_stuck_is_not(
    clock: Clock, writers: Writers
) -> None:
    writers.joined("stuck")
    writers.joined("gone")
    writers.left("gone")
    clock.now += FORGOTTEN_AFTER_S
    assert len(writers.statuses()) == 2
    clock.now += 1
    assert [writer.writer_id for writer in writers.statuses()] == ["stuck"]


def test_invented_names_take_no_more_than_so_much_memory(
    writers: Writers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally, "MAX_WRITERS", 3)
    for number in range(10):
        writers.acknowledged(str(number), 1)
    assert [writer.writer_id for writer in writers.statuses()] == ["7", "8", "9"]


def test_who_has_a_call_is_known_however_many_others_came_meanwhile(
    writers: Writers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally, "MAX_WRITERS", 3)
    writers.joined("0")
    for number in range(1, 10):
        writers.acknowledged(str(number), 1)
    writers.acknowledged("0", 1)
    assert [(w.writer_id, w.connected) for w in writers.statuses()][-1] == ("0", True)
    writers.left("0")
    assert not any(writer.connected for writer in writers.statuses())


def test_quiet_times_are_counted(clock: Clock, writers: Writers) -> None:
    for name in ("a", "b", "c"):
        writers.acknowledged(name, 1)
        clock.now += 100
    quiet = quiet_of(writers.statuses())
    assert quiet.count == 3
    assert quiet.sum_s == 600
    assert quiet.at_most(1.0) == 300
