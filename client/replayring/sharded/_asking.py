"""Asking all shards for what each says of one buffer, and who counts when some have no answer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from replayring._patience import LOCKED_OUT, Patience
from replayring.sharded._part import Part
from replayring.sharded._shard import Shard, ask_present, named
from replayring_proto.errors import NotFoundError, ReplayRingError, ServerUnavailableError

_LOGGER = logging.getLogger(__name__)

T = TypeVar("T")

Ask = Callable[[Part, float], T]
"""What is asked of one shard, given the seconds that are left for it."""


def answers_of(
    parts: Sequence[Part], ask: Ask[T], patience: Patience
) -> tuple[dict[Part, T], dict[Part, ReplayRingError]]:
    """Asks all shards that can be reached, waiting while others may have it that are away.

    Args:
        parts: all shards.
        ask: what is asked.
        patience: the time.

    Returns:
        The answers of those that have the buffer and give it, at least one; and why others that
        were reached do not: they lack it, or somebody has to do something about them. Both in the
        order of shards.

    Raises:
        NotFoundError: all shards lack it.
        AccessDeniedError, TLSError, StorageError: none gives it, and one says so.
        ServerUnavailableError: none that has it could be reached in time.
    """
    while True:
        found, without = _answers_now(parts, ask, patience)
        if found:
            return found, without
        if len(without) == len(parts) or not patience.wait(parts[0].shard.client._channel):
            raise _nothing_found(parts, without, patience)


def _nothing_found(
    parts: Sequence[Part], without: Mapping[Part, ReplayRingError], patience: Patience
) -> ReplayRingError:
    for failure in without.values():
        if isinstance(failure, LOCKED_OUT):
            return failure
    if len(without) == len(parts):
        return without[parts[0]]
    away = [part.shard.name for part in parts if part not in without]
    return ServerUnavailableError(
        f"{patience.what}: {', '.join(away)} could not be reached within {patience.timeout:g} s, "
        "and may have it; no other shard has it any more. Start it, or give it more time"
    )


def _answers_now(
    parts: Sequence[Part], ask: Ask[T], patience: Patience
) -> tuple[dict[Part, T], dict[Part, ReplayRingError]]:
    """Asks all shards that can be reached, at least one; see `answers_of` for what it returns."""

    def ask_one(shard: Shard, left: float) -> T:
        part = parts[shard.number]
        try:
            answer = ask(part, left)
        except ReplayRingError as error:
            if isinstance(error, LOCKED_OUT) and not part.refusing:
                _LOGGER.warning("%s is left out: %s", shard.name, error)
            part.note(error)
            raise
        part.note(None)
        return answer

    shards = [part.shard for part in parts]
    found, without = _apart(shards, ask_one, patience, (NotFoundError, *LOCKED_OUT))
    return (
        {parts[shard.number]: answer for shard, answer in found.items()},
        {parts[shard.number]: why for shard, why in without.items()},
    )


def answers_of_servers(
    shards: Sequence[Shard], ask: Callable[[Shard, float], T], patience: Patience
) -> tuple[dict[Shard, T], dict[Shard, ReplayRingError]]:
    """Asks all shards that can be reached for what is of no one buffer.

    Args:
        shards: all shards.
        ask: asks one, by its `hasty` client, within some seconds.
        patience: the time.

    Returns:
        The answers, at least one; and why others that were reached give none.

    Raises:
        AccessDeniedError, TLSError, StorageError: all were reached, and none gives one.
        ServerUnavailableError: others could not be reached in time.
    """
    while True:
        found, without = _apart(shards, ask, patience, LOCKED_OUT)
        if found:
            return found, without
        refusal = named(*next(iter(without.items())))
        if len(without) == len(shards):
            raise refusal
        if not patience.wait(shards[0].client._channel):
            away = ", ".join(shard.name for shard in shards if shard not in without)
            raise ServerUnavailableError(
                f"{patience.what}: {away} could not be reached within {patience.timeout:g} s, and "
                f"no other shard gives an answer: {refusal}"
            )


def _apart(
    shards: Sequence[Shard],
    ask: Callable[[Shard, float], T],
    patience: Patience,
    bearable: tuple[type[ReplayRingError], ...],
) -> tuple[dict[Shard, T], dict[Shard, ReplayRingError]]:
    """Asks all shards that can be reached, at least one; sets those apart that fail bearably."""

    def ask_one(shard: Shard, left: float) -> T | _Without:
        try:
            return ask(shard, left)
        except bearable as error:
            return _Without(error)

    found: dict[Shard, T] = {}
    without: dict[Shard, ReplayRingError] = {}
    for shard, answer in ask_present(shards, ask_one, patience).items():
        if isinstance(answer, _Without):
            without[shard] = answer.why
        else:
            found[shard] = answer
    return found, without


@dataclass(frozen=True)
class _Without:
    """What a shard answers that does not give what it is asked for."""

    why: ReplayRingError
