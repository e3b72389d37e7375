"""One shard's share of a buffer: an ordinary buffer, looked up or created when it can be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from replayring._same_host import Place
from replayring.buffer import Buffer
from replayring.client import Client
from replayring.sharded._shard import Shard
from replayring_proto.errors import InvalidSpecError, NotFoundError, ReplayRingError
from replayring_proto.spec import BufferSpec


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
        if buffer.spec != spec:
            raise InvalidSpecError(
                f"buffer {self.name!r} at {client.address} is not as on the other shards; delete "
                "it where it is not as it should be: it has "
                f"{buffer.spec.differences(spec, 'elsewhere')}"
            )
        return buffer


class Part:
    """A buffer at one shard. Thread-safe; holds nothing that needs closing.

    Attributes:
        shard: the shard.
        buffer: the buffer there, which waits for the shard. Usable before `open`, by the wire.
        hasty: the same, by the shard's hasty client.
        is_open: whether the buffer was there once.
        lacking: whether the shard said, when last asked, that it has no such buffer.
    """

    def __init__(self, shard: Shard, creation: Creation, spec: BufferSpec) -> None:
        self.shard = shard
        self.buffer = Buffer(shard.client, creation.name, spec)
        self.hasty = Buffer(shard.hasty, creation.name, spec)
        self._creation = creation
        self._place: Place | None = None
        self.is_open = False
        self.lacking = False

    @property
    def serves(self) -> bool:
        """Whether it can be reached and has the buffer, as far as is known."""
        return self.is_open and not self.lacking and not self.shard.lost

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
        self.buffer = Buffer(self.shard.client, name, spec, place)
        self.hasty = Buffer(self.shard.hasty, name, spec, place)
        self.is_open = True

    def note(self, failure: ReplayRingError | None) -> None:
        """Knows whether the shard has the buffer from what it answered; None for no failure."""
        if failure is None or isinstance(failure, NotFoundError):
            self.lacking = failure is not None

    def open(self, client: Client, timeout: float | None) -> None:
        """Makes sure that the buffer was there once; asks the shard only until it was.

        Raises:
            ReplayRingError: it was not, or cannot be had.
        """
        if not self.is_open:
            self.take(self._creation.open(client, timeout)._place)
