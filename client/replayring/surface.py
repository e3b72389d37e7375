"""What one server and several have in common, for those who do not care which they are given.

`Buffer` and `ShardedBuffer` are a `ReplayBuffer`, `Client` and `ShardedClient` a `ReplayClient`.
What the methods do is said there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from replayring._adding import Acknowledgement
from replayring._replies import Arrays
from replayring._streams import SampleStream
from replayring.parameters import Parameters
from replayring.writer import Writer
from replayring_proto.messages import BufferInfo
from replayring_proto.pack import Memory
from replayring_proto.query import Offsets
from replayring_proto.server_status import ServerStatus
from replayring_proto.spec import BufferSpec

__all__ = ["ReplayBuffer", "ReplayClient"]

_Episode = Mapping[str, Any]
_Indices = Sequence[int] | npt.NDArray[np.integer[Any]]


class ReplayBuffer(Protocol):
    """A buffer, wherever its frames lie.

    Attributes:
        name: the buffer's name.
        spec: its columns, capacity and fps.
    """

    name: str
    spec: BufferSpec

    @property
    def client(self) -> ReplayClient:
        """The client that it uses."""

    def info(self, *, timeout: float | None = None) -> BufferInfo:
        """Returns counts, spec and where the ring stands."""

    def delete(self, *, timeout: float | None = None) -> None:
        """Deletes the buffer and its files."""

    def add_episode(self, data: _Episode, *, timeout: float | None = None) -> Acknowledgement:
        """Adds one episode."""

    def add_episodes(
        self, episodes: Iterable[_Episode], *, timeout: float | None = None
    ) -> list[Acknowledgement]:
        """Adds episodes in order."""

    def add_data(self, data: _Episode, *, timeout: float | None = None) -> list[Acknowledgement]:
        """Adds whole episodes that follow each other in flat columns."""

    def writer(
        self,
        *,
        writer_id: str | None = None,
        max_in_flight_bytes: int = ...,
        spill_dir: str | os.PathLike[str] | None = None,
        max_spill_bytes: int = ...,
        timeout: float | None = None,
    ) -> Writer:
        """Returns a writer, which adds episodes in the background."""

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
        """Returns frames drawn uniformly."""

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
        memory: Memory = ...,
    ) -> SampleStream:
        """Returns an endless iterator of batches, fetched ahead."""

    def get(
        self,
        positions: _Indices | None = None,
        *,
        indices: _Indices | None = None,
        delta_timestamps: Offsets | None = None,
        delta_indices: Mapping[str, Sequence[int]] | None = None,
        keys: Iterable[str] | None = None,
        tolerance_s: float | None = None,
        timeout: float | None = None,
    ) -> Arrays:
        """Returns the frames at some positions, or with some values of `index`."""

    def read_columns(self, keys: Iterable[str], *, timeout: float | None = None) -> Arrays:
        """Returns whole columns."""


class ReplayClient(Protocol):
    """A client, of however many servers."""

    def __enter__(self) -> ReplayClient:
        """Returns itself."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes it."""

    @property
    def address(self) -> str:
        """Where the server is, or the servers are."""

    @property
    def timeout(self) -> float:
        """Seconds that a call may take where it is given none of its own."""

    def close(self) -> None:
        """Ends all calls, streams, watches and writers."""

    def create_buffer(
        self,
        name: str,
        data_spec: Mapping[str, Any],
        capacity: int,
        *,
        fps: float | None = None,
        durability: str = "interval",
        timeout: float | None = None,
    ) -> ReplayBuffer:
        """Creates a buffer, or returns the one that exists already with an equal spec."""

    def buffer(self, name: str, *, timeout: float | None = None) -> ReplayBuffer:
        """Returns an existing buffer."""

    def buffers(self, *, timeout: float | None = None) -> list[BufferInfo]:
        """Returns what is known of every buffer."""

    def delete_buffer(self, name: str, *, timeout: float | None = None) -> None:
        """Deletes a buffer and its files."""

    def status(self, *, timeout: float | None = None) -> ServerStatus:
        """Returns how the server is doing, or the servers are."""

    def publish(
        self, name: str, tensors: Mapping[str, Any], *, timeout: float | None = None
    ) -> int:
        """Publishes tensors under a name; returns their version."""

    def latest(self, name: str, *, after: int = 0, timeout: float | None = None) -> Parameters:
        """Returns the newest version."""

    def watch(
        self, name: str, *, after: int = 0, timeout: float | None = None
    ) -> Iterator[Parameters]:
        """Yields the newest version, then again whenever there is a newer one, for ever."""
