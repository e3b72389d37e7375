"""What a writer logs of outages: once each, and nothing of connections that merely broke."""

from __future__ import annotations

import logging
import threading

import pytest

import replayring
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
