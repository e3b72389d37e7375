"""Writers: steps into episodes, in the background, exactly once, through every fault."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch

import replayring
from replayring import _sender, _steps
from tests.client import fake_store
from tests.client.fake_server import FakeServer, silence
from tests.client.fake_store import FakeStore
from tests.client.forking import held_elsewhere, succeeds_in_child
from tests.client.writing import episode, step, store
from tests.support import eventually

pytestmark = [
    pytest.mark.usefixtures("no_threads_left"),
    # Python 3.12 and later warn of what the fork gate is there for.
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]


class TestSteps:
    def test_become_episodes(self, buffer: replayring.Buffer) -> None:
        with buffer.writer() as writer:
            for length in (3, 100, 1):
                for number in range(length):
                    writer.append(step(number))
                writer.end_episode()
            writer.flush()
            assert writer.acknowledged == 3
            assert writer.last_acknowledgement == replayring.Acknowledgement(3, 2, 103, 1, False)
        columns = buffer.read_columns(["reward", "frame_index", "episode_index", "timestamp"])
        numbers = [*range(3), *range(100), 0]
        assert columns["reward"].tolist() == numbers
        assert columns["frame_index"].tolist() == numbers
        assert columns["timestamp"] == pytest.approx(np.array(numbers) / 10)
        assert np.bincount(columns["episode_index"]).tolist() == [3, 100, 1]

    def test_values_are_copied_at_once(self, buffer: replayring.Buffer) -> None:
        state, reward = np.zeros(2), np.zeros(())
        with buffer.writer() as writer:
            for number in range(4):
                state[:], reward[...] = number, number
                writer.append({"state": state, "reward": reward})
            writer.end_episode()
            state[:] = 99
        assert buffer.read_columns(["state"])["state"][:, 0].tolist() == [0, 1, 2, 3]

    def test_whole_episodes_are_copied_too(
        self, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        stored = store(fake)
        stored.proceed.clear()
        data = {"state": np.ones((2, 2), np.float32), "reward": np.ones(2, np.float32)}
        with fake_buffer.writer() as writer:
            for _ in range(2):
                writer.add_episode(data)
                data["reward"] += 1
            stored.proceed.set()
        assert [kept.arrays["reward"][0] for kept in stored.stored] == [1, 2]

    def test_scalars_tensors_and_timestamps(self, buffer: replayring.Buffer) -> None:
        with buffer.writer() as writer:
            writer.append({"state": torch.ones(2), "reward": torch.tensor(1), "timestamp": 5})
            writer.append({"state": (2, 3), "reward": np.int8(2), "timestamp": np.float32(6)})
            writer.end_episode()
        columns = buffer.read_columns(["state", "reward", "timestamp"])
        assert columns["state"].tolist() == [[1, 1], [2, 3]]
        assert columns["reward"].tolist() == [1, 2]
        assert columns["timestamp"].tolist() == [5, 6]

    @pytest.mark.parametrize(
        ("bad", "text"),
        [
            ({"state": [0, 0]}, "lacks 'reward'"),
            ({**step(), "extra": 1}, "'extra'"),
            ({**step(), "state": [0, 0, 0]}, "shape"),
            ({**step(), "state": [[0, 0]]}, "shape"),
            ({**step(), "state": [0, [0]]}, "state"),
            ({**step(), "reward": 1j}, "dtype"),
            ({**step(), "reward": "1"}, "dtype"),
            ({**step(), "timestamp": 1.0}, "differ in having timestamp"),
        ],
    )
    def test_a_bad_one_is_refused_and_not_added(
        self, bad: Any, text: str, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        stored = store(fake)
        with fake_buffer.writer() as writer:
            writer.append(step(1))
            with pytest.raises(replayring.InvalidEpisodeError, match=text):
                writer.append(bad)
            writer.append(step(2))
            writer.end_episode()
        assert stored.stored[0].arrays["reward"].tolist() == [1, 2]

    def test_timestamps(self, fake: FakeServer, fake_buffer: replayring.Buffer) -> None:
        stored = store(fake)
        with fake_buffer.writer() as writer:
            writer.append({**step(), "timestamp": 1.0})
            for bad, text in ((0.5, "decrease"), (np.nan, "finite")):
                with pytest.raises(replayring.InvalidEpisodeError, match=text):
                    writer.append({**step(), "timestamp": bad})
            with pytest.raises(replayring.InvalidEpisodeError, match="timestamp"):
                writer.append(step())
            writer.append({**step(), "timestamp": 1.0})
            writer.end_episode()
            writer.append(step())  # another episode may do without
            writer.end_episode()
        assert stored.stored[0].arrays["timestamp"].tolist() == [1, 1]
        assert "timestamp" not in stored.stored[1].arrays

    def test_no_more_than_the_capacity(
        self, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        stored = store(fake)
        with fake_buffer.writer() as writer:
            for _ in range(1000):
                writer.append(step())
            with pytest.raises(replayring.InvalidEpisodeError, match="1,000 steps"):
                writer.append(step())
            writer.end_episode()
        assert len(stored.stored[0].arrays["reward"]) == 1000

    def test_an_episode_needs_some(self, fake_buffer: replayring.Buffer) -> None:
        with (
            fake_buffer.writer() as writer,
            pytest.raises(replayring.InvalidEpisodeError, match="no steps"),
        ):
            writer.end_episode()

    def test_discarded(self, fake: FakeServer, fake_buffer: replayring.Buffer) -> None:
        stored = store(fake)
        with fake_buffer.writer() as writer:
            writer.append(step(1))
            writer.discard_episode()
            writer.append(step(2))
            writer.end_episode()
        assert [kept.arrays["reward"].tolist() for kept in stored.stored] == [[2]]

    def test_two_threads_lose_none(
        self, fake: FakeServer, fake_buffer: replayring.Buffer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stored = store(fake)
        first_is_in, second_is_done = threading.Event(), threading.Event()
        check = _steps.check_episode

        class Slow(dict[str, Any]):
            """A step during whose copying, once room is made, another thread may come in."""

            made_room = False

            def items(self) -> Any:
                yield from super().items()
                if self["reward"][0] == 1 and self.made_room:
                    first_is_in.set()
                    second_is_done.wait(0.3)
                self.made_room = True

        monkeypatch.setattr(_steps, "check_episode", lambda *args: Slow(check(*args)))
        with fake_buffer.writer() as writer:
            first = threading.Thread(target=writer.append, args=(step(1),))
            first.start()
            assert first_is_in.wait(30)
            writer.append(step(2))
            second_is_done.set()
            first.join(30)
        assert sorted(stored.stored[0].arrays["reward"].tolist()) == [1, 2]


class TestLife:
    def test_an_idle_writer_has_no_call(
        self,
        fake: FakeServer,
        fake_buffer: replayring.Buffer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(_sender, "_IDLE_SECONDS", 0.05)
        ended = threading.Event()
        stored = FakeStore()

        def script(requests: Any, context: Any) -> Any:
            yield from stored(requests, context)
            ended.set()

        fake.script("AddEpisodes", script)
        with fake_buffer.writer() as writer:
            for number in (1, 2):
                writer.add_episode(episode())
                assert ended.wait(30), "the caller half-closes the call when it is idle"
                ended.clear()
                writer.flush()
                assert fake.calls["AddEpisodes"] == number
        deadlines = fake.deadlines["AddEpisodes"]
        assert all(seconds is not None and seconds < 3600 for seconds in deadlines)

    def test_leaving_ends_and_flushes(
        self, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        stored = store(fake)
        with fake_buffer.writer() as writer:
            writer.append(step(1))
            writer.end_episode()
            writer.append(step(2))
        assert [kept.arrays["reward"].tolist() for kept in stored.stored] == [[1], [2]]
        assert writer.acknowledged == 2

    def test_an_exception_drops_the_unfinished_episode_alone(
        self, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        stored = store(fake)

        def play() -> None:
            with fake_buffer.writer() as writer:
                writer.append(step(1))
                writer.end_episode()
                writer.append(step(2))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            play()
        assert [kept.arrays["reward"].tolist() for kept in stored.stored] == [[1]]

    def test_an_exception_is_not_hidden_by_another(
        self, fake: FakeServer, fake_buffer: replayring.Buffer, caplog: pytest.LogCaptureFixture
    ) -> None:
        store(fake, at_1=fake_store.REFUSED)

        def play() -> None:
            with fake_buffer.writer() as writer:
                writer.add_episode(episode())
                raise ZeroDivisionError

        with caplog.at_level(logging.WARNING, "replayring"), pytest.raises(ZeroDivisionError):
            play()
        assert "sequence 1" in caplog.text

    def test_closed(self, fake: FakeServer, fake_buffer: replayring.Buffer) -> None:
        stored = store(fake)
        writer = fake_buffer.writer()
        writer.add_episode(episode())
        writer.close()
        writer.close()
        assert stored.sequences() == [1]
        uses: list[Any] = [
            lambda: writer.append(step()),
            lambda: writer.end_episode(),
            lambda: writer.add_episode(episode()),
            lambda: writer.discard_episode(),
            lambda: writer.flush(),
        ]
        for use in uses:
            with pytest.raises(replayring.ClosedError):
                use()

    def test_closing_the_client_says_what_may_be_lost(
        self, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        fake.script("AddEpisodes", silence())
        writer = fake_buffer.writer()
        for _ in range(2):
            writer.add_episode(episode())
        eventually(lambda: fake.calls["AddEpisodes"], "the call has begun")
        fake_buffer.client.close()
        with pytest.raises(replayring.ClosedError, match="2 are not; sequences 1 to 2 may be lost"):
            writer.append(step())
        with pytest.raises(replayring.ClosedError, match="2 are not; sequences 1 to 2 may be lost"):
            writer.close()
        writer.close()

    def test_closing_the_client_with_nothing_pending_is_fine(
        self, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        store(fake)
        writer = fake_buffer.writer()
        writer.add_episode(episode())
        writer.flush()
        fake_buffer.client.close()
        writer.close()

    def test_identity(self, buffer: replayring.Buffer) -> None:
        first, second = buffer.writer(), buffer.writer()
        assert first.writer_id != second.writer_id
        assert len(first.writer_id) == 32
        with pytest.raises(replayring.InvalidRequestError, match="writer_id"):
            buffer.writer(writer_id="a/b")

    def test_a_program_run_again_stores_once(self, buffer: replayring.Buffer) -> None:
        for duplicate in (False, True):
            with buffer.writer(writer_id="import") as writer:
                for value in range(3):
                    writer.add_episode(episode(value=value))
            acknowledgement = writer.last_acknowledgement
            assert acknowledgement is not None
            assert acknowledgement.duplicate is duplicate
        assert buffer.info().num_episodes == 3

    def test_an_identity_used_for_something_else(self, buffer: replayring.Buffer) -> None:
        with buffer.writer(writer_id="actor") as writer:
            writer.add_episode(episode(value=1))
        with (
            pytest.raises(replayring.SequenceReusedError, match="sequence 1"),
            buffer.writer(writer_id="actor") as writer,
        ):
            writer.add_episode(episode(value=2))

    def test_what_is_pending_can_be_asked_in_a_fork_whatever_the_parent_does(
        self, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        stored = store(fake)
        stored.proceed.clear()
        with fake_buffer.writer() as writer:
            writer.add_episode(episode())
            with held_elsewhere(writer._sender._lock):
                assert succeeds_in_child(lambda: eventually(lambda: writer.pending == [1], "it"))
            stored.proceed.set()

    @pytest.mark.parametrize("what", ["the call ends", "Ctrl-C"])
    def test_what_comes_between_queueing_and_sending_costs_nothing(
        self,
        fake: FakeServer,
        fake_buffer: replayring.Buffer,
        monkeypatch: pytest.MonkeyPatch,
        what: str,
    ) -> None:
        stored = store(fake)
        with fake_buffer.writer() as writer:
            sender: Any = writer._sender
            after = sender._backlog.after

            def between(sequence: int) -> Any:
                if what == "Ctrl-C":
                    raise KeyboardInterrupt
                sender._outbox = None  # as the call's end does, without the lock
                return after(sequence)

            for value in range(1, 6):
                with monkeypatch.context() as planted, suppress(KeyboardInterrupt):
                    if value in (2, 5):  # others come after the one, and none after the other
                        planted.setattr(sender._backlog, "after", between)
                    writer.add_episode(episode(value=value))
                if value in (1, 4):
                    writer.flush()
            writer.flush()
        assert [kept.arrays["reward"][0] for kept in stored.stored] == [1, 2, 3, 4, 5]

    def test_a_forked_copy_cannot_be_used(self, buffer: replayring.Buffer) -> None:
        with buffer.writer() as writer:
            writer.add_episode(episode())

            def work() -> None:
                with pytest.raises(replayring.ClosedError, match="forked"):
                    writer.append(step())
                writer.close()  # what `with` does; neither waits nor sends

            assert succeeds_in_child(work)
            writer.add_episode(episode())
        assert buffer.info().num_episodes == 2
