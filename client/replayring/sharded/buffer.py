"""A buffer over several servers: the API of `Buffer`, and what it means for all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from replayring._adding import Acknowledgement, new_writer_id
from replayring._arguments import Indices, natural, seconds, whole, whole_numbers
from replayring._batch import checked
from replayring._patience import Patience
from replayring._replies import Arrays
from replayring._same_host import Place
from replayring._sampling import Sampling, sampling_of
from replayring._spill import note_shard
from replayring.buffer import Buffer
from replayring.sharded import infos
from replayring.sharded._asking import Ask, answers_of
from replayring.sharded._fetching import at_positions, check_shards, fetch
from replayring.sharded._form import Form
from replayring.sharded._homes import home_of, new_identity, of_spill, present_home
from replayring.sharded._moving import MovingSender
from replayring.sharded._numbers import acknowledged_at, apart, to_all
from replayring.sharded._one_batch import Eligible, OneBatch
from replayring.sharded._part import Creation, Part
from replayring.sharded._waiting import Waiting
from replayring.sharded.stream import ShardedStream
from replayring.writer import DEFAULT_IN_FLIGHT_BYTES, DEFAULT_SPILL_BYTES, Writer
from replayring_proto.errors import (
    InvalidRequestError,
    ReplayRingError,
)
from replayring_proto.messages import BufferInfo
from replayring_proto.pack import Memory, aligned_empty
from replayring_proto.query import Offsets, View
from replayring_proto.spec import check_name

if TYPE_CHECKING:
    from replayring.sharded.client import ShardedClient

__all__ = ["ShardedBuffer"]

T = TypeVar("T")

DEFAULT_MOVE_AFTER = 10.0


class ShardedBuffer:
    """A handle on one buffer over several servers; made by `ShardedClient`.

    What `Buffer` says holds here too. See `replayring.sharded` for what the numbers mean.

    Attributes:
        client: the client of all shards.
        name: the buffer's name.
        spec: its columns and fps, and the capacity of all shards together.
    """

    def __init__(
        self, client: ShardedClient, creation: Creation, places: Mapping[int, Place | None]
    ) -> None:
        """Presents a buffer.

        Args:
            client: the client.
            creation: how a shard that is not among `places` gets or finds it.
            places: where its files should be, for the shards that have it.
        """
        self.client = client
        self.name = creation.name
        share = creation.share
        self.spec = infos.whole_of(share, len(client._shards))
        self._creation = creation
        self._parts = [Part(shard, creation, share) for shard in client._shards]
        for number, place in places.items():
            self._parts[number].take(place)
        self._identity = (os.getpid(), new_writer_id())
        self._eligible = Eligible()

    def __repr__(self) -> str:
        return f"<ShardedBuffer {self.name!r} at {self.client.address}>"

    def __reduce__(self) -> tuple[type[ShardedBuffer], tuple[Any, ...]]:
        places = {part.shard.number: part.place for part in self._parts if part.is_open}
        return ShardedBuffer, (self.client, self._creation, places)

    def info(self, *, timeout: float | None = None) -> BufferInfo:
        """Returns sums over the shards that can be reached and have it, and what each says.

        Raises:
            NotFoundError: the buffer was deleted: no shard has it.
            AccessDeniedError, TLSError, StorageError: no shard gives it.
            ServerUnavailableError: no shard that has it could be reached in time.
        """
        found, others = self._answers("asking for", timeout, _look)
        by_name = {part.shard.name: info for part, info in found.items()}
        without = {part.shard.name: why for part, why in others.items()}
        return infos.total(self.client.shards, self.spec, by_name, without)

    def delete(self, *, timeout: float | None = None) -> None:
        """Deletes the buffer and its files on every shard. See `ShardedClient.delete_buffer`."""
        self.client.delete_buffer(self.name, timeout=timeout)

    # Adding

    def add_episode(
        self, data: Mapping[str, Any], *, timeout: float | None = None
    ) -> Acknowledgement:
        """Adds one episode to one of the shards. See `Buffer.add_episode`."""
        return self.add_episodes([data], timeout=timeout)[0]

    def add_episodes(
        self, episodes: Iterable[Mapping[str, Any]], *, timeout: float | None = None
    ) -> list[Acknowledgement]:
        """Adds episodes in order, to one of the shards. See `Buffer.add_episodes`.

        All calls of one handle go to one shard, as long as that is there and has the buffer.
        """
        return self._add(lambda buffer: buffer.add_episodes(episodes, timeout=timeout), timeout)

    def add_data(
        self, data: Mapping[str, Any], *, timeout: float | None = None
    ) -> list[Acknowledgement]:
        """Adds whole episodes in flat columns, to one of the shards. See `Buffer.add_data`."""
        return self._add(lambda buffer: buffer.add_data(data, timeout=timeout), timeout)

    def writer(
        self,
        *,
        writer_id: str | None = None,
        max_in_flight_bytes: int = DEFAULT_IN_FLIGHT_BYTES,
        spill_dir: str | os.PathLike[str] | None = None,
        max_spill_bytes: int = DEFAULT_SPILL_BYTES,
        timeout: float | None = None,
        on_outage: str = "wait",
        move_after_s: float = DEFAULT_MOVE_AFTER,
    ) -> Writer:
        """Returns a writer to one shard, which its identity decides. See `Buffer.writer`.

        Args:
            writer_id: as there, like all that is not named here. With None, the identity is one of
                a shard that can be reached.
            max_in_flight_bytes: as there.
            spill_dir: as there. It belongs to its shard as well.
            max_spill_bytes: as there.
            timeout: as there.
            on_outage: what to do while the shard is away. "wait": hold the episodes, as there, and
                store each exactly once. "move": after `move_after_s`, go on at another shard under
                another identity and send there what is not acknowledged; an episode whose
                acknowledgement was lost may then be stored twice. Not with `writer_id` or
                `spill_dir`, which belong to a shard.
            move_after_s: seconds.

        Raises:
            ReplayRingError: as there.
        """
        if on_outage not in ("wait", "move"):
            raise InvalidRequestError(
                f"on_outage is {on_outage!r:.60}; it must be 'wait' or 'move'"
            )
        move_after_s = seconds(move_after_s, "move_after_s")
        if on_outage == "move":
            if writer_id is not None or spill_dir is not None:
                raise InvalidRequestError(
                    "on_outage='move' changes the writer's identity, but writer_id and spill_dir "
                    "belong to one shard; leave them out, or wait"
                )
            in_flight = whole(max_in_flight_bytes, "max_in_flight_bytes", 1)
            limit = None if timeout is None else seconds(timeout)
            sender = MovingSender(self._present_home, in_flight, limit, move_after_s)
            return Writer.over(self._creation.share, sender)
        part, identity = self._home(writer_id, spill_dir)
        part.open(part.shard.client, timeout)
        writer = Writer(
            part.shard.client._caller,
            self.name,
            part.buffer.spec,
            writer_id=identity,
            max_in_flight_bytes=max_in_flight_bytes,
            spill_dir=spill_dir,
            max_spill_bytes=max_spill_bytes,
            timeout=timeout,
            relabel=partial(acknowledged_at, part.shard.number),
            on_missing=part.note,
        )
        if spill_dir is not None:
            note_shard(Path(spill_dir).absolute(), part.shard.name)
        return writer

    # Sampling

    def sample(
        self,
        batch_size: int,
        *,
        delta_timestamps: Offsets | None = None,
        delta_indices: Mapping[str, Sequence[int]] | None = None,
        drop_n_last_frames: int = 0,
        keys: Iterable[str] | None = None,
        tolerance_s: float | None = None,
        min_frames: int = 1,
        seed: int | None = None,
        timeout: float | None = None,
    ) -> Arrays:
        """Returns frames drawn uniformly, with replacement, from all eligible ones of all shards.

        Takes what `Buffer.sample` takes. `min_frames` is over all shards. Each shard sends some
        frames more than are needed, which are thrown away; a stream uses them later.
        """
        view = View.of(keys, delta_timestamps, delta_indices, tolerance_s)
        sampling = self._sampling(batch_size, view, drop_n_last_frames, min_frames, seed)
        waiting = self._waiting(sampling)
        batch = OneBatch(self._parts, sampling, waiting, self._eligible)
        return batch.arrays(waiting.patience(timeout))

    def sample_stream(
        self,
        batch_size: int,
        *,
        in_flight: int = 8,
        delta_timestamps: Offsets | None = None,
        delta_indices: Mapping[str, Sequence[int]] | None = None,
        drop_n_last_frames: int = 0,
        keys: Iterable[str] | None = None,
        tolerance_s: float | None = None,
        min_frames: int = 1,
        seed: int | None = None,
        timeout: float | None = None,
        memory: Memory = aligned_empty,
    ) -> ShardedStream:
        """Returns an endless iterator of batches as `sample` gives them, fetched ahead.

        Takes what `Buffer.sample_stream` takes. `in_flight` batches are wanted ahead, and of small
        ones up to as many of each shard; a batch shows each shard as it was at most about twice
        that many batches ago. A seeded stream repeats itself while the shards stay as they are; it
        does not throw away what grew old.
        """
        view = View.of(keys, delta_timestamps, delta_indices, tolerance_s)
        sampling = self._sampling(batch_size, view, drop_n_last_frames, min_frames, seed)
        in_flight = whole(in_flight, "in_flight", 1, (1 << 31) - 1)
        self._patience("", timeout)  # refuses a timeout that is none
        waiting, memory = self._waiting(sampling), checked(memory)
        return ShardedStream(self._parts, waiting, sampling, in_flight, timeout, memory)

    def _sampling(
        self, batch_size: int, view: View, drop: int, min_frames: int, seed: int | None
    ) -> Sampling:
        share, shards = self._creation.share, len(self._parts)
        return sampling_of(self.name, share, batch_size, view, drop, min_frames, seed, shards)

    def _waiting(self, sampling: Sampling) -> Waiting:
        def held(left: float) -> int:
            return self.info(timeout=left).num_frames

        return Waiting(self._parts, sampling, held)

    # Reading

    def get(
        self,
        positions: Indices | None = None,
        *,
        indices: Indices | None = None,
        delta_timestamps: Offsets | None = None,
        delta_indices: Mapping[str, Sequence[int]] | None = None,
        keys: Iterable[str] | None = None,
        tolerance_s: float | None = None,
        timeout: float | None = None,
    ) -> Arrays:
        """Returns the frames at some positions, or with some values of `index`. See `Buffer.get`.

        Args:
            positions: numbers of live frames of shard 0, then of shard 1, ..., over those that can
                be reached; negative ones count from the end.
            indices: values of the column `index`, as they came from these shards, instead.
            delta_timestamps: as there, like the rest.
            delta_indices: as there.
            keys: as there.
            tolerance_s: as there.
            timeout: as there.
        """
        view = View.of(keys, delta_timestamps, delta_indices, tolerance_s)
        view.check(self.spec)
        patience = self._patience(f"getting from {self.name!r}", timeout)
        options: dict[str, Any] = {
            "delta_timestamps": delta_timestamps,
            "delta_indices": delta_indices,
            "keys": view.keys,
            "tolerance_s": tolerance_s,
        }
        if positions is not None and indices is None:
            which, at = "positions", np.array(whole_numbers(positions, "positions"), np.int64)
            found, _ = self._answers("asking for", patience.remaining(), _look)
            wanted = at_positions(at, {part: info.num_frames for part, info in found.items()})
        elif indices is not None and positions is None:
            which, at = "indices", np.array(natural(indices), np.int64)
            check_shards(at, len(self._parts))
            wanted = apart(at)
        else:
            raise InvalidRequestError("give either positions or indices, and not both")
        form = Form.of_view(self.name, self._creation.share, view)
        return fetch(self._parts, form, which, *wanted, options, patience)

    def read_columns(self, keys: Iterable[str], *, timeout: float | None = None) -> Arrays:
        """Returns whole columns: all live frames of shard 0, then of shard 1, ...

        See `Buffer.read_columns`. Each shard's part is of one moment.
        """
        names = keys if isinstance(keys, str) else list(keys)

        def read(part: Part, left: float) -> Arrays:
            if not part.near:
                part.find(left)
            arrays = part.hasty.read_columns(names, timeout=left)
            form = Form.of_columns(self.name, map(self.spec.column, arrays))
            return to_all(form.check(part.shard, arrays), part.shard.number)

        found, _ = self._answers("reading columns of", timeout, read)
        columns = list(found.values())
        return {key: np.concatenate([one[key] for one in columns]) for key in columns[0]}

    def _add(
        self, add: Callable[[Buffer], list[Acknowledgement]], timeout: float | None
    ) -> list[Acknowledgement]:
        process, identity = self._identity
        if process != os.getpid():
            process, identity = self._identity = (os.getpid(), new_writer_id())
        part = self._present_home(identity)
        part.open(part.shard.client, timeout)
        relabel = partial(acknowledged_at, part.shard.number)
        try:
            return [relabel(one) for one in add(part.buffer)]
        except ReplayRingError as error:
            part.note(error)
            error.acknowledged = [relabel(one) for one in error.acknowledged]
            raise

    def _present_home(self, identity: str) -> Part:
        """Returns the part that an identity belongs to among those that serve, if any."""
        self._look_out()
        return present_home(self._parts, identity)

    def _look_out(self) -> None:
        """Has the shards looked at that do not serve, for those who only add."""
        for part in self._parts:
            part.look_out()

    def _home(
        self, writer_id: str | None, spill_dir: str | os.PathLike[str] | None
    ) -> tuple[Part, str]:
        if writer_id is not None:
            check_name(writer_id, "writer_id")
        self._look_out()
        if spill_dir is not None:
            return of_spill(self._parts, Path(spill_dir).absolute(), writer_id)
        identity = writer_id or new_identity(self._parts)
        return home_of(self._parts, identity), identity

    def _answers(
        self, what: str, timeout: float | None, ask: Ask[T]
    ) -> tuple[dict[Part, T], dict[Part, ReplayRingError]]:
        """Asks all shards; see `answers_of`."""
        return answers_of(self._parts, ask, self._patience(f"{what} {self.name!r}", timeout))

    def _patience(self, what: str, timeout: float | None) -> Patience:
        return self.client._patience(what, timeout)


def _look(part: Part, left: float) -> BufferInfo:
    return part.look(left)
