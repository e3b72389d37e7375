"""One shard's share of a buffer: an ordinary buffer, looked up or created when it can be."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from replayring._patience import LOCKED_OUT, passing
from replayring._same_host import Place
from replayring._signals import WORKERS
from replayring.buffer import Buffer
from replayring.client import Client
from replayring.sharded._shard import Shard
from replayring_proto.errors import InvalidSpecError, NotFoundError, ReplayRingError
from replayring_proto.messages import BufferInfo
from replayring_proto.spec import BufferSpec

LOOK_SECONDS = 1.0
"""Between two looks at a shard that does not serve, and how long each may take."""


@dataclass(frozen=True)
class Creation:
    """How to get a buffer: with a `data_spec` create it, or find it as it is. Picklable.

    Attributes:
        name: the buffer's name.
        spec: what is to be there; None for whatever is.
        data_spec: columns as users write them, to create it; None to look it up only.
    """

    name: str
    spec: BufferSpec | None = None
    data_spec: Mapping[str, Any] | None = None

    @property
    def share(self) -> BufferSpec:
        """What each shard holds; for those that know what is to be there."""
        assert self.spec is not None
        return self.spec

    def open(self, client: Client, timeout: float | None) -> Buffer:
        """Returns the buffer at one server.

        Raises:
            ReplayRingError: as `Client.create_buffer` or `Client.buffer`; or it has another spec.
        """
        spec = self.spec
        if spec is None:
            return client.buffer(self.name, timeout=timeout)
        if self.data_spec is not None:
            return client.create_buffer(
                self.name,
                self.data_spec,
                spec.capacity,
                fps=spec.fps,
                durability=spec.durability,
                timeout=timeout,
            )
        buffer = client.buffer(self.name, timeout=timeout)
        self.check(client.address, buffer.spec)
        return buffer

    def check(self, shard: str, spec: BufferSpec) -> None:
        """Checks the spec that the buffer has at a shard.

        Raises:
            InvalidSpecError: it is another one than `share`.
        """
        if spec != self.share:
            raise InvalidSpecError(
                f"buffer {self.name!r} at {shard} is not as on the other shards; delete it where "
                f"it is not as it should be: it has {spec.differences(self.share, 'elsewhere')}"
            )


class Part:
    """A buffer at one shard. Thread-safe; holds nothing that needs closing.

    Attributes:
        shard: the shard.
        buffer: the buffer there, which waits for the shard. Usable before `open`, by the wire.
        hasty: the same, by the shard's hasty client.
        is_open: whether the buffer was there once.
        lacking: whether the shard said, when last asked, that it has no such buffer.
        refusing: whether it said that it gives it to nobody, or not to us.
        doubtful: whether another buffer may be there than the one that was looked at last.
        life: stands for the buffer that is there. It is another object as soon as it is known that
            the buffer is gone, or another one in its place, whose `index` begins anew.
    """

    def __init__(self, shard: Shard, creation: Creation, spec: BufferSpec) -> None:
        self.shard = shard
        self.buffer = Buffer(shard.client, creation.name, spec)
        self.hasty = Buffer(shard.hasty, creation.name, spec)
        self._creation = creation
        self._place: Place | None = None
        self._buffer_id: str | None = None
        self._next_look = 0.0
        self.is_open = False
        self.lacking = False
        self.refusing = False
        self.doubtful = True
        self.life = object()

    @property
    def serves(self) -> bool:
        """Whether it can be reached and has the buffer, as far as is known."""
        return self.is_open and not self.lacking and not self.shard.lost

    @property
    def counts(self) -> bool:
        """Whether `info` counts what it has, if it can be reached, as far as is known."""
        return not self.lacking and not self.refusing

    @property
    def place(self) -> Place | None:
        """Where its files should be, if that is known."""
        return self._place

    @property
    def near(self) -> bool:
        """Whether the shard's files are read, which needs no server."""
        return self.buffer._files() is not None

    def take(self, place: Place | None) -> None:
        """Knows that the buffer exists, from whoever has opened it."""
        name, spec = self.buffer.name, self.buffer.spec
        self._place = place
        self._buffer_id = place.buffer_id if place else None
        self.buffer = Buffer(self.shard.client, name, spec, place)
        self.hasty = Buffer(self.shard.hasty, name, spec, place)
        self.is_open = True

    def look_out(self) -> None:
        """Has it looked at, in the background and now and then, as long as it does not serve.

        Who only adds, or moves, would never hear that it does again.
        """
        if self.shard.lost:
            self.shard.look_out()
        elif not self.serves and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_SECONDS
            WORKERS.begin(self._look_again)

    def _look_again(self) -> None:
        try:
            self.look(LOOK_SECONDS)
        except ReplayRingError as error:
            self.note(error)

    def note(self, failure: ReplayRingError | None) -> None:
        """Knows whether the shard has the buffer from what it answered; None for no failure."""
        if failure is None:
            self.lacking = self.refusing = False
        elif isinstance(failure, NotFoundError):
            self.end_life()
            self.lacking = True
        elif isinstance(failure, LOCKED_OUT):
            self.doubtful = self.refusing = True
        elif passing(failure):
            self.doubtful = True

    def end_life(self) -> None:
        """Knows that the buffer is gone, and that one which is found there later is another."""
        if not self.lacking:
            self.life = object()
        self.doubtful = True

    def open(self, client: Client, timeout: float | None) -> None:
        """Makes sure that the buffer was there once; asks the shard only until it was.

        Raises:
            ReplayRingError: it was not, or cannot be had.
        """
        if not self.is_open:
            self.take(self._creation.open(client, timeout)._place)

    def find(self, timeout: float | None) -> None:
        """Makes sure that what is there is fit to be read; asks if it may be another buffer.

        Raises:
            ReplayRingError: as `look`.
        """
        self.open(self.shard.hasty, timeout)
        if self.doubtful:
            self.look(timeout)

    def look(self, timeout: float | None) -> BufferInfo:
        """Asks the shard what it has, by its hasty client.

        Raises:
            NotFoundError: it has no such buffer any more.
            InvalidSpecError: it has one that is not as on the other shards.
            ReplayRingError: it cannot be asked.
        """
        self.open(self.shard.hasty, timeout)
        info = self.hasty.info(timeout=timeout)
        self.know(info)
        return info

    def know(self, info: BufferInfo) -> None:
        """Knows what the shard has.

        Raises:
            InvalidSpecError: it is not as on the other shards.
        """
        self._creation.check(self.shard.name, info.spec)
        if self._buffer_id not in (None, info.buffer_id):
            self.life = object()
        self._buffer_id = info.buffer_id
        self.lacking = self.refusing = self.doubtful = False
