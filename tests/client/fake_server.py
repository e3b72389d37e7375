"""A server whose every answer is scripted, for faults that a real one shows rarely or never.

It speaks raw bytes, as the real one does, and runs in this process on grpc's threaded server.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, NoReturn

import grpc
import numpy as np

from replayring_proto.errors import ReplayRingError
from replayring_proto.framing import encode_pack
from replayring_proto.messages import BufferInfo, info_to_message
from replayring_proto.pack import Pack
from replayring_proto.spec import BufferSpec
from replayring_proto.status import to_status
from replayring_proto.v1 import replay_pb2

Script = Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[bytes]]

INFO = BufferInfo(
    name="fake",
    buffer_id="0",
    spec=BufferSpec.from_data_spec(
        {
            "state": {"shape": (2,), "dtype": "float32"},
            "reward": {"shape": (), "dtype": "float32"},
        },
        1000,
        10.0,
    ),
    oldest_index=0,
    next_index=7,
    num_episodes=1,
    next_episode_index=1,
    physical_rows=1064,
    disk_bytes=1 << 20,
    path="/nowhere",
)


class FakeServer:
    """Answers each call of a method with the next of its scripts; the last one repeats.

    A script is a generator function of the requests and the context. GetBuffer and the health check
    answer well unless they are scripted too. Thread-safe.

    Attributes:
        address: where it listens.
        calls: calls begun, by method.
        deadlines: seconds left at each call's beginning, by method; None without a deadline.
    """

    def __init__(self) -> None:
        self.calls: dict[str, int] = defaultdict(int)
        self.deadlines: dict[str, list[float | None]] = defaultdict(list)
        self.over = threading.Event()
        self._lock = threading.Lock()
        self._scripts: dict[str, deque[Script]] = {
            "GetBuffer": deque([answer(buffer_reply())]),
            "Check": deque([answer(b"\x08\x01")]),
        }
        options = [
            ("grpc.so_reuseport", 0),
            ("grpc.http2.min_ping_interval_without_data_ms", 1_000),  # as the real one has it
        ]
        self._server = grpc.server(ThreadPoolExecutor(16), options=options)
        self._server.add_generic_rpc_handlers((_Handler(self._run),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def script(self, method: str, *scripts: Script) -> None:
        """Sets what the next calls of `method` are answered with."""
        with self._lock:
            self._scripts[method] = deque(scripts)

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.over.set()
        self._server.stop(0).wait(30)

    def _run(
        self, method: str, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        with self._lock:
            self.calls[method] += 1
            self.deadlines[method].append(context.time_remaining())
            scripts = self._scripts.get(method)
            if not scripts:
                fail(context, grpc.StatusCode.UNIMPLEMENTED, f"{method} has no script")
            script = scripts.popleft() if len(scripts) > 1 else scripts[0]
        yield from script(requests, context)


class _Handler(grpc.GenericRpcHandler):
    """Takes every method as a stream of bytes to a stream of bytes: on the wire, all are."""

    def __init__(self, run: Callable[..., Iterator[bytes]]) -> None:
        self._run = run

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        method = str(details.method).rpartition("/")[2]
        return grpc.stream_stream_rpc_method_handler(
            lambda requests, context: self._run(method, requests, context)
        )


def fail(context: grpc.ServicerContext, code: grpc.StatusCode, text: str = "scripted") -> NoReturn:
    """Ends the call with a bare status."""
    context.abort(code, text)
    raise AssertionError("abort raises")


def answer(*replies: bytes) -> Script:
    """Replies, after the request has been read."""

    def script(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        next(requests, None)
        yield from replies

    return script


def status(code: grpc.StatusCode, *before: bytes) -> Script:
    """Sends some replies and then a bare status."""

    def script(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        yield from before
        fail(context, code)

    return script


def error(failure: ReplayRingError) -> Script:
    """Ends the call as the real server does for an error."""

    def script(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        code, text, metadata = to_status(failure)
        context.set_trailing_metadata(metadata)
        fail(context, code, text)
        yield b""

    return script


def silence(*before: bytes) -> Script:
    """Sends some replies and then nothing, until the caller goes away."""

    def script(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        yield from before
        gone = threading.Event()
        if context.add_callback(gone.set):
            gone.wait(60)

    return script


def buffer_reply(info: BufferInfo = INFO) -> bytes:
    """GetBuffer's reply."""
    return replay_pb2.GetBufferResponse(buffer=info_to_message(info)).SerializeToString()


def pack_reply(arrays: dict[str, Any], rest: bytes = b"") -> list[bytes]:
    """The messages of one pack."""
    return list(encode_pack(Pack.of({k: np.asarray(v) for k, v in arrays.items()}), rest))


def batch_reply(number: int) -> list[bytes]:
    """A sampled batch that tells its number, and has it as `next_index`."""
    rest = replay_pb2.SampleBatchResponse(next_index=number).SerializeToString()
    return pack_reply({"index": [number]}, rest)
