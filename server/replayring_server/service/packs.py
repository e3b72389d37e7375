"""Packs over a call: sending one in pieces, receiving one into memory reserved up front."""

from __future__ import annotations

from replayring_proto.errors import MalformedMessageError
from replayring_proto.framing import Frame, encode_pack
from replayring_proto.limits import check_limit
from replayring_proto.pack import Pack, PackAssembler, check_bools, parse_header
from replayring_server.service.boundary import Context


async def send_pack(context: Context, pack: Pack, rest: bytes = b"") -> None:
    """Writes a pack; the first message also has the encoded fields `rest`."""
    for message in encode_pack(pack, rest):
        await context.write(message)


class PackReceiver:
    """Receives packs one after another from the messages of a call. Not thread-safe."""

    def __init__(self, max_bytes: int, what: str) -> None:
        """Prepares for packs of `what` (for messages) with bodies of at most `max_bytes`."""
        self._max_bytes = max_bytes
        self._what = what
        self._assembler: PackAssembler | None = None

    def add(self, frame: Frame) -> Pack | None:
        """Takes the pack's part of a message; returns the pack when that completes it.

        Raises:
            MalformedMessageError: a header or bytes came where none are due, or bad bool bytes.
            LimitExceededError: the announced body is too large; nothing was allocated.
        """
        if frame.header is not None:
            self._begin(frame.header)
        if self._assembler is None:
            if frame.data:
                raise MalformedMessageError(f"bytes of {self._what} came before its pack header")
            return None
        self._assembler.add(frame.data)
        if not self._assembler.complete:
            return None
        pack, self._assembler = self._assembler.pack, None
        check_bools(pack.arrays)
        return pack

    def is_filling(self) -> bool:
        """Returns whether a pack has begun and is not complete."""
        return self._assembler is not None

    def finish(self) -> None:
        """Checks that no pack was left incomplete when the peer stopped sending.

        Raises:
            MalformedMessageError: one was.
        """
        if self._assembler is not None:
            raise MalformedMessageError(f"the call ended in the middle of {self._what}")

    def _begin(self, header: bytes) -> None:
        if self._assembler is not None:
            raise MalformedMessageError(
                f"a pack header came before the {self._what} before it was complete"
            )
        layout = parse_header(header)
        check_limit(
            layout.nbytes, self._max_bytes, f"bytes of {self._what}", "split it into smaller ones"
        )
        self._assembler = PackAssembler(layout)
