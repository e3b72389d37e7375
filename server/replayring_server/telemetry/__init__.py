"""What a server tells those who watch it, in the forms that they read: Prometheus, OpenTelemetry.

`families` names every metric once; each exporter is a module of its own, imported only where it is
asked for, since it needs a library of an extra. Nothing else of the server knows of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_PATIENCE_S = 10.0


def from_other_threads(ask: Callable[[], T]) -> Callable[[], T]:
    """Returns what has `ask` called on the running event loop, and waits for its answer.

    What it returns raises `TimeoutError` where the loop does not come to it within 10 s.
    """
    loop = asyncio.get_running_loop()

    async def answer() -> T:
        return ask()

    return lambda: asyncio.run_coroutine_threadsafe(answer(), loop).result(_PATIENCE_S)
