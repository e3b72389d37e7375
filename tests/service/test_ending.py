"""A call that is ended from outside: where it waits at once, amid a reply when that is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from replayring_proto.errors import ServerUnavailableError
from replayring_server.service.ending import Ending
from tests.support import PATIENCE

WHY = ServerUnavailableError("so it is")


class Peer:
    """Takes a reply when it is let."""

    def __init__(self) -> None:
        self.begun, self.taking = asyncio.Event(), asyncio.Event()

    async def write(self, _: object) -> None:
        self.begun.set()
        await self.taking.wait()


async def answered(endings: list[Ending], peer: Peer) -> None:
    """A handler: sends a reply, then waits for more to do."""
    endings.append(Ending())
    await endings[0].write(peer, b"a reply")
    endings[0].check()
    await asyncio.Event().wait()


def run(scene: Callable[[list[Ending], Peer, asyncio.Future[None]], Awaitable[None]]) -> None:
    async def staged() -> None:
        endings: list[Ending] = []
        peer = Peer()
        answering = asyncio.ensure_future(answered(endings, peer))
        await peer.begun.wait()
        await scene(endings, peer, answering)

    async def bounded() -> None:
        await asyncio.wait_for(staged(), PATIENCE)

    asyncio.run(bounded())


def test_amid_a_reply_it_ends_gently_once_that_is_sent() -> None:
    """Before that gRPC takes no status: a call that was cancelled there never ended."""

    async def scene(endings: list[Ending], peer: Peer, answering: asyncio.Future[None]) -> None:
        endings[0].gently(WHY)
        peer.taking.set()
        with pytest.raises(ServerUnavailableError, match="so it is"):
            await answering
        assert endings[0].reason is None  # its handler was told, and nothing was cancelled

    run(scene)


def test_amid_a_reply_that_nobody_takes_it_can_be_ended_at_once() -> None:
    async def scene(endings: list[Ending], _: Peer, answering: asyncio.Future[None]) -> None:
        endings[0].gently(WHY)
        endings[0].now(WHY)
        with pytest.raises(asyncio.CancelledError):
            await answering
        assert endings[0].reason is WHY

    run(scene)


def test_where_it_waits_it_ends_gently_at_once_and_for_the_first_reason() -> None:
    async def scene(endings: list[Ending], peer: Peer, answering: asyncio.Future[None]) -> None:
        peer.taking.set()
        await asyncio.sleep(0)  # a turn, in which the reply is sent
        endings[0].gently(WHY)
        endings[0].gently(ServerUnavailableError("another"))
        with pytest.raises(asyncio.CancelledError):
            await answering
        assert endings[0].reason is WHY

    run(scene)
