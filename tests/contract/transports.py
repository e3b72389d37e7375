"""The ways to a buffer that must all behave alike, behind one small interface.

To add one: write a class with the methods of `Transport` (for buffers, those of `replayring.Buffer`
that are used here) and put it into `TRANSPORTS`; the whole suite then runs over it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import replayring
from replayring.sharded._names import ranking
from replayring_proto import errors
from replayring_proto.episode import split_episodes
from replayring_proto.errors import DeadlineError, ReplayRingError
from replayring_proto.messages import (
    BufferInfo,
    info_from_message,
    spec_to_message,
    view_to_message,
)
from replayring_proto.pack import Pack
from replayring_proto.query import SampleQuery, View
from replayring_proto.ring import NothingEligible, Plan, UniformSampler
from replayring_proto.spec import BufferSpec
from replayring_server.engine import Buffer, Store
from tests.certificates import WRITE, Authority, token_file
from tests.support import ServerProcess
from tests.wire import Refused, Wire

Arrays = dict[str, np.ndarray]
Data = Mapping[str, Any]

VIEW = ("keys", "delta_timestamps", "delta_indices", "tolerance_s")


class Ack(Protocol):
    """Where an episode was stored."""

    @property
    def episode_index(self) -> int: ...
    @property
    def index(self) -> int: ...
    @property
    def num_frames(self) -> int: ...


class BufferUnderTest(Protocol):
    """A buffer, with the methods of `replayring.Buffer`; options of `view` are `VIEW`."""

    @property
    def spec(self) -> BufferSpec: ...
    def add_episode(self, data: Data) -> Ack: ...
    def add_episodes(self, episodes: Iterable[Data]) -> Sequence[Ack]: ...
    def add_data(self, data: Data) -> Sequence[Ack]: ...
    def get(self, positions: Any = None, *, indices: Any = None, **view: Any) -> Arrays: ...
    def sample(self, batch_size: int, **options: Any) -> Arrays: ...
    def read_columns(self, keys: Sequence[str]) -> Arrays: ...
    def info(self) -> BufferInfo: ...


class Transport(Protocol):
    """A way to buffers and parameters.

    Attributes:
        shards: servers, each of which has room for what is asked for.
    """

    shards: int

    def create_buffer(
        self, name: str, data_spec: Data, capacity: int, *, fps: float | None = None
    ) -> BufferUnderTest: ...
    def buffer(self, name: str) -> BufferUnderTest: ...
    def names(self) -> list[str]: ...
    def delete_buffer(self, name: str) -> None: ...
    def publish(self, name: str, tensors: Data) -> int: ...
    def latest(self, name: str, *, after: int = 0) -> tuple[int, Arrays]: ...


def split(options: Mapping[str, Any]) -> tuple[View, dict[str, Any]]:
    """Separates the options of a view from the others."""
    view = View.of(**{key: value for key, value in options.items() if key in VIEW})
    return view, {key: value for key, value in options.items() if key not in VIEW}


# The engine, called directly. It does not wait: where a server would, there is nothing to wait for.


class EngineBuffer:
    """A buffer of an open store."""

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer
        self.spec = buffer.spec
        self.info = buffer.info
        self.add_episode = buffer.append

    def add_episodes(self, episodes: Iterable[Data]) -> list[Ack]:
        return [self._buffer.append(episode) for episode in episodes]

    def add_data(self, data: Data) -> list[Ack]:
        return self.add_episodes(list(split_episodes(self.spec, data)))

    def get(self, positions: Any = None, *, indices: Any = None, **view: Any) -> Arrays:
        plan = Plan(self.spec, split(view)[0])
        reader = self._buffer.reader
        if indices is None:
            return reader.at_positions(plan, np.array(positions)).arrays
        return reader.at_indices(plan, np.array(indices)).arrays

    def sample(
        self,
        batch_size: int,
        *,
        drop_n_last_frames: int = 0,
        seed: int | None = None,
        timeout: float | None = None,
        **view: Any,
    ) -> Arrays:
        query = SampleQuery(batch_size, split(view)[0], drop_n_last_frames)
        sampler = UniformSampler(self._buffer.reader, query, np.random.default_rng(seed))
        try:
            return sampler.batch().arrays
        except NothingEligible:
            raise DeadlineError("a server would wait") from None

    def read_columns(self, keys: Sequence[str]) -> Arrays:
        layout, pieces = self._buffer.reader.read_columns(tuple(keys))
        body = np.concatenate([np.empty(0, np.uint8), *pieces])
        return {key: array.copy() for key, array in layout.views(body).items()}


class EngineTransport:
    """An open store."""

    shards = 1

    def __init__(self, store: Store) -> None:
        self._store = store
        self.names = store.names
        self.delete_buffer = store.delete

    def create_buffer(
        self, name: str, data_spec: Data, capacity: int, *, fps: float | None = None
    ) -> EngineBuffer:
        spec = BufferSpec.from_data_spec(data_spec, capacity, fps)
        return EngineBuffer(self._store.create(name, spec)[0])

    def buffer(self, name: str) -> EngineBuffer:
        return EngineBuffer(self._store.get(name))

    def publish(self, name: str, tensors: Data) -> int:
        return self._store.parameters.publish(name, Pack.of(tensors))

    def latest(self, name: str, *, after: int = 0) -> tuple[int, Arrays]:
        newest = self._store.parameters.get(name)
        if newest.version <= after:
            raise errors.NotFoundError("no newer version")
        return newest.version, {key: a.copy() for key, a in newest.pack.arrays.items()}


# The wire, spoken by hand. Nothing is checked before it is sent.


@contextmanager
def as_errors() -> Iterator[None]:
    """Turns refused calls into the errors that they stand for."""
    try:
        yield
    except Refused as refused:
        if refused.code == "DEADLINE_EXCEEDED":
            raise DeadlineError(refused.message) from None
        cls: type[ReplayRingError] = getattr(errors, refused.kind or "", AssertionError)
        raise cls(refused.detail or str(refused)) from None


class WireBuffer:
    """A buffer of a server, by messages."""

    def __init__(self, wire: Wire, name: str) -> None:
        self._wire = wire
        self._name = name
        self._sequence = 0
        self._writer_id = f"writer-{np.random.default_rng().integers(1 << 62)}"
        self.spec = self.info().spec

    def info(self) -> BufferInfo:
        with as_errors():
            return info_from_message(self._wire.info(self._name))

    def add_episode(self, data: Data) -> Ack:
        return self.add_episodes([data])[0]

    def add_episodes(self, episodes: Iterable[Data]) -> Sequence[Ack]:
        arrays = [{key: np.asarray(value) for key, value in data.items()} for data in episodes]
        first = self._sequence + 1
        self._sequence += len(arrays)
        with as_errors():
            return self._wire.add(self._name, *arrays, writer_id=self._writer_id, sequence=first)

    def add_data(self, data: Data) -> Sequence[Ack]:
        return self.add_episodes(list(split_episodes(self.spec, data)))

    def get(self, positions: Any = None, *, indices: Any = None, **view: Any) -> Arrays:
        message = view_to_message(split(view)[0])
        with as_errors():
            return self._wire.get(self._name, positions, indices=indices, view=message)

    def sample(self, batch_size: int, *, timeout: float = 30, **options: Any) -> Arrays:
        view, fields = split(options)
        message = view_to_message(view)
        with as_errors():
            (batch,) = self._wire.sample(
                self._name, batch_size, timeout=timeout, view=message, **fields
            )
        return batch

    def read_columns(self, keys: Sequence[str]) -> Arrays:
        with as_errors():
            return self._wire.columns(self._name, *keys)


class WireTransport:
    """A connection to a server."""

    shards = 1

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def create_buffer(
        self, name: str, data_spec: Data, capacity: int, *, fps: float | None = None
    ) -> WireBuffer:
        spec = BufferSpec.from_data_spec(data_spec, capacity, fps)
        with as_errors():
            self._wire.create(name, spec_to_message(spec))
        return WireBuffer(self._wire, name)

    def buffer(self, name: str) -> WireBuffer:
        return WireBuffer(self._wire, name)

    def names(self) -> list[str]:
        return [buffer.name for buffer in self._wire.ask("ListBuffers", b"").buffers]

    def delete_buffer(self, name: str) -> None:
        with as_errors():
            self._wire.delete(name)

    def publish(self, name: str, tensors: Data) -> int:
        with as_errors():
            return self._wire.publish(name, tensors)

    def latest(self, name: str, *, after: int = 0) -> tuple[int, Arrays]:
        with as_errors():
            return self._wire.latest(name, after)


# The client library, as users have it: its buffers are the interface already.


class ClientTransport:
    """A client of a server."""

    shards = 1

    def __init__(self, client: replayring.ReplayClient) -> None:
        self._client = client
        self.create_buffer = client.create_buffer
        self.buffer = client.buffer
        self.delete_buffer = client.delete_buffer
        self.publish = client.publish
        self.latest = client.latest

    def names(self) -> list[str]:
        return [info.name for info in self._client.buffers()]


@contextmanager
def engine(address: str, folder: Path) -> Iterator[Transport]:
    """The engine, over files of its own."""
    with Store(folder) as store:
        yield EngineTransport(store)


@contextmanager
def wire(address: str, folder: Path) -> Iterator[Transport]:
    """Messages, to the server at an address."""
    with Wire(address) as connection:
        yield WireTransport(connection)


@contextmanager
def client(address: str, folder: Path) -> Iterator[Transport]:
    """`replayring.connect`, to the server at an address."""
    with replayring.connect(address) as connected:
        yield ClientTransport(connected)


@contextmanager
def same_host(address: str, folder: Path) -> Iterator[Transport]:
    """`replayring.connect`, to read from the files of the server at an address."""
    with replayring.connect(address, same_host=True) as connected:
        yield ClientTransport(connected)


@contextmanager
def secure(address: str, folder: Path) -> Iterator[Transport]:
    """The same over mutual TLS and with a token, to a server of its own."""
    authority = Authority(folder.parent / "authority")
    tokens = token_file(folder.parent / "tokens")
    flags = ["--tls-client-ca", str(authority.cert), "--token-file", str(tokens)]
    with (
        ServerProcess(folder, *authority.issue().flags, *flags) as server,
        replayring.connect(
            server.address, tls=authority.tls(authority.issue("DNS:client")), token=WRITE
        ) as connected,
    ):
        yield ClientTransport(connected)
        assert server.stop() == 0
        assert "Traceback" not in server.log_text(), server.log_text()


class ShardedTransport(ClientTransport):
    """A client of two servers, whose buffers keep everything on the first.

    So that what is true of one server is to be true here, with numbers and all: each shard has room
    for as much as is asked for, and episodes go to shard 0. What is spread is `tests.sharded`'s.
    """

    shards = 2

    def __init__(self, client: replayring.ShardedClient) -> None:
        super().__init__(client)
        self._sharded = client
        self.create_buffer = self._create
        self.buffer = self._find

    def _create(
        self, name: str, data_spec: Data, capacity: int, *, fps: float | None = None
    ) -> BufferUnderTest:
        room = capacity if capacity < 1 or capacity > 1 << 40 else 2 * capacity
        return self._at_home(self._sharded.create_buffer(name, data_spec, room, fps=fps))

    def _find(self, name: str) -> BufferUnderTest:
        return self._at_home(self._sharded.buffer(name))

    def _at_home(self, buffer: replayring.ShardedBuffer) -> BufferUnderTest:
        names = self._sharded.shards
        first = next(f"w{i}" for i in count() if ranking(f"w{i}", names)[0] == 0)
        buffer._identity = (os.getpid(), first)
        return buffer


@contextmanager
def sharded(address: str, folder: Path) -> Iterator[Transport]:
    """`replayring.connect`, to the server at an address and another one."""
    with (
        ServerProcess(folder, "--limit", "max_buffers=5000") as server,
        replayring.connect([address, server.address]) as connected,
    ):
        assert isinstance(connected, replayring.ShardedClient)
        yield ShardedTransport(connected)
        assert server.stop() == 0
        assert "Traceback" not in server.log_text(), server.log_text()


TRANSPORTS: dict[str, Callable[[str, Path], AbstractContextManager[Transport]]] = {
    "engine": engine,
    "wire": wire,
    "client": client,
    "same host": same_host,
    "secure": secure,
    "sharded": sharded,
}
"""Each is given a running server's address, and an empty folder for what it keeps itself."""
