"""A client of raw bytes, for tests: nothing of `replayring`, and not even the shared pack codec.

It says on the wire exactly what it is told to, right or wrong, and shows exactly what came back.
Packs are encoded here a second time, from what pack.proto says, so that codec and wire contract
hold each other.
"""

from __future__ import annotations

import queue
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import grpc
import numpy as np
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from replayring_proto.v1 import buffer_pb2, pack_pb2, replay_pb2

Arrays = Mapping[str, np.ndarray]
M = TypeVar("M", bound=Message)

SERVICE = "replayring.v1.ReplayService"
METHODS = {
    method.name: (method.client_streaming, method.server_streaming)
    for method in replay_pb2.DESCRIPTOR.services_by_name["ReplayService"].methods
}
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

TIMEOUT = 30.0
CHUNK = 1 << 20


@dataclass
class Refused(Exception):
    """A call that ended with an error.

    Attributes:
        code: its status code's name.
        message: its status message.
        kind: the class that its ErrorDetail names, or None if there was none.
        detail: the ErrorDetail's own message.
    """

    code: str
    message: str
    kind: str | None = None
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.code} ({self.kind}): {self.message}"


# Packs


def header_of(arrays: Arrays) -> pack_pb2.PackHeader:
    """Returns the header that describes `arrays`."""
    return pack_pb2.PackHeader(
        tensors=[
            pack_pb2.Tensor(name=name, dtype=array.dtype.name, shape=array.shape)
            for name, array in arrays.items()
        ]
    )


def body_of(arrays: Arrays) -> bytes:
    """Returns the bytes of `arrays`, each at a multiple of 64."""
    body = bytearray()
    for array in arrays.values():
        body += bytes(-len(body) % 64)
        body += np.ascontiguousarray(array).tobytes()
    return bytes(body)


