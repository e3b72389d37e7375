"""Writers when something goes wrong: what is refused, lost, sent again, or held back."""

from __future__ import annotations

import threading

import grpc
import pytest

import replayring
from tests.client import fake_store
from tests.client.fake_server import FakeServer, silence, status
from tests.client.fake_store import FakeStore
from tests.client.writing import episode, step, store
from tests.support import eventually

pytestmark = [
    pytest.mark.usefixtures("no_threads_left"),
    # Python 3.12 and later warn of what the fork gate is there for.
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]


class TestFaults:
    @pytest.mark.parametrize("at", [1, 2, 3])
    @pytest.mark.parametrize(
        "fault",
        [
            fake_store.LOST_BEFORE,
            fake_store.LOST_AFTER,
            fake_store.LOST_MIDWAY,
            fake_store.ENDED,
        ],
    )
    def test_exactly_once(
        self, fault: str, at: int, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        stored = store(fake, **{f"at_{at}": fault})
        with fake_buffer.writer(writer_id="actor-7") as writer:
            for value in range(3):
                writer.add_episode(episode(value=value))
        assert stored.sequences() == [1, 2, 3]
        assert [kept.arrays["reward"][0] for kept in stored.stored] == [0, 1, 2]
        assert {writer for writer, _ in stored.received} == {"actor-7"}
        assert writer.acknowledged == 3
        assert not stored.faults

    def test_many_faults(self, fake: FakeServer, fake_buffer: replayring.Buffer) -> None:
        kinds = [fake_store.LOST_AFTER, fake_store.LOST_MIDWAY, fake_store.LOST_BEFORE]
        stored = store(fake, **{f"at_{4 * i + 2}": kinds[i % 3] for i in range(12)})
        with fake_buffer.writer() as writer:
            for value in range(50):
                writer.add_episode(episode(value=value))
        assert stored.sequences() == list(range(1, 51))
        assert not stored.faults

    def test_a_refused_episode_is_named_and_the_others_are_stored(
        self, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        stored = store(fake)
        stored.refuse = lambda sequence: sequence in {2, 4}
        with fake_buffer.writer() as writer:
            stored.proceed.clear()
            for value in range(5):
                writer.add_episode(episode(value=value))
            stored.proceed.set()
            with pytest.raises(replayring.InvalidEpisodeError, match="sequence 2 of writer"):
                writer.flush()
            with pytest.raises(replayring.InvalidEpisodeError, match="sequence 4 of writer"):
                writer.append(step())
            assert writer.acknowledged == 3
            writer.append(step())
            writer.end_episode()
        assert stored.sequences() == [1, 3, 5, 6]

    def test_a_failure_that_is_nobodys_word_on_the_episode_costs_none(
        self, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        """What HTTP/2 proxies say while what is behind them starts again, twice for each."""
        stored = FakeStore()
        failures = [status(grpc.StatusCode.INTERNAL), status(grpc.StatusCode.UNKNOWN)]
        fake.script("AddEpisodes", *failures, stored, *failures, stored)
        with fake_buffer.writer() as writer:
            for value in range(2):
                writer.add_episode(episode(value=value))
                writer.flush()
                fake_buffer.client._channel.drop()  # so that the next one begins another call
        assert stored.sequences() == [1, 2]

    def test_one_that_stays_ends_with_the_error(
        self, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        fake.script("AddEpisodes", status(grpc.StatusCode.INTERNAL))
        with fake_buffer.writer() as writer:
            writer.add_episode(episode())
            with pytest.raises(replayring.ServerError, match=r"sequence 1 .* INTERNAL: scripted"):
                writer.flush()
        assert fake.calls["AddEpisodes"] == 3

    def test_a_refusal_surfaces_when_leaving(
        self, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        store(fake, at_1=fake_store.REFUSED)
        with (
            pytest.raises(replayring.InvalidEpisodeError, match="sequence 1"),
            fake_buffer.writer() as writer,
        ):
            writer.add_episode(episode())

    def test_a_refusal_that_nobody_was_told_does_not_cost_the_steps_since_then(
        self, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        stored = store(fake, at_1=fake_store.REFUSED)

        def write() -> None:
            with fake_buffer.writer() as writer:
                writer.append(step(7))
                writer.add_episode(episode())
                eventually(lambda: not writer.pending, "the refusal")

        with pytest.raises(replayring.InvalidEpisodeError, match="sequence 1"):
            write()
        assert [kept.arrays["reward"].tolist() for kept in stored.stored] == [[7]]

    def test_a_buffer_that_is_gone_refuses_all(
        self, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        stored = store(fake, at_2=fake_store.GONE)
        writer = fake_buffer.writer()
        stored.proceed.clear()
        for _ in range(4):
            writer.add_episode(episode())
        stored.proceed.set()
        with pytest.raises(replayring.NotFoundError, match="sequences 2 to 4"):
            writer.close()
        assert stored.sequences() == [1]
        assert fake.calls["AddEpisodes"] == 1

    def test_a_server_that_acknowledges_nothing(
        self, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        fake.script("AddEpisodes", silence())
        writer = fake_buffer.writer()
        writer.add_episode(episode())
        with pytest.raises(replayring.DeadlineError, match=r"1 episodes .*\(sequence 1\)"):
            writer.flush(timeout=0.3)
        fake_buffer.client.close()
        with pytest.raises(replayring.ClosedError):
            writer.close()

    def test_flush_while_the_server_is_away(
        self, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        fake.script("AddEpisodes", status(grpc.StatusCode.UNAVAILABLE))
        with fake_buffer.writer() as writer:
            writer.add_episode(episode())
            with pytest.raises(replayring.ServerUnavailableError, match=fake.address):
                writer.flush(timeout=0.3)
            stored = store(fake)  # it is back: nothing was lost
        assert stored.sequences() == [1]


class TestPressure:
    def test_waits_while_too_much_is_unacknowledged(
        self, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        stored = store(fake)
        stored.proceed.clear()
        nbytes = 3 * (2 + 1) * 4
        writer = fake_buffer.writer(max_in_flight_bytes=2 * nbytes)
        writer.add_episode(episode())
        for _ in range(3):
            writer.append(step())
        writer.end_episode()
        third = threading.Thread(target=writer.add_episode, args=(episode(),))
        third.start()
        third.join(0.3)
        assert third.is_alive()
        stored.proceed.set()
        third.join(30)
        assert not third.is_alive()
        writer.close()
        assert stored.sequences() == [1, 2, 3]

    def test_gives_up_in_time_and_loses_nothing(self, fake: FakeServer) -> None:
        stored = store(fake)
        stored.proceed.clear()
        with replayring.connect(fake.address, timeout=0.5) as client:
            writer = client.buffer("fake").writer(max_in_flight_bytes=1)
            writer.add_episode(episode(value=1))
            writer.append(step(2))
            with pytest.raises(replayring.DeadlineError, match="stay queued"):
                writer.end_episode()
            stored.proceed.set()
            writer.flush(timeout=20)
            writer.end_episode()
            writer.flush(timeout=20)
            writer.close()
        assert [kept.arrays["reward"][0] for kept in stored.stored] == [1, 2]

    def test_an_episode_larger_than_the_limit_goes_alone(
        self, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        stored = store(fake)
        with fake_buffer.writer(max_in_flight_bytes=1) as writer:
            for _ in range(3):
                writer.add_episode(episode())
        assert stored.sequences() == [1, 2, 3]

    @pytest.mark.parametrize("limit", [0, -1])
    def test_limit_is_above_zero(self, limit: int, fake_buffer: replayring.Buffer) -> None:
        with pytest.raises(replayring.InvalidRequestError, match="max_in_flight_bytes"):
            fake_buffer.writer(max_in_flight_bytes=limit)
