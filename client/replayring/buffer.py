"""A buffer on a server: adding to it, sampling and reading from it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from replayring._adding import Acknowledgement, Adder
from replayring._arguments import Indices, natural, whole, whole_numbers
from replayring._batch import checked
from replayring._replies import Arrays
from replayring._same_host import FileReads, FileStream, LookAgainError, Place, find
from replayring._sampling import WireStream, sample, sampling_of
from replayring._streams import SampleStream
from replayring.writer import DEFAULT_IN_FLIGHT_BYTES, DEFAULT_SPILL_BYTES, Writer
from replayring_proto.episode import check_episode, split_episodes
from replayring_proto.errors import (
    InvalidEpisodeError,
    InvalidRequestError,
    InvalidSpecError,
)
from replayring_proto.messages import BufferInfo, info_from_message, view_to_message
from replayring_proto.pack import Memory, aligned_empty
from replayring_proto.query import Offsets, View
from replayring_proto.spec import BufferSpec
from replayring_proto.v1 import replay_pb2

if TYPE_CHECKING:
    from replayring.client import Client

__all__ = ["Buffer"]

_LOOK_AGAIN_SECONDS = 1.0


class Buffer:
    """A handle on one buffer of a server; made by `Client.create_buffer` and `Client.buffer`.

    Thread-safe, picklable, and usable on both sides of a fork. It holds nothing that needs closing;
    the client does. Threads that add episodes through one handle take turns.

    Arrays that come back are writable, aligned and the caller's own; those of one call share their
    memory, so keeping one keeps all.

    Attributes:
        client: the client whose channel it uses.
        name: the buffer's name.
        spec: its columns, capacity and fps.
    """

    def __init__(
        self, client: Client, name: str, spec: BufferSpec, place: Place | None = None
    ) -> None:
        self.client = client
        self.name = name
        self.spec = spec
        self._place = place
        self._reads: FileReads | None = None
        self._not_before = -math.inf  # to look for them
        self._caller = client._caller
        self._adders: dict[int, Adder] = {}  # by process

    def __repr__(self) -> str:
        return f"<Buffer {self.name!r} at {self.client.address}>"

    def __reduce__(self) -> tuple[type[Buffer], tuple[Client, str, BufferSpec, Place | None]]:
        return Buffer, (self.client, self.name, self.spec, self._place)

    def info(self, *, timeout: float | None = None) -> BufferInfo:
        """Returns counts, spec and where the ring stands, as of now.

        Raises:
            NotFoundError: the buffer was deleted.
        """
        patience = self._caller.patience(f"asking for {self.name!r}", timeout)
        info = info_from_message(self._caller.buffer_info(self.name, patience).buffer)
        place = self._place
        if place is not None and place.buffer_id != info.buffer_id:
            # Its files may be there still, as where the server serves another directory by now.
            self._keep_to_the_wire()
        return replace(info, same_host=self._files() is not None)

    def delete(self, *, timeout: float | None = None) -> None:
        """Deletes the buffer and its files.

        Raises:
            NotFoundError: there is none any more.
        """
        self.client.delete_buffer(self.name, timeout=timeout)

    # Adding

    def add_episode(
        self, data: Mapping[str, Any], *, timeout: float | None = None
    ) -> Acknowledgement:
        """Adds one episode; returns when it is stored.

        Args:
            data: an array, tensor or nested sequence of shape (T, *column shape) for every declared
                column, of a dtype that casts to the column's without changing kind. `frame_index`
                (T, int64), else 0 to T - 1, and `timestamp` (T, float64 seconds), else
                `frame_index / fps`, may be added. Windows in seconds need timestamps that keep to
                fps: a gap wider than twice their `tolerance_s` ends in `ToleranceError`.
            timeout: seconds for all of it, retries included; None for the client's own.

        Raises:
            InvalidEpisodeError: it does not fit the spec; nothing was sent.
            ServerUnavailableError, DeadlineError: it was not acknowledged in time, and may or may
                not have been stored. A `writer` goes on where this gives up.
        """
        return self.add_episodes([data], timeout=timeout)[0]

    def add_episodes(
        self, episodes: Iterable[Mapping[str, Any]], *, timeout: float | None = None
    ) -> list[Acknowledgement]:
        """Adds episodes in order, pipelined in one call; returns when all are stored.

        Args:
            episodes: as for `add_episode`. All are checked before anything is sent.
            timeout: seconds for all of it, retries included; None for the client's own.

        Raises:
            ReplayRingError: as for `add_episode`. Its attribute `acknowledged` lists the
                acknowledgements of the episodes that were stored all the same.
        """
        if isinstance(episodes, Mapping):
            raise InvalidEpisodeError(
                "add_episodes takes a list of episodes, received one; use add_episode for it"
            )
        return self._add([check_episode(self.spec, episode) for episode in episodes], timeout)

    def add_data(
        self, data: Mapping[str, Any], *, timeout: float | None = None
    ) -> list[Acknowledgement]:
        """Adds whole episodes that follow each other in flat columns.

        Args:
            data: an array or tensor per column, preset ones included; `index` counts from 0 and
                `episode_index` starts at 0, and the buffer continues both. Other keys are ignored.
            timeout: seconds for all of it, retries included; None for the client's own.

        Raises:
            ReplayRingError: as for `add_episodes`.
        """
        return self._add(list(split_episodes(self.spec, data)), timeout)

    def writer(
        self,
        *,
        writer_id: str | None = None,
        max_in_flight_bytes: int = DEFAULT_IN_FLIGHT_BYTES,
        spill_dir: str | os.PathLike[str] | None = None,
        max_spill_bytes: int = DEFAULT_SPILL_BYTES,
        timeout: float | None = None,
    ) -> Writer:
        """Returns a writer, which adds episodes step by step, in the background.

        Args:
            writer_id: identity under which sequences 1, 2, 3, ... are remembered, so that a program
                that is run again with the same identity and the same episodes stores them once;
                one that writes others needs a new identity. None makes one, or takes the spill
                directory's.
            max_in_flight_bytes: memory for episodes that are not acknowledged. They die with the
                process; a small number here lets `spill_dir` keep nearly all of them.
            spill_dir: directory for what finds no room in memory, made if need be. Each writer
                needs one of its own, and keeps it: the next writer that is given it sends what
                was left, once, and goes on under the same identity with new sequences. None for no
                spilling: `end_episode` waits.
            max_spill_bytes: bytes of episodes in `spill_dir`, beyond which `end_episode` waits.
            timeout: seconds that `end_episode`, `flush` and `close` wait, `math.inf` included; None
                for the client's own.

        Raises:
            DirectoryLockedError: another writer uses `spill_dir`.
            InvalidRequestError: an argument is not valid, or `spill_dir` belongs to another buffer
                or identity.
            StorageError: `spill_dir` cannot be used.
        """
        return Writer(
            self._caller,
            self.name,
            self.spec,
            writer_id=writer_id,
            max_in_flight_bytes=max_in_flight_bytes,
            spill_dir=spill_dir,
            max_spill_bytes=max_spill_bytes,
            timeout=timeout,
        )

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
        """Returns frames drawn uniformly, with replacement, from all eligible ones.

        Waits while the buffer holds fewer than `min_frames` frames, or none that is eligible.

        Args:
            batch_size: frames to draw.
            delta_timestamps: windows in seconds: for each key the offsets, as `{"state": [-0.1,
                0]}`. The buffer needs fps for them.
            delta_indices: windows in frames: for each key the offsets, as `{"state": [-1, 0]}`.
            drop_n_last_frames: frames at the end of each episode that are not drawn.
            keys: columns wanted besides the preset and the windowed ones; None for all.
            tolerance_s: how far off a frame of a window in seconds may be; None for the spec's own.
            min_frames: frames to wait for.
            seed: start of the random stream, for tests.
            timeout: seconds to wait, retries included; None for the client's own.

        Returns:
            For each column an array of its dtype and of shape (batch_size, *column shape). A
            windowed one has shape (batch_size, offsets, *column shape) and comes with a bool
            `<key>_is_pad` of shape (batch_size, offsets), true where the episode has no such frame
            and its nearest stands instead. `index`, `episode_index` and `frame_index` are int64,
            `timestamp` is float64 seconds.

        Raises:
            InvalidRequestError: an argument does not fit the spec; nothing was sent.
            ToleranceError: a window in seconds has no frame within tolerance inside the episode.
            DeadlineError: there was too little to sample from in all that time.
            ServerUnavailableError: the server could not be reached in all that time.
        """
        view = View.of(keys, delta_timestamps, delta_indices, tolerance_s)
        sampling = sampling_of(
            self.name, self.spec, batch_size, view, drop_n_last_frames, min_frames, seed
        )
        self._caller.patience("", timeout)  # refuses a timeout that is none
        files = self._files_for(view, sampling.query.batch_size)
        batch = None if files is None else files.sample(sampling)
        return sample(self._caller, sampling, timeout) if batch is None else batch

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
    ) -> SampleStream:
        """Returns an endless iterator of batches as `sample` gives them, fetched ahead.

        Small ones come together, up to 1 MiB and half of what is in flight, and share that memory:
        keeping one keeps these. Copy what is to stay for long.

        Args:
            batch_size: as for `sample`, like all that is not named here.
            in_flight: batches wanted ahead. More hide more delay; fewer are fresher.
            delta_timestamps: as for `sample`.
            delta_indices: as for `sample`.
            drop_n_last_frames: as for `sample`.
            keys: as for `sample`.
            tolerance_s: as for `sample`.
            min_frames: as for `sample`.
            seed: as for `sample`.
            timeout: seconds to wait for each batch; None for the client's own.
            memory: makes the memory that batches are put in: given a number of bytes, it returns as
                many, as an array of uint8 that begins at a multiple of 64. Called by any thread,
                for several batches at once where they are small. It must not wait for anything,
                and must leave that memory alone while any of them is in use. What it raises, `next`
                raises once, as an `InvalidRequestError`.

        Raises:
            InvalidRequestError: an argument does not fit the spec; nothing was sent.
        """
        view = View.of(keys, delta_timestamps, delta_indices, tolerance_s)
        sampling = sampling_of(
            self.name, self.spec, batch_size, view, drop_n_last_frames, min_frames, seed
        )
        in_flight = whole(in_flight, "in_flight", 1, (1 << 31) - 1)
        self._caller.patience("", timeout)  # refuses a timeout that is none
        memory = checked(memory)
        if self._files_for(view, sampling.query.batch_size) is None:
            return WireStream(self._caller, sampling, in_flight, timeout, memory)
        return FileStream(
            self._files,
            sampling,
            lambda sampling, ahead: WireStream(self._caller, sampling, ahead, timeout, memory),
            in_flight,
            self._caller.channel.check_open,
            memory,
        )

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
        """Returns the frames at some positions, or with some values of `index`.

        Args:
            positions: numbers of live frames in order of `index % capacity`; negative ones count
                from the end.
            indices: values of the column `index`, instead.
            delta_timestamps: as for `sample`, like the rest.
            delta_indices: as for `sample`.
            keys: as for `sample`.
            tolerance_s: as for `sample`.
            timeout: seconds, retries included; None for the client's own.

        Returns:
            Arrays as `sample` returns them, in the order asked for.

        Raises:
            FrameNotFoundError: a position is outside [-n, n) of the n live frames, or an `index` is
                not yet or no longer alive.
            ToleranceError: as for `sample`.
            InvalidRequestError: an argument does not fit the spec; nothing was sent.
        """
        view = View.of(keys, delta_timestamps, delta_indices, tolerance_s)
        view.check(self.spec)
        if (positions is None) == (indices is None):
            raise InvalidRequestError("give either positions or indices, and not both")
        at = [] if positions is None else whole_numbers(positions, "positions")
        numbers = [] if indices is None else natural(indices)
        files = self._files_for(view, len(at) or len(numbers))
        if files is not None and (frames := files.get(view, at, numbers)) is not None:
            return frames
        request = replay_pb2.GetItemRequest(
            buffer=self.name, positions=at, indices=numbers, view=view_to_message(view)
        ).SerializeToString()
        patience = self._caller.patience(f"getting from {self.name!r}", timeout)
        return self._caller.ask(patience, "GetItem", lambda _: request)[0]

    def read_columns(self, keys: Iterable[str], *, timeout: float | None = None) -> Arrays:
        """Returns whole columns: all live frames in order of position, the same for all keys.

        Args:
            keys: columns, preset ones included; at least one.
            timeout: seconds, retries included; None for the client's own.

        Returns:
            For each key an array of shape (frames, *column shape).

        Raises:
            InvalidSpecError: there is no such column.
            OvertakenError: writers overwrote what was being read; try again.
            LimitExceededError: they are larger than a reply may be.
        """
        if isinstance(keys, str):
            raise InvalidSpecError(f"keys must be a list of column names, received {keys!r}")
        names = [self.spec.column(key).name for key in keys]
        if not names:
            raise InvalidSpecError("keys must name at least one column, received none")
        files = self._files()
        if files is not None and (columns := files.read_columns(tuple(names))) is not None:
            return columns
        request = replay_pb2.ReadColumnRequest(buffer=self.name, keys=names)
        patience = self._caller.patience(f"reading columns of {self.name!r}", timeout)
        return self._caller.fetch(patience, "ReadColumn", request)[0]

    def _files(self) -> FileReads | None:
        """Returns the reads from the buffer's files; None where it has to be the wire."""
        self._caller.channel.check_open()
        reads, place = self._reads, self._place  # which other threads may let go of meanwhile
        if reads is None and place is not None:
            if time.monotonic() < self._not_before:
                return None
            try:
                reads = self._reads = find(place, self.spec, self._caller.max_reply_bytes)
            except LookAgainError:
                self._not_before = time.monotonic() + _LOOK_AGAIN_SECONDS
                return None
        if reads is None or not reads.exist():
            self._keep_to_the_wire()
            return None
        return reads

    def _keep_to_the_wire(self) -> None:
        """Lets go of the files, for good: a buffer made anew under the name has others."""
        self._place = self._reads = None

    def _files_for(self, view: View, frames: int) -> FileReads | None:
        """Returns the same, for so many frames at once."""
        files = self._files()
        return files if files is not None and files.answer(view, frames) else None

    def _add(self, episodes: Sequence[Arrays], timeout: float | None) -> list[Acknowledgement]:
        # A fork copies the parent's identity and sequence, which are its own.
        process = os.getpid()
        adder = self._adders.get(process)
        if adder is None:  # of threads that come at once, one sets it for all
            adder = self._adders.setdefault(process, Adder(self._caller, self.name))
        return adder.add(episodes, timeout)
