"""`kill -9` of the server at any instant loses nothing acknowledged and tears no row (invariant 1).

Each life of a writing process opens the store, appends self-checking episodes, and is killed at a
random moment. The files it leaves are opened and held against what it had said. REPLAYRING_KILLS
sets how many lives there are for each kind of ring. A random moment hits what the steps of
`test_failpoints` cannot name, such as the middle of a copy; which planted defects deaths find is
shown there, where nothing is left to chance.
"""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from replayring_proto.query import View
from replayring_proto.ring import Live, Plan
from replayring_proto.spec import BufferSpec
from replayring_server.engine import Buffer, Origin, Store
from tests.engine.frames import assert_contiguous, assert_whole, checked_episode, checked_spec
from tests.engine.killed_writer import BUFFER, WRITER, Life, Sent, Zygote

KILLS = int(os.environ.get("REPLAYRING_KILLS", "200"))

# Capacity, bytes of the widest column, and frames of the longest episodes: all within the slack;
# all but a few within it; most of them far beyond it, up to the whole capacity.
RINGS = [(40, 4096, 40), (1000, 1024, 90), (300, 2048, 300)]


@dataclass
class World:
    """A buffer, and what is known of it by what its writers said before they died."""

    folder: Path
    spec: BufferSpec
    rng: random.Random
    stored: list[Sent] = field(default_factory=list)
    floor: int = 0  # appends longer than the slack, cut short, may have cost frames below this

    @property
    def head(self) -> int:
        last = self.stored[-1] if self.stored else Sent(0, 0, 0)
        return (last.index or 0) + last.frames

    def live_and_die(self, zygote: Zygote, longest: int) -> list[Sent]:
        """One life up to its kill; returns the episodes that may have been under way."""
        last = self.stored[-1] if self.stored else None
        retry = [last.sequence, last.frames] if last and self.rng.random() < 0.5 else None
        life = zygote.start(
            self.folder,
            self.spec,
            first=len(self.stored) + 1,
            longest=longest,
            seed=self.rng.getrandbits(32),
            retry=retry,
        )
        self._kill(life)
        return self._learn(life)

    def _kill(self, life: Life) -> None:
        """Kills after some of what it says, at any moment; also while it opens the files."""
        for _ in range(self.rng.choice((0, 1, self.rng.randrange(60)))):
            assert life.read_one(), "the writer ended by itself"
        time.sleep(self.rng.random() * 0.004)  # chooses the moment, and waits for nothing
        life.kill()

    def _learn(self, life: Life) -> list[Sent]:
        """Takes over what the life said."""
        under_way = []
        for sent in life.sent:
            if sent.sequence <= len(self.stored):
                assert sent.index in (None, self.stored[sent.sequence - 1].index), "stored twice"
            elif sent.index is not None:
                assert sent.index == self.head
                self.stored.append(sent)
            else:
                under_way.append(sent)
        return under_way

    def check(self, under_way: list[Sent]) -> None:
        """Opens what the death left behind and holds it against what was promised."""
        with Store(self.folder) as store:
            if BUFFER not in store.names():
                assert not self.stored, "the buffer is gone"
                return
            buffer = store.get(BUFFER)
            self._settle(buffer, under_way)
            self._check_live_frames(buffer)
            if self.stored:
                self._retry(buffer, self.stored[-1], duplicate=True)

    def _settle(self, buffer: Buffer, under_way: list[Sent]) -> None:
        """Sends the last ones again: afterwards each is there once, whether it was or not."""
        end, at = buffer.reader.live.end, self.head
        assert end >= at, "acknowledged frames are lost"
        were_stored = [(at := at + sent.frames) <= end for sent in under_way]
        stored_to = sum(s.frames for s, was in zip(under_way, were_stored, strict=True) if was)
        assert end == self.head + stored_to, "a part of an episode was published"
        if not all(were_stored):
            next_one = under_way[were_stored.index(False)]
            beyond = end + next_one.frames - buffer.info().physical_rows
            self.floor = max(self.floor, beyond)
        self._check_window(buffer.reader.live)
        for sent, was_stored in zip(under_way, were_stored, strict=True):
            sent.index = self.head
            self._retry(buffer, sent, duplicate=was_stored)
            self.stored.append(sent)

    def _retry(self, buffer: Buffer, sent: Sent, *, duplicate: bool) -> None:
        episode = checked_episode(self.spec, sent.sequence, sent.frames)
        stored = buffer.append(episode, Origin(WRITER, sent.sequence))
        assert stored.duplicate >= duplicate, "stored twice"
        assert stored.duplicate <= duplicate, "not stored, but taken for a duplicate"
        assert (stored.index, stored.episode_index) == (sent.index, sent.sequence - 1)

    def _check_window(self, live: Live) -> None:
        """All acknowledged frames are there, as far as the capacity keeps them."""
        kept = max(0, live.end - live.capacity)
        assert kept <= live.start <= max(kept, self.floor), "acknowledged frames are lost"

    def _check_live_frames(self, buffer: Buffer) -> None:
        live = buffer.reader.live
        assert live.end == self.head, "acknowledged frames are lost"
        self._check_window(live)
        indices = np.arange(live.start, live.end)
        arrays = buffer.reader.at_indices(Plan(self.spec, View()), indices).arrays
        assert_whole(self.spec, arrays)
        assert_contiguous(arrays)
        np.testing.assert_array_equal(arrays["index"], indices)
        episodes = self._newest(len(live))
        lengths = [sent.frames for sent in episodes]
        starts = np.repeat([sent.index for sent in episodes], lengths)[-len(live) :]
        tags = np.repeat([sent.sequence for sent in episodes], lengths)[-len(live) :]
        np.testing.assert_array_equal(arrays["a.tag"], tags)
        np.testing.assert_array_equal(arrays["frame_index"], indices - starts)
        np.testing.assert_array_equal(arrays["episode_index"], tags - 1)

    def _newest(self, frames: int) -> list[Sent]:
        """The newest episodes, as many as hold that many frames."""
        found: list[Sent] = []
        while frames > 0:
            found.append(self.stored[-1 - len(found)])
            frames -= found[-1].frames
        return found[::-1]


def kill_and_check(world: World, longest: int, kills: int) -> int:
    """Goes through that many lives; returns how many were killed within an append."""
    interrupted = 0
    with Zygote() as zygote:
        for _ in range(kills):
            under_way = world.live_and_die(zygote, longest)
            interrupted += bool(under_way)
            world.check(under_way)
    return interrupted


@pytest.mark.parametrize(("capacity", "width", "longest"), RINGS)
def test_kill_9_at_any_moment_loses_nothing_acknowledged_and_tears_no_row(
    memory_path: Path, capacity: int, width: int, longest: int
) -> None:
    world = World(memory_path, checked_spec(capacity, width), random.Random(capacity))
    kills = -(-KILLS // len(RINGS))
    interrupted = kill_and_check(world, longest, kills)
    assert interrupted > kills // 4, "too few kills hit an append to prove anything"
    assert world.head > 3 * capacity, "the ring did not turn"
