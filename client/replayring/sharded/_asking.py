"""Asking all shards for what each says of one buffer, and who counts when some lack it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from replayring._patience import Patience
from replayring.sharded._part import Part
from replayring.sharded._shard import AWAY, Shard, ask_present
from replayring_proto.errors import NotFoundError, ServerUnavailableError

T = TypeVar("T")

Ask = Callable[[Part, float], T]
"""What is asked of one shard, given the seconds that are left for it."""


def answers_of(
    parts: Sequence[Part], ask: Ask[T], patience: Patience
) -> tuple[dict[Part, T], list[Part]]:
    """Asks all shards that can be reached, waiting while those lack it and others are away.

    Args:
        parts: all shards.
        ask: what is asked.
        patience: the time.

    Returns:
        The answers of those that have the buffer, at least one, and those that lack it; both in the
        order of shards.

    Raises:
        NotFoundError: all shards lack it.
        ServerUnavailableError: none that has it could be reached in time.
    """
    while True:
        answers, lacking = _answers_now(parts, ask, patience)
        found = {part: answer for part, answer in answers.items() if answer is not None}
        if found:
            return found, [part for part in answers if part not in found]
        if len(lacking) == len(parts):
            raise lacking[parts[0]]
        if not patience.wait(parts[0].shard.client._channel):
            away = [part.shard.name for part in parts if part not in lacking]
            raise ServerUnavailableError(
                f"{patience.what}: {', '.join(away)} could not be reached within "
                f"{patience.timeout:g} s, and may have it; no other shard has it any more. "
                "Start it, or give it more time"
            )


def _answers_now(
    parts: Sequence[Part], ask: Ask[T], patience: Patience
) -> tuple[dict[Part, T | None], dict[Part, NotFoundError]]:
    """Asks all shards that can be reached, at least one.

    Returns:
        Their answers in the order of shards, None of those that lack the buffer; and what these
        said.
    """
    lacking: dict[Part, NotFoundError] = {}

    def ask_one(shard: Shard, left: float) -> T | None:
        part = parts[shard.number]
        try:
            answer = ask(part, left)
        except NotFoundError as error:
            part.note(error)
            lacking[part] = error
            return None
        except AWAY as error:
            part.note(error)
            raise
        part.note(None)
        return answer

    told = ask_present([part.shard for part in parts], ask_one, patience)
    return {part: told[part.shard] for part in parts if part.shard in told}, lacking
