"""One of several servers: its client, whether it is away, and asking many at once."""

from __future__ import annotations

import math
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

from replayring._calls import Caller
from replayring._channel import Channel, Stub
from replayring._patience import Patience
from replayring._signals import WORKERS, outcome
from replayring.client import Client
from replayring_proto.errors import (
    ClosedError,
    DeadlineError,
    ReplayRingError,
    ServerUnavailableError,
    TLSError,
)

T = TypeVar("T")

AWAY = (ServerUnavailableError, DeadlineError)
"""How a shard fails that others can stand in for."""

ANSWER_SECONDS = 0.75
"""A shard that gave nothing for so long is asked whether it is there at all, which takes a second
at most."""

_RETRY_SECONDS = 0.1
_LOOK_SECONDS = 0.25


class Shard:
    """One server among several. Thread-safe; its `ShardedClient` closes it.

    Attributes:
        number: its place among the shards.
        name: its address.
        client: its client, which waits for it.
        hasty: another one over the same channel, whose calls end once it is certain that the server
            is away: for what the others can answer.
    """

    def __init__(self, number: int, client: Client) -> None:
        self.number = number
        self.name = client.address
        self.client = client
        self._hasty_caller = _HastyCaller(client)
        self.hasty: Client = _HastyClient(client, self._hasty_caller)
        self._lookout: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<shard {self.number}, {self.name}>"

    @property
    def lost(self) -> bool:
        """Whether it is away, as far as is known."""
        return self.client._channel.outage.certain

    def check_answering(self) -> None:
        """Ends the hasty calls that are going on if the server gives no sign of life."""
        failure = self.client._caller.unreachable()
        if isinstance(failure, AWAY):
            silence = ServerUnavailableError(f"it is silent: {failure}")
            self.client._channel.outage.silent(silence)
            self._hasty_caller.give_up(silence)

    def look_out(self) -> None:
        """Has a lost shard looked at, in the background, until it is back."""
        thread = self._lookout
        if thread is None or not thread.is_alive():  # as it is in a forked child
            self._lookout = thread = threading.Thread(
                target=self._look, name="replayring lookout", daemon=True
            )
            thread.start()

    def _look(self) -> None:
        channel, caller = self.client._channel, self.client._caller
        try:
            while self.lost:
                begun = time.monotonic()
                failure = caller.unreachable()
                if failure is None or isinstance(failure, TLSError):
                    channel.outage.answered()  # whoever asks next is told what is wrong, if it is
                elif isinstance(failure, AWAY):
                    channel.outage.failed(failure, begun)
                channel.check_open()
                channel.wait_closed(_LOOK_SECONDS)
        except ClosedError:
            pass


class _HastyPatience(Patience):
    """Gives up as soon as it is certain that the server is away.

    Attributes:
        silence: why the attempt that was going on was ended, if it was.
    """

    silence: ServerUnavailableError | None = None

    def wait(self, channel: Channel) -> bool:
        return super().wait(channel) and not channel.outage.certain

    def begin(self, stub: Stub) -> None:
        super().begin(stub)
        if self.silence:
            stub.cancel()

    def give_up(self, silence: ServerUnavailableError) -> None:
        """Ends the attempt that is going on. Callable from any thread."""
        self.silence = silence
        if self._stub is not None:
            WORKERS.send(self._stub.cancel)


class _HastyCaller(Caller):
    def __init__(self, client: Client) -> None:
        super().__init__(client._channel, client.timeout, client._caller.max_reply_bytes)
        # Added to and listed in single steps: a fork might copy a lock while it is held.
        self._going_on: weakref.WeakValueDictionary[int, _HastyPatience] = (
            weakref.WeakValueDictionary()
        )

    def patience(self, what: str, timeout: float | None) -> Patience:
        patience = _HastyPatience(what, super().patience(what, timeout).timeout)
        self._going_on[id(patience)] = patience
        return patience

    def overdue(
        self,
        patience: Patience,
        failure: ReplayRingError | None,
        explain: Callable[[], str] | None = None,
    ) -> ReplayRingError:
        silence = patience.silence if isinstance(patience, _HastyPatience) else None
        return super().overdue(patience, silence or failure, explain)

    def give_up(self, silence: ServerUnavailableError) -> None:
        """Ends all calls that are going on, as the server is silent."""
        for reference in self._going_on.valuerefs():
            if (patience := reference()) is not None:
                patience.give_up(silence)