def arrays_of(header: pack_pb2.PackHeader, body: bytes) -> dict[str, np.ndarray]:
    """Returns the arrays of a pack; every byte of it must be accounted for."""
    arrays, end = {}, 0
    for tensor in header.tensors:
        start = -(-end // 64) * 64
        assert not any(body[end:start]), "the gap between tensors is not zero"
        count = int(np.prod(tensor.shape, dtype=object))
        array = np.frombuffer(body, tensor.dtype, count, start).reshape(tensor.shape)
        arrays[tensor.name] = array.copy()
        end = start + array.nbytes
    assert end == len(body), f"a pack of {end} bytes came with {len(body)}"
    return arrays


def body_bytes(header: pack_pb2.PackHeader) -> int:
    """Returns the length of the body that a header announces."""
    end = 0
    for tensor in header.tensors:
        count = int(np.prod(tensor.shape, dtype=object))
        end = -(-end // 64) * 64 + count * np.dtype(tensor.dtype).itemsize
    return end


def pack_messages(kind: type[Message], arrays: Arrays, chunk: int = CHUNK, **fields: Any) -> list:
    """Returns the messages of `kind` that carry `arrays`; the first also has `fields`."""
    body = body_of(arrays)
    first = kind(pack=header_of(arrays), data=body[:chunk], **fields)  # type: ignore[call-arg]
    rest = range(chunk, len(body), chunk)
    return [first, *(kind(data=body[at : at + chunk]) for at in rest)]  # type: ignore[call-arg]


def packs_in(kind: type[M], messages: Iterable[bytes]) -> Iterator[tuple[M, dict[str, np.ndarray]]]:
    """Yields each pack in a stream of messages, with the message that began it."""
    first: M | None = None
    body = b""
    for encoded in messages:
        message: Any = kind.FromString(encoded)
        if message.HasField("pack"):
            if first is not None:
                yield first, arrays_of(first.pack, body)  # type: ignore[attr-defined]
            first, body = message, b""
        body += message.data
    if first is not None:
        yield first, arrays_of(first.pack, body)  # type: ignore[attr-defined]


# Requests


def episode_messages(
    sequence: int, arrays: Arrays, chunk: int = CHUNK
) -> list[replay_pb2.AddEpisodesRequest]:
    """Returns the messages of one episode."""
    return pack_messages(replay_pb2.AddEpisodesRequest, arrays, chunk, sequence=sequence)


def shared_message(
    first: int, *episodes: Arrays, start: replay_pb2.AddEpisodesStart | None = None
) -> replay_pb2.AddEpisodesRequest:
    """Returns one message with whole episodes, numbered from `first`."""
    wholes = [
        replay_pb2.WholeEpisode(pack=header_of(arrays), data=body_of(arrays), sequence=number)
        for number, arrays in enumerate(episodes, first)
    ]
    return replay_pb2.AddEpisodesRequest(start=start, episodes=wholes)


def acknowledgements(reply: bytes) -> list[replay_pb2.Acknowledgement]:
    """Returns what a reply of AddEpisodes acknowledges."""
    return list(replay_pb2.AddEpisodesResponse.FromString(reply).acknowledgements)


def start_message(buffer: str, writer_id: str = "writer") -> replay_pb2.AddEpisodesRequest:
    """Returns the message that begins an AddEpisodes call."""
    start = replay_pb2.AddEpisodesStart(buffer=buffer, writer_id=writer_id)
    return replay_pb2.AddEpisodesRequest(start=start)


def spec_message(
    columns: Mapping[str, tuple[str, tuple[int, ...]]],
    capacity: int = 100,
    fps: float | None = 10.0,
) -> buffer_pb2.BufferSpec:
    """Returns a buffer's spec; columns are given as {name: (dtype, shape)}."""
    return buffer_pb2.BufferSpec(
        columns=[
            buffer_pb2.ColumnSpec(name=name, dtype=dtype, shape=shape)
            for name, (dtype, shape) in columns.items()
        ],
        capacity=capacity,
        fps=fps,
    )


def view_message(
    keys: Sequence[str] = (),
    seconds: Mapping[str, Sequence[float]] | None = None,
    frames: Mapping[str, Sequence[int]] | None = None,
    tolerance_s: float | None = None,
) -> buffer_pb2.View:
    """Returns a view."""
    windows = [
        buffer_pb2.Window(key=key, seconds=buffer_pb2.TimeOffsets(values=values))
        for key, values in (seconds or {}).items()
    ]
    windows += [
        buffer_pb2.Window(key=key, frames=buffer_pb2.FrameOffsets(values=values))
        for key, values in (frames or {}).items()
    ]
    return buffer_pb2.View(keys=keys, windows=windows, tolerance_s=tolerance_s)


# Calls


def _bytes(message: Message | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()


def _refuse(error: grpc.RpcError) -> NoReturn:
    call: Any = error
    refused = Refused(call.code().name, call.details() or "")
    for key, value in call.trailing_metadata() or ():
        if key == "replayring-error-bin":
            detail = replay_pb2.ErrorDetail.FromString(value)
            refused.kind, refused.detail = detail.kind, detail.message
    raise refused from None


class Wire:
    """One channel to one server. A context manager; closing it cuts the calls still open."""

    def __init__(
        self,
        address: str,
        options: Sequence[tuple[str, Any]] = (),
        *,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Connects: with TLS where there are `credentials`, and `metadata` in every call."""
        own: list[tuple[str, Any]] = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", 64 << 20),
            ("grpc.max_send_message_length", 64 << 20),
        ]
        if credentials is None:
            self.channel = grpc.insecure_channel(address, [*own, *options])
        else:
            self.channel = grpc.secure_channel(address, credentials, [*own, *options])
        self._metadata = metadata
        self._streams: list[Stream] = []

    def close(self) -> None:
        """Closes the channel and whatever is open on it."""
        for stream in self._streams:
            stream.cancel()
        self.channel.close()

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def stream(self, method: str, timeout: float | None = TIMEOUT, **options: Any) -> Stream:
        """Begins a call of any kind, to be driven message by message."""
        path = method if "/" in method else f"/{SERVICE}/{method}"
        options = {"metadata": self._metadata, **options}
        stream = Stream(self.channel, path, timeout, options)
        self._streams.append(stream)
        return stream

    def call(
        self,
        method: str,
        *messages: Message | bytes,
        timeout: float | None = TIMEOUT,
        **options: Any,
    ) -> list[bytes]:
        """Sends all messages, ends the sending, and returns all replies.

        Raises:
            Refused: the call ended with an error.
        """
        if len(messages) == 1:  # the same on the wire, and takes no thread here
            ask = self.channel.unary_stream(method if "/" in method else f"/{SERVICE}/{method}")
            options = {"metadata": self._metadata, **options}
            try:
                return list(ask(_bytes(messages[0]), timeout=timeout, **options))
            except grpc.RpcError as error:
                _refuse(error)
        stream = self.stream(method, timeout, **options)
        try:
            stream.send(*messages)
            stream.done_sending()
            return list(stream)
        finally:
            stream.cancel()
            self._streams.remove(stream)

    def refusal(
        self, method: str, *messages: Message | bytes, timeout: float = TIMEOUT
    ) -> Refused | None:
        """Makes a call as `call` does; returns how it was refused, or None if it was not."""
        try:
            self.call(method, *messages, timeout=timeout)
        except Refused as error:
            return error
        return None

    def ask(self, method: str, message: Message | bytes, timeout: float = TIMEOUT) -> Any:
        """Makes a call of one request and one reply, and returns the reply, parsed."""
        (reply,) = self.call(method, message, timeout=timeout)
        return getattr(replay_pb2, f"{method}Response").FromString(reply)

    def health(self, service: str = "") -> int:
        """Returns the status that the health service reports."""
        request = health_pb2.HealthCheckRequest(service=service)
        (reply,) = self.call("/grpc.health.v1.Health/Check", request)
        return health_pb2.HealthCheckResponse.FromString(reply).status

    # What most tests do, in the shortest form

    def create(self, name: str, spec: buffer_pb2.BufferSpec) -> replay_pb2.CreateBufferResponse:
        """Creates a buffer."""
        return self.ask("CreateBuffer", replay_pb2.CreateBufferRequest(name=name, spec=spec))

    def info(self, name: str) -> buffer_pb2.BufferInfo:
        """Returns a buffer's info."""
        return self.ask("GetBuffer", replay_pb2.GetBufferRequest(name=name)).buffer

    def delete(self, name: str) -> None:
        """Deletes a buffer."""
        self.ask("DeleteBuffer", replay_pb2.DeleteBufferRequest(name=name))

    def add(
        self, buffer: str, *episodes: Arrays, writer_id: str = "writer", sequence: int = 1
    ) -> list[replay_pb2.Acknowledgement]:
        """Adds episodes, numbered from `sequence`, in one call; returns the acknowledgements."""
        messages = [start_message(buffer, writer_id)]
        for number, arrays in enumerate(episodes, sequence):
            messages += episode_messages(number, arrays)
        replies = self.call("AddEpisodes", *messages)
        return [one for reply in replies for one in acknowledgements(reply)]

    def get(self, buffer: str, positions: Sequence[int] = (), **fields: Any) -> dict[str, Any]:
        """Fetches frames."""
        request = replay_pb2.GetItemRequest(buffer=buffer, positions=positions, **fields)
        ((_, arrays),) = packs_in(replay_pb2.GetItemResponse, self.call("GetItem", request))
        return arrays

    def sample(
        self,
        buffer: str,
        batch_size: int,
        batches: int = 1,
        timeout: float = TIMEOUT,
        **fields: Any,
    ) -> list[dict[str, np.ndarray]]:
        """Samples batches in one call."""
        spec = replay_pb2.SampleSpec(buffer=buffer, batch_size=batch_size, **fields)
        request = replay_pb2.SampleBatchRequest(spec=spec, batches=batches)
        replies = self.call("SampleBatch", request, timeout=timeout)
        return [arrays for _, arrays in packs_in(replay_pb2.SampleBatchResponse, replies)]

    def columns(self, buffer: str, *keys: str) -> dict[str, np.ndarray]:
        """Reads whole columns."""
        request = replay_pb2.ReadColumnRequest(buffer=buffer, keys=keys)
        ((_, arrays),) = packs_in(replay_pb2.ReadColumnResponse, self.call("ReadColumn", request))
        return arrays

    def publish(self, name: str, arrays: Arrays, **fields: Any) -> int:
        """Publishes parameters and returns their version."""
        messages = pack_messages(replay_pb2.PublishParametersRequest, arrays, name=name, **fields)
        (reply,) = self.call("PublishParameters", *messages)
        return replay_pb2.PublishParametersResponse.FromString(reply).version

    def latest(self, name: str, after_version: int = 0) -> tuple[int, dict[str, np.ndarray]]:
        """Returns the newest version of parameters."""
        request = replay_pb2.WatchParametersRequest(name=name, after_version=after_version)
        replies = self.call("WatchParameters", request)
        ((first, arrays),) = packs_in(replay_pb2.WatchParametersResponse, replies)
        return first.version, arrays


class Stream:
    """One call, driven by hand. Iterating gives what is still to come."""

    def __init__(
        self, channel: grpc.Channel, path: str, timeout: float | None, options: Mapping[str, Any]
    ) -> None:
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        requests = iter(self._outgoing.get, None)
        self._call = channel.stream_stream(path)(requests, timeout=timeout, **options)

    def send(self, *messages: Message | bytes) -> None:
        """Queues messages to be sent."""
        for message in messages:
            self._outgoing.put(_bytes(message))

    def done_sending(self) -> None:
        """Ends the sending."""
        self._outgoing.put(None)

    def receive(self) -> bytes:
        """Returns the next reply.

        Raises:
            Refused: the call ended with an error.
            StopIteration: it ended without one.
        """
        try:
            return next(self._call)
        except grpc.RpcError as error:
            _refuse(error)

    def receive_pack(self, kind: type[M]) -> tuple[M, dict[str, np.ndarray]]:
        """Returns the next pack and the message that began it; reads no further than its end."""
        messages = [self.receive()]
        first: Any = kind.FromString(messages[0])
        body = first.data
        while len(body) < body_bytes(first.pack):
            message: Any = kind.FromString(self.receive())
            assert not message.HasField("pack"), "a pack began before the last was complete"
            body += message.data
        return first, arrays_of(first.pack, body)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return self.receive()

    def cancel(self) -> None:
        """Ends the call at once, as a peer that loses interest does."""
        self._call.cancel()
        self._outgoing.put(None)
