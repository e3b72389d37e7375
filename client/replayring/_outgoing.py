"""An episode on its way: its bytes as the messages that carry it, copied once from the caller's."""

from __future__ import annotations

from dataclasses import dataclass

from replayring._replies import Arrays
from replayring_proto.framing import decode_frame, encode_arrays
from replayring_proto.pack import Pack, PackAssembler, PackLayout, layout_of


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An episode on its way.

    Attributes:
        sequence: its number among its writer's.
        layout: its columns.
        messages: what carries it; its sequence goes before the first, which is small or alone.
    """

    sequence: int
    layout: PackLayout
    messages: tuple[bytes, ...]

    @classmethod
    def of(cls, sequence: int, arrays: Arrays) -> Outgoing:
        """Copies an episode, whose columns are in the spec's dtypes."""
        layout = layout_of(arrays)
        return cls(sequence, layout, encode_arrays(layout, arrays))

    def numbered(self, sequence: int) -> Outgoing:
        """Returns it with another sequence."""
        return Outgoing(sequence, self.layout, self.messages)

    @property
    def nbytes(self) -> int:
        """Bytes of its columns."""
        return self.layout.tensor_bytes

    def packed(self) -> Pack:
        """Returns a copy of it, as a pack."""
        assembler = PackAssembler(self.layout)
        for message in self.messages:
            assembler.add(decode_frame(message).data)
        return assembler.pack
