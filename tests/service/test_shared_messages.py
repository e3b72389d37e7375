"""Small episodes that share a message: stored, acknowledged and refused as if each came alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replayring_proto.limits import MAX_EPISODES_PER_MESSAGE
from replayring_proto.v1 import buffer_pb2, replay_pb2
from replayring_server.engine import Buffer
from replayring_server.service import adding
from replayring_server.service.workers import Workers
from tests.service.frames import SPEC, episode, refused, state
from tests.support import LocalServer
from tests.wire import (
    Wire,
    acknowledgements,
    episode_messages,
    shared_message,
    spec_message,
    start_message,
)

Plain = tuple[int, int, int, int, bool]
INVALID, MALFORMED = "INVALID_ARGUMENT", "MalformedMessageError"


def plain(reply: bytes) -> list[Plain]:
    return [
        (one.sequence, one.episode_index, one.index, one.num_frames, one.duplicate)
        for one in acknowledgements(reply)
    ]


@pytest.fixture
def buffer(wire: Wire, name: str) -> str:
    wire.create(name, SPEC)
    return name


def test_they_are_acknowledged_together_and_in_order(wire: Wire, buffer: str) -> None:
    episodes = [episode(length, length) for length in (2, 1, 3)]
    (reply,) = wire.call("AddEpisodes", start_message(buffer), shared_message(1, *episodes))
    assert plain(reply) == [(1, 0, 0, 2, False), (2, 1, 2, 1, False), (3, 2, 3, 3, False)]
    stored = wire.columns(buffer, "pixel", "episode_index")
    assert stored["episode_index"].tolist() == [0, 0, 1, 2, 2, 2]
    assert np.array_equal(stored["pixel"], np.concatenate([e["pixel"] for e in episodes]))


def test_the_first_message_may_have_them(wire: Wire, buffer: str) -> None:
    start = start_message(buffer).start
    (reply,) = wire.call("AddEpisodes", shared_message(5, episode(1), episode(1), start=start))
    assert [one.sequence for one in acknowledgements(reply)] == [5, 6]


def test_they_mix_with_episodes_that_come_in_pieces(wire: Wire, buffer: str) -> None:
    messages = [
        start_message(buffer),
        shared_message(1, episode(1)),
        *episode_messages(2, episode(2), chunk=7),
        shared_message(3, episode(3), episode(1)),
    ]
    replies = wire.call("AddEpisodes", *messages)
    assert [plain(reply) for reply in replies] == [
        [(1, 0, 0, 1, False)],
        [(2, 1, 1, 2, False)],
        [(3, 2, 3, 3, False), (4, 3, 6, 1, False)],
    ]


def test_a_retry_is_recognised_whether_it_comes_together_or_alone(wire: Wire, buffer: str) -> None:
    wire.add(buffer, episode(1, 1))
    wire.call("AddEpisodes", start_message(buffer), shared_message(2, episode(2, 2), episode(1, 3)))
    before = state(wire, buffer)
    together = shared_message(1, episode(1, 1), episode(2, 2))
    alone = episode_messages(3, episode(1, 3))
    first, second = wire.call("AddEpisodes", start_message(buffer), together, *alone)
    assert plain(first) == [(1, 0, 0, 1, True), (2, 1, 1, 2, True)]
    assert plain(second) == [(3, 2, 3, 1, True)]
    assert state(wire, buffer) == before


def test_those_before_a_refused_one_are_stored_and_acknowledged(wire: Wire, buffer: str) -> None:
    bad = episode(2) | {"pixel": np.zeros(3, np.uint8)}
    call = wire.stream("AddEpisodes")
    call.send(start_message(buffer), shared_message(1, episode(1), episode(2), bad, episode(1)))
    assert plain(call.receive()) == [(1, 0, 0, 1, False), (2, 1, 1, 2, False)]
    with refused(INVALID, "InvalidEpisodeError", "sequence 3:", "equal length"):
        call.receive()
    assert wire.info(buffer).next_index == 3


def test_nothing_is_acknowledged_where_the_first_is_refused(wire: Wire, buffer: str) -> None:
    bad = episode(2) | {"pixel": np.zeros(3, np.uint8)}
    with refused(INVALID, "InvalidEpisodeError", "sequence 1:"):
        wire.call("AddEpisodes", start_message(buffer), shared_message(1, bad, episode(1)))
    assert wire.info(buffer).next_index == 0


def changed(**fields: Any) -> replay_pb2.AddEpisodesRequest:
    """Two episodes in a message, the second with some fields changed."""
    message = shared_message(1, episode(1), episode(1))
    for key, value in fields.items():
        setattr(message.episodes[1], key, value)
    return message


def beside(**fields: Any) -> replay_pb2.AddEpisodesRequest:
    """Two episodes in a message, and other fields beside them."""
    message = shared_message(1, episode(1), episode(1))
    message.MergeFrom(replay_pb2.AddEpisodesRequest(**fields))
    return message


def headless() -> replay_pb2.AddEpisodesRequest:
    message = shared_message(1, episode(1), episode(1))
    message.episodes[1].ClearField("pack")
    return message


BODY = episode_messages(1, episode(1))[0].data

REFUSED = {
    "sequence 0": (changed(sequence=0), MALFORMED, "from 1"),
    "a body cut short": (changed(data=BODY[:-1]), MALFORMED, "must be whole"),
    "a body too long": (changed(data=BODY + b"x"), MALFORMED, "must be whole"),
    "no body": (changed(data=b""), MALFORMED, "must be whole"),
    "no header": (headless(), MALFORMED, "must be whole"),
    "a pack beside them": (
        beside(pack=episode_messages(1, episode(1))[0].pack),
        MALFORMED,
        "send either",
    ),
    "bytes beside them": (beside(data=b"x"), MALFORMED, "send either"),
    "a sequence beside them": (beside(sequence=9), MALFORMED, "send either"),
}


@pytest.mark.parametrize(("message", "kind", "words"), REFUSED.values(), ids=REFUSED)
def test_a_malformed_message_is_refused_whole(
    wire: Wire, buffer: str, message: replay_pb2.AddEpisodesRequest, kind: str, words: str
) -> None:
    with refused(INVALID, kind, words):
        wire.call("AddEpisodes", start_message(buffer), message)
    assert wire.info(buffer).next_index == 0


def test_they_may_not_come_before_start_nor_within_an_episode(wire: Wire, buffer: str) -> None:
    shared = shared_message(1, episode(1))
    with refused(INVALID, MALFORMED, "before `start`"):
        wire.call("AddEpisodes", shared)
    first, *_ = episode_messages(1, episode(4), chunk=10)
    with refused(INVALID, MALFORMED, "came in the middle of an episode"):
        wire.call("AddEpisodes", start_message(buffer), first, shared)
    assert wire.info(buffer).next_index == 0


def test_there_is_a_limit_to_how_many(wire: Wire, buffer: str) -> None:
    most = [episode(1)] * MAX_EPISODES_PER_MESSAGE
    (reply,) = wire.call("AddEpisodes", start_message(buffer), shared_message(1, *most))
    assert len(acknowledgements(reply)) == MAX_EPISODES_PER_MESSAGE
    with refused("RESOURCE_EXHAUSTED", "LimitExceededError", "received 33", "limit is 32"):
        wire.call("AddEpisodes", start_message(buffer), shared_message(100, *most, episode(1)))


def test_a_junk_episode_among_them_is_refused(wire: Wire, buffer: str) -> None:
    junk = bytes([15 << 3 | 2, 3]) + b"\xff\xff\xff"
    with refused(INVALID, MALFORMED):
        wire.call("AddEpisodes", start_message(buffer), junk)


def test_durable_ones_share_one_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int | None] = []
    real = Buffer.sync

    def sync(buffer: Buffer, until: int | None = None) -> None:
        synced.append(until)
        real(buffer, until)

    monkeypatch.setattr(Buffer, "sync", sync)
    with LocalServer(tmp_path / "data") as server, Wire(server.address) as wire:
        spec = spec_message({"x": ("int64", ())})
        spec.durability = buffer_pb2.DURABILITY_COMMIT
        wire.create("b", spec)
        episodes = [{"x": np.arange(length)} for length in (3, 2, 1)]
        wire.call("AddEpisodes", start_message("b"), shared_message(1, *episodes))
        assert synced == [6]


@pytest.mark.parametrize("reading", [False, True])
def test_learners_have_their_turn_amid_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reading: bool
) -> None:
    """Here after each episode, and they see those that are stored by then."""
    with LocalServer(tmp_path / "data") as server, Wire(server.address) as wire:
        wire.create("b", SPEC)
        seen: list[int] = []
        monkeypatch.setattr(adding, "_STORED_AT_ONCE_WHILE_READING", 1)
        monkeypatch.setattr(Workers, "reading", property(lambda self: reading))
        monkeypatch.setattr(
            Workers, "give_way", lambda self, loop: seen.append(wire.info("b").next_index)
        )
        wire.call("AddEpisodes", start_message("b"), shared_message(1, *map(episode, (2, 1, 3))))
        assert seen == ([2, 3] if reading else [])
