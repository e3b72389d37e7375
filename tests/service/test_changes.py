"""Waiting for changes: none is missed, many at once are looked at once, nothing is kept."""

from __future__ import annotations

import asyncio

from replayring_server.service import changes
from replayring_server.service.changes import Changes


def test_change_between_looking_and_waiting_is_not_missed() -> None:
    async def run() -> None:
        watched = Changes()
        with watched.watch("a") as watch:
            watched.notify("b")
            watched.notify("a")
            await watch.change()
            later = asyncio.create_task(watch.change())
            await asyncio.sleep(0)
            assert not later.done()
            watched.notify("a")
            await later

    asyncio.run(run())


def test_many_changes_are_looked_at_no_more_often_than_worth_it() -> None:
    looks = 0

    async def run() -> None:
        nonlocal looks
        watched, loop = Changes(), asyncio.get_running_loop()
        with watched.watch("a") as watch:
            begun = last = loop.time()
            while last - begun < 4 * changes._PAUSE_S:
                notifying = asyncio.create_task(busy(watched))
                await watch.change()
                notifying.cancel()
                assert loop.time() - last >= 0.9 * changes._PAUSE_S
                looks, last = looks + 1, loop.time()

    async def busy(watched: Changes) -> None:
        while True:
            watched.notify("a")
            await asyncio.sleep(0)

    asyncio.run(run())
    assert 1 <= looks <= 5


def test_nothing_is_kept_of_what_nobody_watches() -> None:
    async def run() -> None:
        watched = Changes()
        with watched.watch("a"):
            with watched.watch("a") as other:
                watched.notify("a")
                await other.change()
            assert watched._watches
        watched.notify("b")
        assert not watched._watches

    asyncio.run(run())
