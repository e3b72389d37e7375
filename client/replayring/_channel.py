"""One gRPC channel per client and process, opened on first use and dropped before forks."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, TypeAlias

import grpc

from replayring._credentials import Credentials, explained
from replayring._fork import GATE
from replayring._living import Living
from replayring._outage import Outage
from replayring._signals import WORKERS
from replayring_proto.errors import (
    ClosedError,
    ReplayRingError,
    ServerUnavailableError,
    TLSError,
)
from replayring_proto.limits import MAX_MESSAGE_BYTES
from replayring_proto.status import from_status
from replayring_proto.tls import Stamps

_LOGGER = logging.getLogger(__name__)

_Call: TypeAlias = AbstractContextManager[Any]

_CLOSE_SECONDS = 5.0

_OPTIONS: list[tuple[str, int]] = [
    # gRPC's own retries stop silently above 256 KiB; `_calls` has ours.
    ("grpc.enable_retries", 0),
    # A network that swallows everything must heal within 2 s of its return. TCP alone would stay
    # away as long again, since it doubles its delays. So a connection that is silent for 4 s is
    # given up (2 s, a ping, 2 s; gRPC also sets TCP_USER_TIMEOUT to the keepalive timeout, so data
    # that nobody confirms for 2 s ends it too), and from then on a new one is tried at least every
    # second. Each try has 2 s, in which TCP repeats its SYN: enough for a distant server with TLS.
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    # No such ping is sent while another one is under way, as mostly one is where data was coming.
    # That would be waited for a minute, and a server missed that hangs in the middle of its work.
    # It waits its turn behind what is being sent, so it has a little longer.
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.min_reconnect_backoff_ms", 2_000),  # in fact the time that each try has
    # Orchestrators start a server again under its old name and a new address. By itself gRPC asks
    # for a name's addresses once in 30 s at most, however often a connection fails.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Closing a channel is to close its connection, whatever other clients of this process do.
    ("grpc.use_local_subchannel_pool", 1),
    # Web proxies from the environment do not reach replay servers.
    ("grpc.enable_http_proxy", 0),
]

# What a child must not destroy: the destructors would touch its parent's connection.
_forgotten: list[Any] = []


class Interrupted(Exception):
    """The channel was dropped under a call, for a fork. Make the call again."""


class Dependent(Protocol):
    """Something that lives on a channel and ends with it."""

    def end(self) -> None:
        """Ends soon, without waiting for anything; callable from any thread."""


class Stub:
    """Begins one call on an open channel, in raw bytes.

    A call is a context manager, which cancels it if it has not ended by then. On the wire, one
    request is a stream that ends early; so a method that takes a stream may be given one request,
    which saves the thread that would feed it.

    For one thread, except that any may cancel.
    """

    def __init__(
        self, channel: grpc.Channel, metadata: Sequence[tuple[str, str]] | None = None
    ) -> None:
        self._channel: Any = channel
        self._metadata = metadata
        self._call: Any = None
        self._cancelled = False

    def ask(self, method: str, request: bytes, timeout: float) -> _Call:
        """One request, one reply: `call.result()`."""
        begin = self._channel.unary_unary(_path(method)).future
        return self._begun(begin(request, timeout, self._metadata))

    def upload(self, method: str, requests: Iterator[bytes], timeout: float) -> _Call:
        """Many requests, one reply: `call.result()`."""
        begin = self._channel.stream_unary(_path(method)).future
        return self._begun(begin(requests, timeout, self._metadata))

    def fetch(self, method: str, request: bytes, timeout: float) -> _Call:
        """One request, many replies: an iterator."""
        begin = self._channel.unary_stream(_path(method))
        return self._begun(begin(request, timeout, self._metadata))

    def converse(self, method: str, requests: Iterator[bytes], timeout: float) -> _Call:
        """Many requests, many replies: an iterator."""
        begin = self._channel.stream_stream(_path(method))
        return self._begun(begin(requests, timeout, self._metadata))

    def cancel(self) -> None:
        """Ends the call, also if it is yet to begin."""
        self._cancelled = True
        if self._call is not None:
            self._call.cancel()

    @contextmanager
    def _begun(self, call: Any) -> Iterator[Any]:
        self._call = call
        if self._cancelled:
            call.cancel()
        try:
            yield call
        except grpc.FutureCancelledError:  # what `result` says of a call that `cancel` ended
            raise call from None  # as every other does
        finally:
            call.cancel()


class Channel:
    """A gRPC channel that opens lazily and survives forks on both sides.

    Thread-safe. Its client closes it.

    Attributes:
        address: the server's address.
        credentials: what it shows the server, and expects of it.
        outage: what is known of the server's absence.
    """

    def __init__(self, address: str, credentials: Credentials | None = None) -> None:
        self.address = address
        self.credentials = credentials or Credentials()
        self._stamps: Stamps = ()
        self._closed = False
        self._start()

    def _start(self) -> None:
        self._open_lock = threading.Lock()  # free once this is closed; see `wait_closed`
        if not self._closed:
            self._open_lock.acquire()
        self._lock = threading.Lock()
        self.outage = Outage(self.address)
        self._grpc: grpc.Channel | None = None
        self._dependents = Living[Dependent]()

    @contextmanager
    def use(self, *, lasting: bool = False) -> Iterator[Stub]:
        """Gives the open channel for one call, which must have ended when the block does.

        Args:
            lasting: the call is a stream that does not end soon by itself.

        Raises:
            ClosedError: the client was closed, before or meanwhile.
            Interrupted: the channel was dropped meanwhile.
            StorageError: a file of its credentials cannot be read or used.
        """
        with GATE.entered(lasting=lasting):
            channel, metadata = self._open(), self.credentials.metadata()
            try:
                yield Stub(channel, metadata)
            except (grpc.RpcError, ValueError) as error:
                if self._grpc is channel or not _says_dropped(error):
                    raise
            else:
                return
        self.check_open()
        raise Interrupted

    def failure(self, error: grpc.RpcError) -> ReplayRingError:
        """Returns the error that a failed call stands for. Call it outside `use`.

        If certificates have been renewed since the channel was opened, the next use opens another.
        """
        # A call is its own error, and so in the frames that the error has.
        error.with_traceback(None)
        failure = explained(from_status(error), self.address, self.credentials.tls)
        if not isinstance(failure, (ServerUnavailableError, TLSError)):
            return failure
        if self._grpc is None or self._stamps == self.credentials.stamps():
            return failure
        with GATE.entered():
            self.drop()
        return ServerUnavailableError(str(failure))

    def check_open(self) -> None:
        """Raises `ClosedError` if this channel was closed."""
        if self._closed:
            raise ClosedError(f"this client of {self.address} was closed; connect another")

    def wait_closed(self, seconds: float) -> None:
        """Sleeps, but no longer than until the channel is closed."""
        if self._open_lock.acquire(timeout=seconds):
            self._open_lock.release()

    def add(self, dependent: Dependent) -> None:
        """Has `dependent` ended when this channel is closed."""
        with self._lock:
            self.check_open()
            self._dependents.add(dependent)

    def close(self) -> None:
        """Ends all calls and dependents. Calling it again does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._open_lock.release()
            dependents = self._dependents.all()
        for dependent in dependents:
            dependent.end()
        with GATE.entered():
            self.drop()
        WORKERS.dismiss()

    def drop(self) -> None:
        """Closes the gRPC channel, which ends its calls; the next use opens another."""
        with self._lock:
            channel, self._grpc = self._grpc, None
        if channel is not None:
            GATE.settle()
            _close(channel)

    def forget(self) -> None:
        """In a forked child: starts over, with the parent's channel left as it is."""
        if self._grpc is not None:
            _forgotten.append(self._grpc)
        self._start()

    def _open(self) -> grpc.Channel:
        with self._lock:
            self.check_open()
            if self._grpc is None:
                if GATE.closed():  # asked under the lock: `drop` comes after the gate has closed
                    raise Interrupted
                self._stamps = self.credentials.stamps()
                self._grpc = self.credentials.open(self.address, _OPTIONS)
                GATE.add(self)
            return self._grpc


def _path(method: str) -> str:
    """Returns a method's full name; other services' methods are given with theirs."""
    return method if method.startswith("/") else f"/replayring.v1.ReplayService/{method}"


def _says_dropped(error: Exception) -> bool:
    """Whether a call failed because its channel was closed by this side."""
    if isinstance(error, grpc.RpcError):
        call: Any = error
        return bool(call.code() is grpc.StatusCode.CANCELLED)
    return type(error) is ValueError  # how grpc refuses to begin a call on a closed channel


def _close(channel: grpc.Channel) -> None:
    """Closes, away from signals and for a bounded time: grpc waits until its calls have drained."""
    closing = threading.Thread(target=channel.close, name="replayring-close", daemon=True)
    try:
        closing.start()
    except RuntimeError:  # too late for threads: the interpreter is shutting down
        channel.close()
        return
    closing.join(_CLOSE_SECONDS)
    if closing.is_alive():
        _LOGGER.warning("a channel's calls did not end within %.0f s", _CLOSE_SECONDS)
        _forgotten.append(channel)
