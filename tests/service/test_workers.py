"""The threads for engine calls: what becomes of calls when the server ends."""

from __future__ import annotations

import asyncio
import threading

import pytest

from replayring_server.service.workers import Lane, Workers


def test_close_finishes_what_has_begun_and_drops_what_waits() -> None:
    done: list[str] = []

    async def main() -> None:
        workers, began, go = Workers(), threading.Event(), threading.Event()

        def first() -> None:
            began.set()
            go.wait(60)
            done.append("begun")

        assert Lane.PUBLISH.value[0] == 1  # thread, so the second waits for the first
        running = asyncio.create_task(workers.run(Lane.PUBLISH, first))
        waiting = asyncio.create_task(workers.run(Lane.PUBLISH, lambda: done.append("waiting")))
        await asyncio.to_thread(began.wait, 60)
        closing = asyncio.create_task(asyncio.to_thread(workers.close))
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(waiting, 10)
        go.set()
        await running
        await closing

    asyncio.run(main())
    assert done == ["begun"]
