"""What a writer logs of outages: once each, and nothing of connections that merely broke."""

from __future__ import annotations

import logging
import threading

import pytest

import replayring
from replayring._outage import Outage
from tests.client import fake_store
from tests.client.fake_server import FakeServer
from tests.client.spilling_actor import episode
from tests.client.writing import store
from tests.support import PATIENCE

pytestmark = pytest.mark.usefixtures("no_threads_left")


def test_one_warning_and_one_word_of_the_end(
    fake: FakeServer, impatient: replayring.Buffer, caplog: pytest.LogCaptureFixture
) -> None:
    with impatient.writer(max_in_flight_bytes=1) as writer:
        writer.add_episode(episode(1))
        for _ in range(2):
            with pytest.raises(replayring.ServerUnavailableError):
                writer.add_episode(episode(2))
        assert caplog.text.count("waits until there is room: it holds 1 episodes") == 1
        assert caplog.text.count(f"the server at {fake.address} cannot be reached") == 1
        store(fake)
        writer.flush(timeout=PATIENCE)
    assert caplog.text.count("is back after") == 1


def test_a_broken_connection_is_no_outage(
    fake: FakeServer, impatient: replayring.Buffer, caplog: pytest.LogCaptureFixture
) -> None:
    store(fake, at_1=fake_store.LOST_BEFORE)
    with caplog.at_level(logging.INFO), impatient.writer(timeout=PATIENCE) as writer:
        writer.add_episode(episode(1))
    assert "the server" not in caplog.text


def test_several_who_notice_at_once_know_no_more_than_one(caplog: pytest.LogCaptureFixture) -> None:
    outage = replayring._outage.Outage("here:1")
    failure = replayring.ServerUnavailableError("broken")
    for _ in range(5):
        outage.failed(failure, begun=0.0)  # all were under way when the connection broke
    assert not outage.certain
    outage.failed(failure, begun=float("inf"))
    assert outage.certain
    assert caplog.text.count("cannot be reached") == 1
    outage.answered()
    outage.answered()
    assert not outage.certain
    assert caplog.text.count("is back after") == 1


class Clock:
    """A monotonic clock that a test sets."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(replayring._outage, "time", made)
    return made


def is_away(outage: Outage, clock: Clock, seconds: float) -> None:
    """Has a server be away for some seconds, of which it is told twice a second."""
    for _ in range(round(2 * seconds) + 1):
        outage.silent(replayring.DeadlineError("silence"))
        clock.now += 0.5
    outage.answered()


def test_a_server_that_is_slow_fills_no_log(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """It said "cannot be reached" and "is back" in turn, 3,000 times an hour."""
    outage = Outage("here:1")
    while clock.now < 3600:
        is_away(outage, clock, 0)
        clock.now += 1.5
    away = [r.message for r in caplog.records if "cannot be reached" in r.message]
    assert len(away) == caplog.text.count("is back after 0.5 s") == 6
    assert "it was away 300 times more, for 150.0 s in all" in away[-1]


def test_outages_that_last_are_told_of_one_that_is_often_away(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    outage = Outage("here:1")
    told = []
    for seconds in (0, 0, 1, 1, 2, 4, 4, 300):
        is_away(outage, clock, seconds)
        told.append(caplog.text.count("cannot be reached"))
        assert caplog.text.count("is back after") == told[-1]
    assert told == [1, 1, 2, 2, 3, 4, 4, 5]
    clock.now += 600
    is_away(outage, clock, 0)
    is_away(outage, clock, 1)
    assert caplog.text.count("is back after") == 7, "after ten good minutes"


def test_waiting_has_its_own_limit(fake: FakeServer, impatient: replayring.Buffer) -> None:
    writer = impatient.writer(max_in_flight_bytes=1, timeout=PATIENCE)
    writer.add_episode(episode(1))
    with pytest.raises(replayring.ServerUnavailableError):
        impatient.add_episode(episode(0))  # the client's own half second
    second = threading.Thread(target=writer.add_episode, args=(episode(2),))
    second.start()
    stored = store(fake)
    second.join(PATIENCE)
    writer.close()
    assert [kept.arrays["reward"][0] for kept in stored.stored] == [1, 2]
