"""Calls: a deadline over all attempts, retries with back-off, errors that say what happened.

A call is tried again only when the server is unreachable or stopping (UNAVAILABLE, or CANCELLED by
a server that ends its calls), or when this process forked in the middle of it. Where the time runs
out, the error tells an unreachable server from one that did not answer in time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from replayring._allocator import keep_freed_batches
from replayring._arguments import seconds
from replayring._channel import Channel, Interrupted, Stub
from replayring._conversations import Conversation, Conversations
from replayring._patience import LOCKED_OUT, Patience, passing
from replayring._replies import Arrays, next_reply, read_pack
from replayring._signals import WORKERS
from replayring_proto.errors import (
    ClosedError,
    DeadlineError,
    ReplayRingError,
    ServerUnavailableError,
    StorageError,
    TLSError,
)
from replayring_proto.messages import parse
from replayring_proto.v1 import replay_pb2

T = TypeVar("T")
M = TypeVar("M", bound=Message)

# Errors that are raised on this side, whether there is a server or not.
_OWN = (ClosedError, StorageError)

_PROBE_SECONDS = 1.0
_HEALTH = "/grpc.health.v1.Health/Check"


class Caller:
    """Makes calls on a client's channel. Thread-safe; the client closes the channel.

    Attributes:
        channel: the channel.
        timeout: seconds for a call that is given no timeout of its own.
        max_reply_bytes: bytes of one reply's pack at most.
    """

    def __init__(self, channel: Channel, timeout: float, max_reply_bytes: int) -> None:
        self.channel = channel
        self.timeout = seconds(timeout)
        self.max_reply_bytes = max_reply_bytes
        self._conversations = Conversations(channel, max_reply_bytes)
        keep_freed_batches()

    def patience(self, what: str, timeout: float | None) -> Patience:
        """Returns the patience for one call; `timeout` None means the client's own.

        Raises:
            InvalidRequestError: the timeout is no number above zero.
        """
        return Patience(what, self.timeout if timeout is None else seconds(timeout))

    def run(
        self,
        patience: Patience,
        attempt: Callable[[Stub], T],
        explain: Callable[[], str] | None = None,
        *,
        lasting: bool = False,
    ) -> T:
        """Runs `attempt` until it succeeds, fails for good, or the time is up.

        Args:
            patience: the time.
            attempt: makes the call with `patience.call_timeout()`; raises `grpc.RpcError`, or
                `ServerUnavailableError` where the server ended the call too early.
            explain: asked when the time is up and the server can be reached; returns what was
                waited for and what to do about it.
            lasting: the call may take long, so a fork ends it at once.

        Raises:
            ServerUnavailableError: the server could not be reached in time.
            DeadlineError: it was reached, but did not answer in time.
            ReplayRingError: what else the server answered.
        """
        self.channel.check_open()

        def once() -> T:
            try:
                with self.channel.use(lasting=lasting) as stub:
                    patience.begin(stub)
                    return attempt(stub)
            except grpc.RpcError as error:
                failure = self.channel.failure(error)
            try:
                raise failure
            finally:
                del failure  # see `Workers.run`

        return WORKERS.run(lambda: self._run(patience, once, explain), patience.abandon)

    def _run(
        self, patience: Patience, once: Callable[[], T], explain: Callable[[], str] | None
    ) -> T:
        failure: ReplayRingError | None = None
        while True:
            begun = time.monotonic()
            try:
                answer = once()
            except Interrupted:
                if patience.remaining() > 0:
                    continue
            except ReplayRingError as error:
                if not passing(error):
                    if not isinstance(error, _OWN):
                        self.channel.outage.answered()
                    raise
                failure = error.with_traceback(None)  # which has this frame
            else:
                self.channel.outage.answered()
                return answer
            if patience.abandoned:
                raise Interrupted  # nobody is there to hear it
            if isinstance(failure, ServerUnavailableError):
                self.channel.outage.failed(failure, begun)
            if not patience.wait(self.channel):
                raise self.overdue(patience, failure, explain)

    def unary(self, patience: Patience, method: str, request: Message, reply: type[M]) -> M:
        """Makes a call of one request and one reply."""
        encoded = request.SerializeToString()

        def attempt(stub: Stub) -> bytes:
            with stub.ask(method, encoded, patience.call_timeout()) as call:
                answer: bytes = call.result()
            return answer

        return parse(reply, self.run(patience, attempt))

    def fetch(
        self,
        patience: Patience,
        method: str,
        request: Message,
        explain: Callable[[], str] | None = None,
    ) -> tuple[Arrays, bytes]:
        """Makes a call of one request that is answered with one pack.

        Returns:
            The arrays, and the other fields of the reply's first message, encoded.
        """
        encoded = request.SerializeToString()

        def attempt(stub: Stub) -> tuple[Arrays, bytes]:
            with stub.fetch(method, encoded, patience.call_timeout()) as call:
                return read_pack(next_reply(call), call, self.max_reply_bytes)

        return self.run(patience, attempt, explain)

    def ask(
        self,
        patience: Patience,
        method: str,
        request: Callable[[Conversation], bytes],
        explain: Callable[[], str] | None = None,
    ) -> tuple[Arrays, bytes]:
        """Makes a request that is answered with one pack, in a call that is kept for the next.

        Args:
            patience: the time.
            method: a method that takes many requests and answers each with a pack.
            request: returns the encoded request, given the call that it is to be made in.
            explain: as for `run`.

        Returns:
            As `fetch`.
        """
        self.channel.check_open()
        return self._run(
            patience, lambda: self._conversations.ask(patience, method, request), explain
        )

    def overdue(
        self,
        patience: Patience,
        failure: ReplayRingError | None,
        explain: Callable[[], str] | None = None,
    ) -> ReplayRingError:
        """Returns the error for a call whose time is up, last failed with `failure`."""
        if failure is None or isinstance(failure, DeadlineError):
            # The last attempt may have had too little time to find out what is wrong.
            failure = self.unreachable()
        if isinstance(failure, LOCKED_OUT):
            return type(failure)(f"{patience.what}, for {patience.timeout:g} s: {failure}")
        if failure is not None:
            return ServerUnavailableError(
                f"{patience.what}: the server at {self.channel.address} could not be reached "
                f"within {patience.timeout:g} s ({failure}); check that it runs (`replayring "
                "serve --data-dir DIR` starts one) and that the address is right, or give it more "
                "time"
            )
        return DeadlineError(
            f"{patience.what}: the server at {self.channel.address} gave no answer within "
            f"{patience.timeout:g} s; {explain() if explain else 'raise timeout'}"
        )

    def unreachable(self) -> ReplayRingError | None:
        """Returns why the server gives no answer, or None if it does. Takes up to a second."""
        return WORKERS.run(self._unreachable, lambda: None)

    def _unreachable(self) -> ReplayRingError | None:
        try:
            with self.channel.use() as stub, stub.ask(_HEALTH, b"", _PROBE_SECONDS) as call:
                call.result()
        except Interrupted:
            return None
        except StorageError as error:
            return error
        except grpc.RpcError as error:
            failure = self.channel.failure(error)
            return failure if passing(failure) or isinstance(failure, TLSError) else None
        return None

    def buffer_info(self, name: str, patience: Patience) -> replay_pb2.GetBufferResponse:
        """Asks for a buffer's state."""
        request = replay_pb2.GetBufferRequest(name=name)
        return self.unary(patience, "GetBuffer", request, replay_pb2.GetBufferResponse)
