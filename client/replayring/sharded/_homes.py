"""Which shard a writer belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from replayring import _spill
from replayring._adding import new_writer_id
from replayring.sharded._names import ranking
from replayring.sharded._part import Part
from replayring_proto.errors import InvalidRequestError

# Identities to try until one belongs to a shard that serves: enough for one of many.
_TRIES = 4096


def home_of(parts: Sequence[Part], writer_id: str) -> Part:
    """Returns the part that an identity belongs to, wherever it is."""
    return parts[ranking(writer_id, [part.shard.name for part in parts])[0]]


def present_home(parts: Sequence[Part], writer_id: str) -> Part:
    """Returns the part that an identity belongs to among those that serve, if any."""
    present = [part for part in parts if part.serves]
    return home_of(present or parts, writer_id)


def new_identity(parts: Sequence[Part]) -> str:
    """Returns a new identity, of a shard that serves if there is one."""
    for _ in range(_TRIES):
        writer_id = new_writer_id()
        part = home_of(parts, writer_id)
        if part.serves:
            break
    return writer_id


def of_spill(parts: Sequence[Part], folder: Path, writer_id: str | None) -> tuple[Part, str]:
    """Returns the part that a spill directory is for, and the identity of its writer.

    Raises:
        InvalidRequestError: it is for another shard.
        StorageError: it cannot be read.
    """
    identity = writer_id or _spill.owner_of(folder) or new_identity(parts)
    noted = _spill.shard_of(folder)
    if noted is None:
        return home_of(parts, identity), identity
    for part in parts:
        if part.shard.name == noted:
            return part, identity
    raise InvalidRequestError(
        f"the spill directory {folder} is for {noted}, which is none of the shards "
        f"{', '.join(part.shard.name for part in parts)}; connect with it, so that what is left "
        "is stored once, or use another directory"
    )
