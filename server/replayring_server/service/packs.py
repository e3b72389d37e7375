"""Packs over a call: sending one in pieces, receiving one into memory reserved up front."""

from __future__ import annotations

from collections.abc import Callable

from replayring_proto.errors import MalformedMessageError
from replayring_proto.framing import Frame, encode_pack
from replayring_proto.limits import check_limit
from replayring_proto.pack import Pack, PackAssembler, PackLayout, parse_header
from replayring_server.service.budget import Budget
from replayring_server.service.calls import Call


async def send_pack(call: Call, pack: Pack, rest: bytes = b"") -> None:
    """Writes a pack; the first message also has the encoded fields `rest`."""
    call.begin_pack()
    for message in encode_pack(pack, rest):
        await call.write(message)


class PackReceiver:
    """Receives packs one after another from the messages of a call. Not thread-safe."""

    def __init__(self, call: Call, budget: Budget, max_bytes: int, what: str) -> None:
        """Prepares for packs of `what` (for messages) with bodies of at most `max_bytes`."""
        self._call = call
        self._budget = budget
        self._max_bytes = max_bytes
        self._what = what
        self._assembler: PackAssembler | None = None

    @property
    def is_filling(self) -> bool:
        """Whether a pack has begun and is not complete."""
        return self._assembler is not None

    async def add(
        self, frame: Frame, cost: Callable[[PackLayout], int] = lambda layout: layout.nbytes
    ) -> Pack | None:
        """Takes the pack's part of a message; where a pack begins, waits for memory to hold it.

        Args:
            frame: the message.
            cost: returns the bytes that a pack of some layout takes until it is dealt with.

        Returns:
            The pack, when this completes it; the call goes on holding memory for it. Its bool
            tensors are not checked yet.

        Raises:
            MalformedMessageError: a header or bytes came where none are due.
            LimitExceededError: the announced body is too large; nothing was allocated.
        """
        if frame.header is not None:
            await self._begin(frame.header, cost)
        if self._assembler is None:
            if frame.data:
                raise MalformedMessageError(f"bytes of {self._what} came before its pack header")
            return None
        self._assembler.add(frame.data)
        if not self._assembler.complete:
            return None
        pack, self._assembler = self._assembler.pack, None
        return pack

    def finish(self) -> None:
        """Checks that no pack was left incomplete when the peer stopped sending.

        Raises:
            MalformedMessageError: one was.
        """
        if self.is_filling:
            raise MalformedMessageError(f"the call ended in the middle of {self._what}")

    async def _begin(self, header: bytes, cost: Callable[[PackLayout], int]) -> None:
        if self._assembler is not None:
            raise MalformedMessageError(
                f"a pack header came before the {self._what} before it was complete"
            )
        layout = parse_header(header)
        remedy = "split it into smaller ones"
        check_limit(layout.nbytes, self._max_bytes, f"bytes of {self._what}", remedy)
        nbytes = cost(layout)
        check_limit(nbytes, self._budget.nbytes, f"bytes needed to store {self._what}", remedy)
        await self._call.take(self._budget, nbytes)
        self._assembler = PackAssembler(layout)
