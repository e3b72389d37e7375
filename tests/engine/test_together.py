"""Episodes that are handed over together: stored as one by one would be, in fewer appends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from replayring_proto.errors import InvalidEpisodeError, ReplayRingError, SequenceReusedError
from replayring_server.engine import Buffer, Origin, Store, Stored
from replayring_server.engine.ring import RingWriter
from tests.engine.frames import Arrays, checked_episode, checked_spec
from tests.engine.test_append import frames_of

SPEC = checked_spec(100)
SLACK = 64

Sent = list[tuple[Arrays, Origin | None]]


@pytest.fixture
def buffer(store: Store) -> Buffer:
    return store.create("ring", SPEC)[0]


@pytest.fixture
def appends(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The lengths of what each append takes."""
    seen: list[list[int]] = []
    append = RingWriter.append

    def counted(self: RingWriter, arrays: Arrays, first: int, lengths: Any, *rest: Any) -> int:
        seen.append(list(lengths))
        return append(self, arrays, first, lengths, *rest)

    monkeypatch.setattr(RingWriter, "append", counted)
    return seen


def sent(*frames: int, writer: str = "w", first: int = 1) -> Sent:
    """Episodes of so many frames, each with the sequence that it is tagged with."""
    return [
        (checked_episode(SPEC, tag, length), Origin(writer, tag))
        for tag, length in enumerate(frames, first)
    ]


def test_small_ones_of_a_writer_share_an_append(buffer: Buffer, appends: list[list[int]]) -> None:
    stored, refusal = buffer.store_all(sent(3, 1, 2))
    assert refusal is None
    assert stored == [Stored(0, 0, 3), Stored(1, 3, 1), Stored(2, 4, 2)]
    assert appends == [[3, 1, 2]]
    arrays = frames_of(buffer)
    assert arrays["a.tag"].tolist() == [1, 1, 1, 2, 3, 3]
    assert arrays["episode_index"].tolist() == [0, 0, 0, 1, 2, 2]
    assert arrays["frame_index"].tolist() == [0, 1, 2, 0, 0, 1]
    assert arrays["timestamp"].tolist() == [0.0, 0.1, 0.2, 0.0, 0.0, 0.1]


def test_no_append_of_several_is_longer_than_the_slack(
    buffer: Buffer, appends: list[list[int]]
) -> None:
    """Longer ones give up live frames before they are written, which a death would then cost."""
    buffer.store_all(sent(30, 34, 1, 64, 65, 100, 63, 1))
    assert appends == [[30, 34], [1], [64], [65], [100], [63, 1]]


@pytest.mark.parametrize(
    ("others", "lengths"),
    [
        (sent(1, writer="v", first=3), [[1, 1], [1]]),
        ([(checked_episode(SPEC, 3, 1), None)], [[1, 1], [1]]),
        ([({**checked_episode(SPEC, 3, 1), "timestamp": [1.0]}, Origin("w", 3))], [[1, 1], [1]]),
        (sent(1, first=2), [[1, 1]]),
        (sent(1, first=4), [[1, 1, 1]]),
    ],
    ids=["another writer", "no writer", "other columns", "a retry", "a gap"],
)
def test_what_cannot_be_told_apart_later_does_not_share(
    buffer: Buffer, appends: list[list[int]], others: Sent, lengths: list[list[int]]
) -> None:
    stored, refusal = buffer.store_all(sent(1, 1) + others)
    assert refusal is None
    assert appends == lengths
    assert len(stored) == 3
    repeated, _ = buffer.store_all([one for one in sent(1, 1) + others if one[1]])
    assert all(one.duplicate for one in repeated)


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (({"a.tag": np.zeros(2)}, Origin("w", 3)), InvalidEpisodeError),
        ((checked_episode(SPEC, 9, 2), Origin("w", 2)), SequenceReusedError),
    ],
    ids=["misfit", "another episode's sequence"],
)
def test_those_before_a_refused_one_are_stored_and_none_after_it(
    buffer: Buffer, bad: tuple[Arrays, Origin], kind: type[ReplayRingError]
) -> None:
    stored, refusal = buffer.store_all([*sent(2, 1), bad, *sent(1, first=4)])
    assert type(refusal) is kind
    assert stored == [Stored(0, 0, 2), Stored(1, 2, 1)]
    assert frames_of(buffer)["a.tag"].tolist() == [1, 1, 2]
    rest, refusal = buffer.store_all(sent(1, first=4))
    assert (rest, refusal) == ([Stored(2, 3, 1)], None)


def test_each_is_recognised_when_it_is_sent_again(store: Store) -> None:
    """By the log, which has a record of each, whatever was stored together; after a restart too."""
    buffer, _ = store.create("ring", SPEC)
    first, _ = buffer.store_all(sent(3, 1, 2))
    store.close()
    with Store(store.data_dir) as reopened:
        again, refusal = reopened.get("ring").store_all(sent(3, 1, 2))
    assert refusal is None
    assert [(one.index, one.duplicate) for one in again] == [(one.index, True) for one in first]


def test_nothing_is_stored_in_a_buffer_that_was_deleted(store: Store) -> None:
    buffer, _ = store.create("ring", SPEC)
    store.delete("ring")
    stored, refusal = buffer.store_all(sent(1, 1))
    assert stored == []
    assert "was deleted" in str(refusal)
