"""Calls that stay open between requests: to begin one takes longer than to answer it.

Beginning and ending a call costs both sides more than asking for a batch and sending it. So what is
asked for again and again, single batches and frames by position, goes through calls that are kept:
one request, its pack, and some time later the next request. A call that nobody has used for
`IDLE_SECONDS` is ended.

A kept call may have ended unseen, or know things that are no longer so: its server has stopped or
was started again, its token was exchanged, its buffer was deleted and made anew. So whatever a kept
call may answer for such a reason is not believed, and the request is made again in a new one.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator

import grpc

from replayring._channel import Channel, Stub
from replayring._patience import LASTING_SECONDS, LOCKED_OUT, Patience
from replayring._replies import INCOMPLETE, Arrays, read_pack
from replayring._signals import WORKERS
from replayring_proto.errors import (
    DeadlineError,
    MalformedMessageError,
    NotFoundError,
    ServerUnavailableError,
)

IDLE_SECONDS = 10.0

_MAY_BE_OLD = (
    ServerUnavailableError,
    DeadlineError,  # of the call, which is not that of the request
    MalformedMessageError,  # it ended without an answer
    NotFoundError,
    *LOCKED_OUT,
)


class Conversation:
    """One call, for one thread at a time. Belongs to the process that made it.

    gRPC knows no time limit for a single reply, and must not be used by the main thread (see
    `_signals`). So a thread of its own reads the replies, and who asks waits in a queue.

    Attributes:
        told: what a request said that later ones need not repeat.
    """

    def __init__(self, channel: Channel, method: str, max_reply_bytes: int) -> None:
        self.told: bytes | None = None
        self._channel = channel
        self._method = method
        self._max_reply_bytes = max_reply_bytes
        self._process = os.getpid()
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[Arrays, bytes] | BaseException] = queue.SimpleQueue()
        self._over = False
        self._stub: Stub | None = None
        channel.add(self)
        threading.Thread(target=self._run, name="replayring conversation", daemon=True).start()

    @property
    def usable(self) -> bool:
        """Whether it has not ended, as far as is known."""
        return not self._over and self._process == os.getpid()

    def ask(self, request: bytes, seconds: float) -> tuple[Arrays, bytes]:
        """Makes a request and waits for its pack; ends the call if that does not come.

        Returns:
            The arrays, and the other fields of the reply's first message, encoded.

        Raises:
            DeadlineError: it did not come in time.
            Interrupted: the channel was dropped, for a fork.
            ReplayRingError: what else the server answered.
        """
        self._requests.put(request)
        answer: tuple[Arrays, bytes] | BaseException
        try:
            answer = self._answers.get(timeout=seconds)
        except queue.Empty:
            self.end()
            answer = DeadlineError(f"no answer within {seconds:g} s")
        except BaseException:
            self.end()
            raise
        if isinstance(answer, BaseException):
            try:
                raise answer
            finally:
                del answer  # see `Workers.run`
        return answer

    def end(self) -> None:
        """Ends the call, without waiting for that; callable from any thread."""
        self._over = True
        self._requests.put(None)
        if (stub := self._stub) is not None:
            WORKERS.send(stub.cancel)

    def _run(self) -> None:
        try:
            failure = self._converse()
        except BaseException as error:  # whatever it is, somebody waits for an answer
            failure = error
        self._over = True
        self._requests.put(None)
        self._answers.put(failure)

    def _converse(self) -> BaseException:
        """Makes the call; returns, or raises, why it ended."""
        try:
            with self._channel.use(lasting=True) as stub:
                self._stub = stub
                if self._over:
                    stub.cancel()
                with stub.converse(self._method, self._wanted(), LASTING_SECONDS) as call:
                    for message in call:
                        self._answers.put(read_pack(message, call, self._max_reply_bytes))
                        del message  # not to be kept alive while waiting for more
        except grpc.RpcError as error:
            return self._channel.failure(error)
        finally:
            self._stub = None
        # A server may see that no request follows before it sees that the call is cancelled.
        self._channel.check_open()
        return MalformedMessageError(INCOMPLETE)

    def _wanted(self) -> Iterator[bytes]:
        """Yields the requests, until none has come for a while."""
        try:
            while (request := self._requests.get(timeout=IDLE_SECONDS)) is not None:
                yield request
        except queue.Empty:
            self._over = True


class Conversations:
    """The calls of one client that are kept. Thread-safe."""

    def __init__(self, channel: Channel, max_reply_bytes: int) -> None:
        self._channel = channel
        self._max_reply_bytes = max_reply_bytes
        # Taken from and added to in single steps of C code, so that no lock is needed, which a fork
        # might copy while it is held.
        self._kept: defaultdict[str, list[Conversation]] = defaultdict(list)

    def ask(
        self, patience: Patience, method: str, request: Callable[[Conversation], bytes]
    ) -> tuple[Arrays, bytes]:
        """Asks for one pack, in a kept call or a new one.

        Args:
            patience: the time.
            method: a method that answers each request with one pack.
            request: returns the encoded request for the call that it is to be made in.

        Raises:
            ReplayRingError: as `Conversation.ask`.
        """
        while (conversation := self._take(method)) is not None:
            try:
                return self._ask(conversation, patience, method, request)
            except _MAY_BE_OLD:
                if not patience.remaining():
                    raise
        new = Conversation(self._channel, method, self._max_reply_bytes)
        return self._ask(new, patience, method, request)

    def _ask(
        self,
        conversation: Conversation,
        patience: Patience,
        method: str,
        request: Callable[[Conversation], bytes],
    ) -> tuple[Arrays, bytes]:
        answer = conversation.ask(request(conversation), patience.call_timeout())
        self._kept[method].append(conversation)
        return answer

    def _take(self, method: str) -> Conversation | None:
        kept = self._kept[method]
        while True:
            try:
                conversation = kept.pop()
            except IndexError:
                return None
            if conversation.usable:
                return conversation
