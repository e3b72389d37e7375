"""What tests of reads from the server's files share: episodes, a server that is stopped, a fork."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.support import ServerProcess


def episode(frames: int) -> dict[str, Any]:
    return {"state": np.zeros((frames, 2)), "reward": np.arange(frames, dtype=np.float32)}


def stopped(server: ServerProcess) -> Any:
    """A context in which the server answers nothing."""

    class Stopped:
        def __enter__(self) -> None:
            server.signal(signal.SIGSTOP)

        def __exit__(self, *_: object) -> None:
            server.signal(signal.SIGCONT)

    return Stopped()


def in_fork(work: Callable[[], Any]) -> Any:
    """Returns what `work` returns in a forked process, or the text of its error."""

    def tell() -> None:
        try:
            ours.send(work())
        except BaseException as error:
            ours.send(repr(error))

    context = multiprocessing.get_context("fork")
    theirs, ours = context.Pipe(duplex=False)
    process = context.Process(target=tell)
    process.start()
    answer = theirs.recv()
    process.join()
    return answer
