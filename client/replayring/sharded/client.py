"""A client of several servers: the same calls as of one, and what they mean for all."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from replayring._arguments import seconds, whole
from replayring._patience import Patience
from replayring.client import MAX_VERSION, Client
from replayring.parameters import Parameters
from replayring.sharded import _parameters, infos, statuses
from replayring.sharded._asking import answers_of_servers
from replayring.sharded._part import Creation
from replayring.sharded._shard import (
    AWAY,
    Shard,
    ask_all,
    ask_hastily,
    ask_present,
    raise_first,
)
from replayring.sharded.buffer import ShardedBuffer
from replayring.sharded.statuses import ShardedServerStatus
from replayring_proto.errors import NotFoundError, ReplayRingError
from replayring_proto.messages import BufferInfo
from replayring_proto.spec import BufferSpec, check_name

__all__ = ["ShardedClient"]

_LOGGER = logging.getLogger(__name__)

_LOOK_SECONDS = 0.1


class ShardedClient:
    """A client of several servers, made by `connect`. See `replayring.sharded` for what holds.

    Thread-safe, picklable, usable on both sides of a fork, and closed, as `Client` is. Made with
    the addresses that are known then; a copy has the same.

    Attributes:
        shards: the servers' names, which are their addresses, in the order of their numbers.
    """

    def __init__(self, clients: Sequence[Client]) -> None:
        """Takes over a client of each server, in the order of their addresses."""
        self._shards = [Shard(number, client) for number, client in enumerate(clients)]
        self._published: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<ShardedClient of {self.address}>"

    def __reduce__(self) -> tuple[type[ShardedClient], tuple[list[Client]]]:
        return ShardedClient, ([shard.client for shard in self._shards],)

    def __enter__(self) -> ShardedClient:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def shards(self) -> list[str]:
        """The servers' names."""
        return [shard.name for shard in self._shards]

    @property
    def address(self) -> str:
        """The servers' addresses, with commas between."""
        return ",".join(self.shards)

    @property
    def timeout(self) -> float:
        """Seconds that a call may take where it is given none of its own."""
        return self._shards[0].client.timeout

    def close(self) -> None:
        """Ends all calls, streams, watches and writers. See `Client.close`."""
        for shard in self._shards:
            shard.client.close()

    # Buffers

    def create_buffer(
        self,
        name: str,
        data_spec: Mapping[str, Any],
        capacity: int,
        *,
        fps: float | None = None,
        durability: str = "interval",
        timeout: float | None = None,
    ) -> ShardedBuffer:
        """Creates a buffer on all shards, or returns the one that exists there already.

        Shards that are away get it when they are back and this client, or a copy of it, uses them.

        Args:
            name: as for `Client.create_buffer`, like all that is not named here.
            data_spec: as there.
            capacity: live frames kept at most by all shards together. Each has room for 1/n of
                them, rounded up, and its disk space reserved.
            fps: as there.
            durability: as there.
            timeout: as there.

        Raises:
            InvalidRequestError, AlreadyExistsError, LimitExceededError: as there; the message names
                the shard. The others may have created it. Or two names are of one server.
            ServerUnavailableError: no shard could be reached.
        """
        check_name(name, "buffer name")
        spec = BufferSpec.from_data_spec(data_spec, capacity, fps, durability)
        share = infos.share_of(spec, len(self._shards))
        columns = {c.name: {"shape": c.shape, "dtype": c.dtype.name} for c in share.columns}
        return self._open(
            Creation(name, share, columns), self._patience(f"creating buffer {name!r}", timeout)
        )

    def buffer(self, name: str, *, timeout: float | None = None) -> ShardedBuffer:
        """Returns an existing buffer.

        Raises:
            NotFoundError: a shard has none of that name.
            InvalidSpecError: the shards do not agree on its spec.
        """
        check_name(name, "buffer name")
        return self._open(Creation(name), self._patience(f"looking for buffer {name!r}", timeout))

    def buffers(self, *, timeout: float | None = None) -> list[BufferInfo]:
        """Returns what is known of every buffer, ordered by name: sums over the shards.

        Raises:
            InvalidSpecError: the shards do not agree on the spec of one.
            AccessDeniedError, TLSError, StorageError: no shard lets this client in.
            ServerUnavailableError, DeadlineError: no shard that does could be reached.
        """
        patience = self._patience("listing buffers", timeout)
        listed, refused = answers_of_servers(
            self._shards,
            lambda shard, left: shard.hasty.buffers(timeout=left),
            patience,
        )
        by_name: dict[str, dict[str, BufferInfo]] = {}
        for shard, there in listed.items():
            for info in there:
                by_name.setdefault(info.name, {})[shard.name] = info
        found = []
        for name, parts in sorted(by_name.items()):
            unlisted = [shard for shard in listed if shard.name not in parts]
            without = refused | self._unlisted(name, unlisted, patience)
            found.append(self._sum(name, parts, without))
        return found

    def delete_buffer(self, name: str, *, timeout: float | None = None) -> None:
        """Deletes a buffer and its files on every shard.

        Raises:
            NotFoundError: no shard has one of that name.
            ServerUnavailableError: a shard could not be reached, and may still have it.
        """
        check_name(name, "buffer name")
        answers = ask_all(
            self._shards, lambda shard: shard.client.delete_buffer(name, timeout=timeout)
        )
        missing = [answer for answer in answers if isinstance(answer, NotFoundError)]
        raise_first(answer for answer in answers if answer not in missing)
        if len(missing) == len(answers):
            raise missing[0]

    # The servers

    def status(self, *, timeout: float | None = None) -> ShardedServerStatus:
        """Returns how the shards are doing: what each says, and sums over those within reach.

        Raises:
            AccessDeniedError, TLSError, StorageError: no shard lets this client in.
            ServerUnavailableError, DeadlineError: no shard that does could be reached.
        """
        told, refused = answers_of_servers(
            self._shards,
            lambda shard, left: shard.hasty.status(timeout=left),
            self._patience("asking for the shards' status", timeout),
        )
        return statuses.total(
            self.shards,
            {shard.name: one for shard, one in told.items()},
            {shard.name: str(why) for shard, why in refused.items()},
        )

    # Parameters

    def publish(
        self, name: str, tensors: Mapping[str, Any], *, timeout: float | None = None
    ) -> int:
        """Publishes tensors to all shards that can be reached; returns their version.

        Raises:
            ReplayRingError: as `Client.publish`.
        """
        check_name(name, "parameters' name")
        patience = self._patience(f"publishing {name!r}", timeout)
        known = self._published.get(name, 0)
        version = _parameters.publish(self._shards, name, tensors, known, patience)
        self._published[name] = max(version, self._published.get(name, 0))
        return version

    def latest(self, name: str, *, after: int = 0, timeout: float | None = None) -> Parameters:
        """Returns the newest version that a shard has which can be reached.

        Raises:
            NotFoundError: there is none above `after`.
        """
        check_name(name, "parameters' name")
        known = whole(after, "after", 0, MAX_VERSION)
        return _parameters.latest(
            self._shards, name, known, self._patience(f"fetching {name!r}", timeout)
        )

    def watch(
        self, name: str, *, after: int = 0, timeout: float | None = None
    ) -> Iterator[Parameters]:
        """Yields the newest version, then again whenever there is a newer one. See `Client.watch`.

        A shard that is away is left for another one; what one missed meanwhile is had from the
        next, some seconds later.
        """
        check_name(name, "parameters' name")
        self._shards[0].client._channel.check_open()
        known = whole(after, "after", 0, MAX_VERSION)
        each = math.inf if timeout is None else seconds(timeout)
        return _parameters.watch(self._shards, name, known, each)

    def _open(self, creation: Creation, patience: Patience) -> ShardedBuffer:
        opened = ask_present(
            self._shards, lambda shard, left: creation.open(shard.hasty, left), patience
        )
        specs = {shard.name: buffer.spec for shard, buffer in opened.items()}
        creation = Creation(creation.name, infos.agreed(creation.name, specs), creation.data_spec)
        if away := [shard.name for shard in self._shards if shard not in opened]:
            _LOGGER.warning(
                "buffer %r was opened without %s, which cannot be reached; it is there when it is "
                "back",
                creation.name,
                ", ".join(away),
            )
        places = {shard.number: buffer._place for shard, buffer in opened.items()}
        known = {self.shards[number]: place.buffer_id for number, place in places.items() if place}
        infos.check_distinct(creation.name, known)
        return ShardedBuffer(self, creation, places)

    def _unlisted(
        self, name: str, shards: Sequence[Shard], patience: Patience
    ) -> dict[Shard, ReplayRingError]:
        """Returns why some shards do not list a buffer: they lack it, or its files are damaged."""
        seconds = max(patience.remaining(), _LOOK_SECONDS)
        answers = ask_hastily(shards, lambda shard: shard.hasty.buffer(name, timeout=seconds))
        return {
            shard: answer if isinstance(answer, ReplayRingError) else NotFoundError("not listed")
            for shard, answer in answers.items()
            if not isinstance(answer, AWAY)
        }

    def _sum(
        self, name: str, parts: Mapping[str, BufferInfo], without: Mapping[Shard, ReplayRingError]
    ) -> BufferInfo:
        share = infos.agreed(name, {shard: info.spec for shard, info in parts.items()})
        spec = infos.whole_of(share, len(self._shards))
        why = {shard.name: error for shard, error in without.items()}
        return infos.total(self.shards, spec, parts, why)

    def _patience(self, what: str, timeout: float | None) -> Patience:
        return self._shards[0].client._caller.patience(what, timeout)
