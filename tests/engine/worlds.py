"""What a data directory should hold, in plain lists, and whether an open store holds it.

Between two worlds lies one deed; a store left by a death in the middle of it must hold the one or
the other, whole, and doing the deed again must lead to the other, once.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from replayring_proto.errors import SequenceReusedError
from replayring_proto.layout import LOCK, physical_rows
from replayring_proto.query import View
from replayring_proto.ring import Plan
from replayring_server.engine import Buffer, Store
from replayring_server.engine.parameters import FOLDER as PARAMETERS
from tests.engine.failpoints import Deed, Hand, episode_of, spec_of
from tests.naive import NaiveBuffer

Outline = tuple[Any, ...]


@dataclasses.dataclass
class Ring:
    """One buffer, and the last episode that a writer sent to it: tag, frames, first `index`."""

    naive: NaiveBuffer
    last: tuple[int, int, int] | None = None
    given_up: int = 0  # frames below this an append that died may have cost


class World:
    """What was done so far."""

    def __init__(self) -> None:
        self.rings: dict[str, Ring] = {}
        self.parameters: dict[str, int] = {}

    def after(self, deed: Deed) -> World:
        """Returns the world in which `deed` was done as well."""
        world = copy.deepcopy(self)
        act = getattr(world, deed[0], None)
        if act is not None:  # what only opens, syncs or closes changes nothing
            act(*deed[1:])
        return world

    def create(self, name: str, capacity: int, durability: str) -> None:
        if name not in self.rings:
            self.rings[name] = Ring(NaiveBuffer(spec_of(capacity, durability)))

    def delete(self, name: str) -> None:
        self.rings.pop(name, None)

    def append(self, name: str, tag: int, frames: int) -> None:
        ring = self.rings[name]
        stored = ring.naive.add_episode(episode_of(tag, frames))
        ring.last = (tag, frames, stored.index)

    def append_unnamed(self, name: str, tag: int, frames: int) -> None:
        ring = self.rings[name]
        ring.naive.add_episode(episode_of(tag, frames))

    def publish(self, name: str, version: int) -> None:
        self.parameters[name] = version

    def outline(self) -> Outline:
        """Returns what tells two worlds apart."""
        heads = {name: ring.naive.info().next_index for name, ring in self.rings.items()}
        return heads, self.parameters

    def interrupt(self, deed: Deed) -> None:
        """Allows for what an append longer than the slack may cost if it dies."""
        if deed[0].startswith("append"):
            ring = self.rings[deed[1]]
            info = ring.naive.info()
            ring.given_up = info.next_index + deed[3] - physical_rows(info.capacity)

    def check(self, store: Store) -> None:
        """Checks that the store holds this world, and no more."""
        assert outline_of(store) == self.outline()
        for name, ring in self.rings.items():
            check_ring(store.get(name), ring)
        for name in self.parameters:
            assert store.parameters.get(name).pack.arrays["version"] == self.parameters[name]


def outline_of(store: Store) -> Outline:
    """Returns what `World.outline` returns, of a store; every damaged thing is a failure."""
    assert not store._damaged, "a buffer cannot be opened"
    heads = {name: store.get(name).info().next_index for name in store.names()}
    names = sorted(path.name for path in (store.data_dir / PARAMETERS).glob("[!.]*"))
    return heads, {name: store.parameters.get(name).version for name in names}


def check_ring(buffer: Buffer, ring: Ring) -> None:
    """Checks a buffer's counts, every live frame, and that its writer is remembered."""
    found, expected = buffer.info(), ring.naive.info()
    assert found.next_episode_index == expected.next_episode_index
    assert expected.oldest_index <= found.oldest_index
    assert found.oldest_index <= max(expected.oldest_index, ring.given_up), "frames are lost"
    frames = [frame for frame in ring.naive.frames if frame["index"] >= found.oldest_index]
    indices = np.arange(found.oldest_index, found.next_index)
    arrays = buffer.reader.at_indices(Plan(buffer.spec, View()), indices).arrays
    for name, array in arrays.items():
        values = np.array([frame[name] for frame in frames], array.dtype).reshape(array.shape)
        np.testing.assert_array_equal(array, values, err_msg=name)
    if ring.last:
        check_retry(buffer, *ring.last)


def check_retry(buffer: Buffer, tag: int, frames: int, index: int) -> None:
    """Checks that a writer's last episode, sent again, is not stored again; nor another as it."""
    hand = Hand(Path())
    hand.store = _Only(buffer)  # type: ignore[assignment]
    stored = hand.append("", tag, frames)
    assert stored.duplicate, "stored twice"
    assert (stored.index, stored.num_frames) == (index, frames)
    try:
        hand.append("", tag, frames % buffer.spec.capacity + 1)
    except SequenceReusedError:
        return
    raise AssertionError("another episode was taken for the same")


class _Only:
    """A store of one buffer."""

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer

    def get(self, name: str) -> Buffer:
        return self._buffer


def check_death(folder: Path, before: World, deed: Deed) -> None:
    """Opens what a death in the middle of `deed` left, and holds it against what was promised."""
    after = before.after(deed)
    hand = Hand(folder)
    hand.open()
    with hand.store as store:
        was_done = outline_of(store) == after.outline()
        if not was_done:
            before.interrupt(deed)
            before.check(store)
        elif deed[0].startswith("append"):
            after.interrupt(deed)
        _do_again(hand, deed, was_done)
        after.check(store)
        for number, name in enumerate(after.rings):
            onward = ["append", name, 1000 + number, 3]
            hand.do(onward)
            after = after.after(onward)
        after.check(store)
    left = {path.name for path in folder.iterdir()}
    assert left == {*after.rings, PARAMETERS, LOCK}, "remains of a buffer"
    hand.open()
    with hand.store as store:
        after.check(store)


def _do_again(hand: Hand, deed: Deed, was_done: bool) -> None:
    """Does a deed that may have been done: nothing is done twice."""
    if deed[0] == "append":
        assert hand.do(deed).duplicate == was_done, "stored twice, or not at all"
    elif deed[0] == "create":
        assert hand.do(deed) != was_done
    elif deed[0] in ("sync", "open", "close"):
        pass
    elif not was_done:  # a deletion, parameters, an episode of nobody: these are not recognised
        hand.do(deed)
