"""What arrays of several shards must look like to be joined.

Shards agree on a buffer's spec when it is opened. Later somebody may make it anew on one of them,
with another one, and nobody here need hear of that before its frames come.
"""

from __future__ import annotations

from collections.abc import Iterable

from replayring._replies import Arrays
from replayring.sharded._shard import Shard
from replayring_proto.errors import InvalidSpecError
from replayring_proto.query import View
from replayring_proto.ring import Plan
from replayring_proto.spec import BufferSpec, Column

_Look = tuple[str, tuple[int, ...]]


class Form:
    """The columns that each shard's arrays are to have. Immutable."""

    def __init__(self, buffer: str, looks: dict[str, _Look]) -> None:
        """Presents it.

        Args:
            buffer: the buffer's name.
            looks: for each array the name of its dtype, and the shape of one item.
        """
        self._buffer = buffer
        self._looks = looks

    @classmethod
    def of_view(cls, buffer: str, spec: BufferSpec, view: View) -> Form:
        """Returns the form of batches and of frames."""
        tensors = Plan(spec, view).layout(1).tensors
        return cls(buffer, {t.name: (t.dtype.name, t.shape[1:]) for t in tensors})

    @classmethod
    def of_columns(cls, buffer: str, columns: Iterable[Column]) -> Form:
        """Returns the form of whole columns."""
        return cls(buffer, {c.name: (c.dtype.name, c.shape) for c in columns})

    def check(self, shard: Shard, arrays: Arrays) -> Arrays:
        """Returns a shard's arrays, if they have the form.

        Raises:
            InvalidSpecError: they have not.
        """
        looks = {key: (array.dtype.name, array.shape[1:]) for key, array in arrays.items()}
        if looks == self._looks:
            return arrays
        key = min(k for k in looks.keys() | self._looks if looks.get(k) != self._looks.get(k))
        raise InvalidSpecError(
            f"buffer {self._buffer!r} at {shard.name} is not as on the other shards; delete it "
            f"where it is not as it should be: its frames have {_shown(looks.get(key))} as {key!r} "
            f"(elsewhere: {_shown(self._looks.get(key))})"
        )


def _shown(look: _Look | None) -> str:
    return "nothing" if look is None else f"{look[0]} of shape {look[1]}"
