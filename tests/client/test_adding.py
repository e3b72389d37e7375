"""Adding episodes in the caller's own time: checked first, stored exactly once, in order."""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import replayring
from tests.client import fake_store
from tests.client.fake_server import FakeServer, silence
from tests.client.fake_store import FakeStore
from tests.support import eventually

pytestmark = [
    pytest.mark.usefixtures("no_threads_left"),
    # Python 3.12 and later warn of what the fork gate is there for.
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]


def episode(frames: int = 3, value: float = 0.0) -> dict[str, Any]:
    return {"state": np.full((frames, 2), value), "reward": np.arange(frames) + value}


@pytest.fixture
def fake_buffer(fake: FakeServer, fake_client: replayring.Client) -> replayring.Buffer:
    return fake_client.buffer("fake")


def store(fake: FakeServer, **faults: str) -> FakeStore:
    scripted = FakeStore(**faults)
    fake.script("AddEpisodes", scripted)
    return scripted


class TestRealServer:
    def test_acknowledgements_say_where_episodes_went(self, buffer: replayring.Buffer) -> None:
        first = buffer.add_episode(episode(3))
        assert first == replayring.Acknowledgement(1, 0, 0, 3, False)
        later = buffer.add_episodes([episode(2), episode(4)])
        assert later == [
            replayring.Acknowledgement(2, 1, 3, 2, False),
            replayring.Acknowledgement(3, 2, 5, 4, False),
        ]
        assert buffer.info().next_index == 9

    def test_what_arrives_is_what_was_sent(self, buffer: replayring.Buffer) -> None:
        sent = {
            "state": torch.arange(6, dtype=torch.float64).reshape(3, 2),
            "reward": [1, 2, 3],
            "timestamp": [0.5, 0.5, 0.75],
        }
        buffer.add_episode(sent)
        got = buffer.read_columns(["state", "reward", "timestamp", "frame_index"])
        assert got["state"].tolist() == [[0, 1], [2, 3], [4, 5]]
        assert got["reward"].tolist() == [1, 2, 3]
        assert got["timestamp"].tolist() == [0.5, 0.5, 0.75]
        assert got["frame_index"].tolist() == [0, 1, 2]

    def test_flat_data(self, buffer: replayring.Buffer) -> None:
        data = {
            "state": np.zeros((5, 2)),
            "reward": np.arange(5.0),
            "index": np.arange(5),
            "episode_index": [0, 0, 1, 1, 1],
            "frame_index": [0, 1, 0, 1, 2],
            "timestamp": [0, 0.1, 0, 0.1, 0.2],
            "task": ["stand"] * 5,
        }
        assert [ack.num_frames for ack in buffer.add_data(data)] == [2, 3]
        assert buffer.read_columns(["episode_index"])["episode_index"].tolist() == [0, 0, 1, 1, 1]

    @pytest.mark.parametrize("frames", [1, 1000])
    def test_one_chunk_or_many(self, frames: int, client: replayring.Client, name: str) -> None:
        spec = {"image": {"shape": (64, 64), "dtype": "uint8"}}
        buffer = client.create_buffer(name, spec, 2000)
        images = np.random.default_rng(1).integers(0, 256, (frames, 64, 64), np.uint8)
        before = images.copy()
        buffer.add_episode({"image": images})
        assert np.array_equal(buffer.read_columns(["image"])["image"], before)
        assert np.array_equal(images, before)

    def test_nothing_to_add(self, buffer: replayring.Buffer) -> None:
        assert buffer.add_episodes([]) == []
        assert buffer.add_episodes(iter([episode()]))[0].sequence == 1

    def test_threads_take_turns(self, buffer: replayring.Buffer) -> None:
        done: list[replayring.Acknowledgement] = []

        def add() -> None:
            done.extend(buffer.add_episodes([episode()] * 10))

        threads = [threading.Thread(target=add) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(ack.episode_index for ack in done) == list(range(40))
        assert sorted(ack.sequence for ack in done) == list(range(1, 41))

    def test_copies_have_writers_of_their_own(self, buffer: replayring.Buffer) -> None:
        buffer.add_episode(episode())
        copy = pickle.loads(pickle.dumps(buffer))
        with copy.client:
            assert not copy.add_episode(episode(value=2)).duplicate
        assert buffer.info().num_episodes == 2


class TestChecks:
    @pytest.mark.parametrize(
        ("bad", "text"),
        [
            ({"state": np.zeros((3, 2))}, "lacks 'reward'"),
            ({**episode(), "extra": np.zeros(3)}, "'extra'"),
            ({**episode(), "state": np.zeros((3, 1))}, "shape"),
            ({**episode(), "reward": np.zeros(2)}, "equal length"),
            ({**episode(), "reward": np.zeros(3, complex)}, "dtype"),
            ({**episode(), "timestamp": [0, np.nan, 1]}, "finite"),
            ({**episode(), "timestamp": [0, 2, 1]}, "decrease"),
            (episode(0), "no frames"),
            (episode(1001), "1,001 frames"),
        ],
    )
    def test_nothing_is_sent_unless_all_are_good(
        self, bad: Any, text: str, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        store(fake)
        with pytest.raises(replayring.InvalidEpisodeError, match=text):
            fake_buffer.add_episodes([episode(), episode(), bad])
        assert fake.calls["AddEpisodes"] == 0


class TestFaults:
    """Each at any of three episodes: all are stored once, in order, and acknowledged."""

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
        acks = fake_buffer.add_episodes([episode(value=value) for value in range(3)])
        assert stored.sequences() == [1, 2, 3]
        assert [kept.arrays["reward"][0] for kept in stored.stored] == [0, 1, 2]
        assert [ack.sequence for ack in acks] == [1, 2, 3]
        assert [ack.episode_index for ack in acks] == [0, 1, 2]
        assert len({writer for writer, _ in stored.received}) == 1
        assert fake.calls["AddEpisodes"] == 2

    def test_a_lost_acknowledgement_is_a_duplicate(
        self, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        store(fake, at_1=fake_store.LOST_AFTER)
        assert fake_buffer.add_episode(episode()).duplicate

    def test_many_faults(self, fake: FakeServer, fake_buffer: replayring.Buffer) -> None:
        kinds = [fake_store.LOST_AFTER, fake_store.LOST_MIDWAY, fake_store.LOST_BEFORE]
        stored = store(fake, **{f"at_{3 * i + 2}": kinds[i % 3] for i in range(9)})
        fake_buffer.add_episodes([episode(value=value) for value in range(20)])
        assert stored.sequences() == list(range(1, 21))
        assert not stored.faults

    def test_refused_in_the_middle(self, fake: FakeServer, fake_buffer: replayring.Buffer) -> None:
        stored = store(fake)
        stored.refuse = lambda sequence: sequence == 3
        with pytest.raises(replayring.InvalidEpisodeError, match=r"episode 2 of 5.*NaN") as caught:
            fake_buffer.add_episodes([episode()] * 5)
        assert stored.sequences() == [1, 2]
        acknowledged = caught.value.acknowledged
        assert [ack.sequence for ack in acknowledged] == [1, 2]
        assert fake.calls["AddEpisodes"] == 1
        assert fake_buffer.add_episode(episode()).sequence == 6, "sequences are never used again"

    def test_acknowledgement_of_something_else(
        self, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        store(fake, at_1=fake_store.WRONG_ACK)
        with pytest.raises(
            replayring.MalformedMessageError, match=r"sequences \[2\], where \[1\] was due"
        ):
            fake_buffer.add_episode(episode())

    def test_time_runs_out_half_way(self, fake: FakeServer, fake_buffer: replayring.Buffer) -> None:
        stored = FakeStore()

        def script(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            replies = stored(requests, context)
            yield next(replies)
            yield from silence()(requests, context)

        fake.script("AddEpisodes", script)
        with pytest.raises(replayring.DeadlineError, match="episode 1 of 3") as caught:
            fake_buffer.add_episodes([episode()] * 3, timeout=0.5)
        assert len(caught.value.acknowledged) == 1
        assert "may have been stored" in str(caught.value)

    def test_waiting_for_the_turn_counts(
        self, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        stored = store(fake)
        stored.proceed.clear()
        slow = threading.Thread(target=fake_buffer.add_episode, args=(episode(),))
        slow.start()
        try:
            eventually(lambda: fake.calls["AddEpisodes"], "the first thread adds")
            began = time.monotonic()
            with pytest.raises(replayring.DeadlineError, match="other threads"):
                fake_buffer.add_episode(episode(), timeout=0.3)
            assert time.monotonic() - began < 5
        finally:
            stored.proceed.set()
            slow.join(30)
        assert stored.sequences() == [1]

    def test_a_forked_copy_is_another_writer(self, buffer: replayring.Buffer) -> None:
        """Otherwise the child's episode would be taken for its parent's, or the other way round."""
        buffer.add_episode(episode())
        pid = os.fork()
        if not pid:
            duplicate = True
            try:
                duplicate = buffer.add_episode(episode(value=1)).duplicate
            finally:
                os._exit(duplicate)
        assert os.waitpid(pid, 0)[1] == 0
        assert not buffer.add_episode(episode(value=2)).duplicate
        assert buffer.info().num_episodes == 3
