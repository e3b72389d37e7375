"""A budget of bytes: first come, first served, and all of it comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

from replayring_server.service.budget import Budget, Hold


def on_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    @wraps(test)
    def run() -> None:
        asyncio.run(test())

    return run


async def waiting(budget: Budget, nbytes: int) -> asyncio.Task[Hold]:
    """Asks for memory, and lets that come as far as it does by itself."""
    task = asyncio.create_task(budget.take(nbytes))
    await asyncio.sleep(0)
    return task


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@on_a_loop
async def test_what_fits_is_given_at_once_and_comes_back_once() -> None:
    budget = Budget(10)
    one, other = await budget.take(4), await budget.take(6)
    assert (budget.free, budget.missing) == (0, 0)
    one.release()
    one.release()
    assert budget.free == 4
    other.release()
    assert budget.free == 10


@on_a_loop
async def test_nobody_overtakes() -> None:
    budget = Budget(10)
    hold = await budget.take(7)
    large, small = await waiting(budget, 8), await waiting(budget, 1)
    assert (budget.missing, large.done(), small.done()) == (5, False, False)
    hold.release()
    await settle()
    assert large.done()
    assert small.done()
    assert budget.free == 1
    later = await waiting(budget, 2)
    large.result().release()
    await settle()
    assert later.done()
    assert budget.free == 7


@on_a_loop
async def test_one_who_gives_up_lets_the_next_one_in() -> None:
    budget = Budget(10)
    hold = await budget.take(7)
    large, small = await waiting(budget, 8), await waiting(budget, 3)
    large.cancel()
    await settle()
    assert small.done()
    assert budget.missing == 0
    hold.release()
    small.result().release()
    assert budget.free == 10


@on_a_loop
async def test_memory_that_comes_back_as_one_gives_up_goes_to_the_next() -> None:
    """The one who gave up has not got to run yet, and still stands in the queue."""
    budget = Budget(10)
    hold = await budget.take(10)
    first, second = await waiting(budget, 6), await waiting(budget, 5)
    first.cancel()
    hold.release()
    await settle()
    assert first.cancelled()
    assert second.done()
    assert (budget.free, budget.waiting) == (5, 0)


@on_a_loop
async def test_one_who_gives_up_as_his_turn_comes_keeps_nothing() -> None:
    budget = Budget(10)
    hold = await budget.take(10)
    task = await waiting(budget, 4)
    hold.release()
    task.cancel()
    await settle()
    assert task.cancelled()
    assert budget.free == 10
