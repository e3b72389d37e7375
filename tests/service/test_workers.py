"""The threads for engine calls: what becomes of calls at the end, and whose turn it is before."""

from __future__ import annotations

import asyncio
import threading
import weakref
from functools import partial

import pytest

from replayring_proto.errors import ServerUnavailableError
from replayring_server.service import workers as module
from replayring_server.service.workers import Lane, Workers
from tests.support import PATIENCE


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


@pytest.mark.parametrize("adding", [True, False])
def test_large_batches_are_drawn_on_the_loop_only_while_nobody_adds(
    adding: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LATELY_S", 60.0)

    async def main() -> None:
        workers, here = Workers(), threading.get_ident()
        if adding:
            await workers.change(Lane.APPEND, lambda: None, then=lambda: None)
        for nbytes, inline in ((1 << 20, True), (2 << 20, not adding), ((2 << 20) + 1, False)):
            at = await workers.run(Lane.READ, threading.get_ident, nbytes)
            assert (at == here) is inline, nbytes
        workers.close()

    asyncio.run(main())


def turns_during_give_way(reading: bool, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many turns the event loop has had when a thread goes on that gave way to it."""
    monkeypatch.setattr(module, "_LATELY_S", 60.0)
    monkeypatch.setattr(module, "_LONGEST_TURNS_S", 60.0)
    turns, seen = 0, -1

    async def main() -> None:
        nonlocal turns, seen
        workers, loop = Workers(), asyncio.get_running_loop()
        gone_on = threading.Event()

        def append() -> None:
            nonlocal seen
            workers.give_way(loop)
            seen = turns
            gone_on.set()

        if reading:
            await workers.run(Lane.READ, lambda: None, 1)
        appending = asyncio.create_task(workers.run(Lane.APPEND, append))
        while not gone_on.is_set():
            turns += 1
            await asyncio.sleep(0)
        await appending
        workers.close()

    asyncio.run(main())
    return seen


def test_a_long_call_gives_way_for_as_many_turns_as_a_batch_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_TURNS", 500)
    assert turns_during_give_way(True, monkeypatch) >= 500


def test_a_long_call_goes_on_at_once_when_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop would have to have 10^9 turns before it went on."""
    monkeypatch.setattr(module, "_TURNS", 10**9)
    assert turns_during_give_way(False, monkeypatch) >= 0


def test_a_long_call_does_not_wait_for_ever_for_a_loop_that_is_busy() -> None:
    """Nor at the end, when the loop waits for the threads."""

    async def main() -> None:
        workers, loop = Workers(), asyncio.get_running_loop()
        await workers.run(Lane.READ, lambda: None, 1)
        appending = threading.Thread(target=workers.give_way, args=(loop,))
        appending.start()
        appending.join(30)
        assert not appending.is_alive()
        workers.close()

    asyncio.run(main())


@pytest.mark.parametrize("reading", [True, False])
def test_who_receives_much_pauses_for_others_while_frames_are_read(
    reading: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LATELY_S", 60.0)
    monkeypatch.setattr(module, "_TURNS_BETWEEN_MESSAGES", 20)
    turns: list[int] = []

    async def count() -> None:
        while True:
            turns.append(1)
            await asyncio.sleep(0)

    async def main() -> None:
        workers = Workers()
        if reading:
            await workers.run(Lane.READ, lambda: None, 1)
        counting = asyncio.create_task(count())
        await workers.pause()
        counting.cancel()
        workers.close()

    asyncio.run(main())
    assert len(turns) == (20 if reading else 0)


def test_what_is_to_follow_a_change_follows_though_no_thread_can_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where the system allows no more of them: memory is given back then, for one."""
    told: list[object] = []

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        workers = Workers()
        episode = Episode()
        held = weakref.ref(episode)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            with pytest.raises(ServerUnavailableError, match=r"can't start new thread.*try again"):
                await workers.change(
                    Lane.APPEND, partial(told.append, episode), then=lambda: told.append("then")
                )
        del episode
        assert held() is None, "it is kept by the queue"
        await workers.change(Lane.APPEND, lambda: None, then=lambda: told.append("later"))
        workers.close()

    asyncio.run(main())
    assert told == ["then", "later"], "what was refused was carried out all the same"


class Episode:
    """What may be large."""


def test_what_another_thread_took_meanwhile_is_not_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was stored, though no thread could be started for it."""
    busy, go, stored = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        busy.set()
        assert go.wait(PATIENCE)

    def second() -> str:
        stored.set()
        return "stored"

    def start(_: threading.Thread) -> None:
        go.set()  # the one thread there is
        assert stored.wait(PATIENCE)
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        workers = Workers()
        running = asyncio.create_task(workers.run(Lane.APPEND, first))
        await asyncio.to_thread(busy.wait, PATIENCE)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            assert await workers.change(Lane.APPEND, second, then=lambda: None) == "stored"
        await running
        workers.close()

    asyncio.run(main())
