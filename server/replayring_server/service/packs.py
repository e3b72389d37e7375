"""Packs over a call: sending one in pieces, receiving one into memory reserved up front."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from replayring_proto.errors import MalformedMessageError
from replayring_proto.framing import Frame, encode_pack
from replayring_proto.limits import ServerLimits, check_limit
from replayring_proto.pack import Pack, PackLayout, parse_header
from replayring_server.service.budget import Budget
from replayring_server.service.calls import Call

_REMEDY = "split it into smaller ones"

Received = TypeVar("Received", covariant=True)


async def send_pack(call: Call, pack: Pack, rest: bytes = b"") -> None:
    """Writes a pack; the first message also has the encoded fields `rest`."""
    call.begin_pack()
    for message in encode_pack(pack, rest):
        await call.write(message)


class Assembler(Protocol[Received]):
    """Takes the body of one pack piece by piece; afterwards it has the pack, in some form."""

    def add(self, piece: memoryview, /) -> None:
        """Appends the next bytes of the body.

        Raises:
            MalformedMessageError: more came than the header announced.
        """

    @property
    def complete(self) -> bool:
        """Whether the whole body is there."""

    @property
    def pack(self) -> Received:
        """The pack, once it is complete."""


class PackReceiver(Generic[Received]):
    """Receives packs one after another from the messages of a call. Not thread-safe."""

    def __init__(
        self,
        call: Call,
        budget: Budget,
        limits: ServerLimits,
        limit: str,
        what: str,
        begin: Callable[[PackLayout], Assembler[Received]],
    ) -> None:
        """Prepares for packs.

        Args:
            call: what they come by.
            budget: the memory to hold them.
            limits: the server's.
            limit: the name of the one among them that says how many bytes a body may have.
            what: what they are, for messages.
            begin: makes an assembler for one.
        """
        self._call = call
        self._budget = budget
        self._limit = limit
        self._max_bytes: int = getattr(limits, limit)
        self._what = what
        self._begin = begin
        self._assembler: Assembler[Received] | None = None

    @property
    def is_filling(self) -> bool:
        """Whether a pack has begun and is not complete."""
        return self._assembler is not None

    async def add(
        self, frame: Frame, cost: Callable[[PackLayout], int] = lambda layout: layout.nbytes
    ) -> Received | None:
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
            layout = self._announced(frame.header)
            await self._reserve(cost(layout))
            self._assembler = self._begin(layout)
        if self._assembler is None:
            if frame.data:
                raise MalformedMessageError(f"bytes of {self._what} came before its pack header")
            return None
        self._assembler.add(frame.data)
        if not self._assembler.complete:
            return None
        pack, self._assembler = self._assembler.pack, None
        return pack

    async def whole(
        self, frames: Sequence[Frame], cost: Callable[[PackLayout], int]
    ) -> list[PackLayout]:
        """Returns the layouts of packs that came whole in one message; waits for room for all.

        Args:
            frames: the packs.
            cost: as for `add`.

        Raises:
            MalformedMessageError: one has no header, or a body of another length.
            LimitExceededError: one is too large, or all of them are; nothing was allocated.
        """
        layouts = [self._announced(frame.header or b"") for frame in frames]
        for frame, layout in zip(frames, layouts, strict=True):
            if frame.header is None or len(frame.data) != layout.nbytes:
                raise MalformedMessageError(
                    f"{self._what} in a shared message must be whole: {layout.nbytes:,} bytes by "
                    f"its header, but {len(frame.data):,} came"
                )
        costs = {layout: cost(layout) for layout in set(layouts)}  # which is often just one
        await self._reserve(sum(costs[layout] for layout in layouts))
        return layouts

    def finish(self) -> None:
        """Checks that no pack was left incomplete when the peer stopped sending.

        Raises:
            MalformedMessageError: one was.
        """
        if self.is_filling:
            raise MalformedMessageError(f"the call ended in the middle of {self._what}")

    def _announced(self, header: bytes) -> PackLayout:
        """Returns the layout of a pack that begins here, if it may."""
        if self._assembler is not None:
            raise MalformedMessageError(
                f"a pack header came in the middle of {self._what}; send all of its body first"
            )
        layout = parse_header(header)
        check_limit(layout.nbytes, self._max_bytes, f"bytes of {self._what}", _REMEDY, self._limit)
        return layout

    async def _reserve(self, nbytes: int) -> None:
        what = f"bytes needed to store {self._what}"
        check_limit(nbytes, self._budget.nbytes, what, _REMEDY, "max_staging_bytes")
        await self._call.take(self._budget, nbytes)