class _HastyClient(Client):
    """A second client over another's channel, which that one closes."""

    def __init__(self, client: Client, caller: _HastyCaller) -> None:
        self._same_host = client._same_host
        self._channel = client._channel
        self._caller = caller


def ask_all(shards: Sequence[Shard], ask: Callable[[Shard], T]) -> list[T | ReplayRingError]:
    """Asks shards at once; returns what each answered, or the error that it met, in their order."""
    if len(shards) == 1:
        return [_told(shards[0], *outcome(lambda: ask(shards[0])))]
    answers = _begin(shards, ask)
    told = {shard: _told(shard, *rest) for shard, *rest in (answers.get() for _ in shards)}
    return [told[shard] for shard in shards]


def ask_hastily(
    shards: Sequence[Shard], ask: Callable[[Shard], T]
) -> dict[Shard, T | ReplayRingError]:
    """As `ask_all`, by their hasty clients; waits for none that gives no sign of life meanwhile."""
    answers = _begin(shards, ask)
    told: dict[Shard, T | ReplayRingError] = {}
    seconds = ANSWER_SECONDS
    while len(told) < len(shards):
        try:
            shard, answer, error = answers.get(timeout=seconds)
        except queue.Empty:
            ask_all([shard for shard in shards if shard not in told], Shard.check_answering)
            seconds *= 2  # what takes long is not asked about all the time
        else:
            told[shard] = _told(shard, answer, error)
    return {shard: told[shard] for shard in shards}


def _begin(
    shards: Sequence[Shard], ask: Callable[[Shard], T]
) -> queue.SimpleQueue[tuple[Shard, Any, BaseException | None]]:
    """Asks shards at once; returns where each puts what came of it."""
    answers: queue.SimpleQueue[tuple[Shard, Any, BaseException | None]] = queue.SimpleQueue()

    def ask_one(shard: Shard) -> Callable[[], None]:
        return partial(answers.put, (shard, *outcome(lambda: ask(shard))))

    for shard in shards:
        WORKERS.begin(partial(ask_one, shard))
    return answers


def ask_present(
    shards: Sequence[Shard], ask: Callable[[Shard, float], T], patience: Patience
) -> dict[Shard, T]:
    """Asks all shards that can be reached, at least one, waiting while there is none.

    Args:
        shards: all shards.
        ask: asks one, by its `hasty` client, within some seconds.
        patience: for all of it.

    Raises:
        ReplayRingError: none could be reached in time; or what one answered.
    """
    failure: ReplayRingError | None = None
    while True:
        present = [shard for shard in shards if not shard.lost] or list(shards)
        # Of milliseconds, as it stands in messages.
        seconds = max(math.ceil(patience.remaining() * 1e3) / 1e3, 1e-3)
        ask_in_time = partial(_within, ask, seconds)
        answers = ask_hastily(present, ask_in_time)
        for shard in shards:
            if shard.lost:
                shard.look_out()
        failures = [a for a in answers.values() if isinstance(a, ReplayRingError)]
        raise_first(failure for failure in failures if not isinstance(failure, AWAY))
        got = {s: a for s, a in answers.items() if not isinstance(a, ReplayRingError)}
        if got:
            return got
        failure = failure or failures[0]  # the first had all the time
        if not patience.remaining():
            raise failure
        shards[0].client._channel.wait_closed(min(_RETRY_SECONDS, patience.remaining()))
        shards[0].client._channel.check_open()


def _within(ask: Callable[[Shard, float], T], seconds: float, shard: Shard) -> T:
    return ask(shard, seconds)


def raise_first(results: Iterable[Any]) -> None:
    """Raises the first error among results."""
    for result in results:
        if isinstance(result, ReplayRingError):
            raise result


def named(shard: Shard, error: ReplayRingError) -> ReplayRingError:
    """Returns the error, saying which shard it is of."""
    text = str(error)
    if shard.name in text:
        return error
    copy = type(error)(f"shard {shard.name}: {text}")
    copy.acknowledged = error.acknowledged
    return copy


def _told(shard: Shard, answer: T, error: BaseException | None) -> T | ReplayRingError:
    if isinstance(error, ClosedError) or (error and not isinstance(error, ReplayRingError)):
        raise error
    return named(shard, error) if isinstance(error, ReplayRingError) else answer
