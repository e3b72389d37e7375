"""Parameters over several servers: published to all within reach, followed at any of them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from replayring import parameters
from replayring._patience import LOCKED_OUT, Patience
from replayring.parameters import Parameters, Watch
from replayring.sharded._shard import AWAY, Shard, ask_hastily, ask_present, raise_first
from replayring_proto.errors import NotFoundError, ReplayRingError

# After which a watcher looks at another shard, which may have what this one missed while away.
_STAY_SECONDS = 5.0
_RETRY_SECONDS = 0.1


def publish(
    shards: Sequence[Shard], name: str, tensors: Mapping[str, Any], known: int, patience: Patience
) -> int:
    """Publishes to all shards that can be reached; returns the version that these then have.

    Args:
        shards: all shards.
        name: what to publish under, checked.
        tensors: what to publish.
        known: the version before, as far as is known.
        patience: for all of it.
    """

    def tell(shard: Shard, seconds: float, version: int) -> int:
        return parameters.publish(shard.hasty._caller, name, tensors, seconds, version)

    versions = ask_present(shards, lambda shard, left: tell(shard, left, known + 1), patience)
    version = max(versions.values())
    if behind := [shard for shard, has in versions.items() if has < version]:
        # They missed some while they were away; from now on all count alike.
        seconds = max(patience.remaining(), _RETRY_SECONDS)
        answers = ask_hastily(behind, lambda shard: tell(shard, seconds, version)).values()
        raise_first(answer for answer in answers if not isinstance(answer, AWAY))
    return version


def latest(shards: Sequence[Shard], name: str, after: int, patience: Patience) -> Parameters:
    """Returns the newest version above `after` of the shards that can be reached.

    Raises:
        NotFoundError: they have none.
        AccessDeniedError, TLSError, StorageError: nor has any other, as far as it says.
    """
    while True:
        newest: Parameters | None = None
        failures: list[ReplayRingError] = []
        # One after the other: each is asked for what is newer still, so few send anything.
        for shard in _present(shards):
            known = after if newest is None else newest.version
            answer = ask_hastily([shard], partial(_newest, name, known, patience))[shard]
            if isinstance(answer, Parameters):
                newest = answer
            else:
                failures.append(answer)
        bearable = (NotFoundError, *LOCKED_OUT, *AWAY)
        raise_first(failure for failure in failures if not isinstance(failure, bearable))
        if newest is not None:
            return newest
        for kind in (LOCKED_OUT, NotFoundError):
            raise_first(failure for failure in failures if isinstance(failure, kind))
        if not patience.remaining():
            raise failures[0]
        shards[0].client._channel.wait_closed(min(_RETRY_SECONDS, patience.remaining()))


def _newest(name: str, known: int, patience: Patience, shard: Shard) -> Parameters:
    caller = shard.hasty._caller
    inner = caller.patience(patience.what, max(patience.remaining(), _RETRY_SECONDS))
    return parameters.newest(caller, name, known, inner, wait=False)


def watch(shards: Sequence[Shard], name: str, after: int, timeout: float) -> Watch:
    """Returns the newest version above `after`, then again whenever there is a newer one.

    Args:
        shards: all shards.
        name: what to watch, checked.
        after: the version that is already known.
        timeout: seconds to wait for each, checked.
    """

    def newer(known: int) -> Parameters:
        patience = shards[0].client._caller.patience(f"watching {name!r}", timeout)
        while (newest := _await_newer(shards, name, known, patience)) is None:
            pass
        return newest

    return Watch(after, newer)


def _await_newer(
    shards: Sequence[Shard], name: str, after: int, patience: Patience
) -> Parameters | None:
    """Waits at each shard in turn for a version above `after`; None if nothing came of that."""
    refusals: list[ReplayRingError] = []
    for shard in _present(shards):
        caller = shard.hasty._caller
        seconds = max(min(patience.remaining(), _STAY_SECONDS), _RETRY_SECONDS)
        try:
            inner = caller.patience(patience.what, seconds)
            return parameters.newest(caller, name, after, inner, wait=True)
        except LOCKED_OUT as error:
            refusals.append(error)
        except AWAY:
            if not patience.remaining():
                raise
    if refusals and (len(refusals) == len(shards) or not patience.remaining()):
        raise refusals[0]
    shards[0].client._channel.wait_closed(min(_RETRY_SECONDS, patience.remaining()))
    return None


def _present(shards: Sequence[Shard]) -> list[Shard]:
    """Returns the shards that can be reached, as far as is known, in random order."""
    for shard in shards:
        if shard.lost:
            shard.look_out()
    present = [shard for shard in shards if not shard.lost] or list(shards)
    return random.sample(present, len(present))
