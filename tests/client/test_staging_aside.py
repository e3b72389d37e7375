"""Large batches that are made when they are asked for: a thread makes them ahead."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import CodeType
from typing import Any

import pytest
import torch

from replayring._batch import Batch
from replayring._device import CpuLink, Sent
from replayring._staging import Staging
from replayring_proto.errors import ClosedError, DeadlineError
from tests.client.scripted_streams import ScriptedStream, same
from tests.client.staged import LateLink, batch
from tests.client.stepping import AtStep, named
from tests.support import eventually

pytest_plugins = ["tests.client.staged_fixtures"]


def done(stage: Staging) -> None:
    """Waits until the thread has done what it was told to do."""
    eventually(lambda: not any(making.empty() for making in stage._making), "batches are made")


@pytest.mark.parametrize("rows", [4, 1 << 18])
@pytest.mark.parametrize("in_background", [False, True])
def test_large_batches_that_are_made_when_asked_for_are_made_aside(
    staging: Any, monkeypatch: pytest.MonkeyPatch, rows: int, in_background: bool
) -> None:
    monkeypatch.setattr(ScriptedStream, "_in_background", in_background)
    stage, stream = staging(LateLink(), *(batch(number, rows) for number in range(12)))
    polled_by: list[str] = []
    poll = stream._poll

    def noted() -> Batch | None:
        polled_by.append(threading.current_thread().name)
        found: Batch | None = poll()
        return found

    stream._poll = noted
    for number in range(12):
        tensors, next_index = stage.take()
        assert same(tensors, batch(number, rows))
        assert next_index == number + 1
    stream.add(DeadlineError("none came"))
    with pytest.raises(DeadlineError):
        stage.take()
    aside = rows > 4 and not in_background
    assert all(name.startswith("replayring staging") == aside for name in polled_by[:11])
    stage.close()
    assert not threads_aside()


def test_what_the_thread_has_made_is_copied_while_the_learner_computes(staging: Any) -> None:
    """And that by the learner's thread: what others ask of CUDA may be in its way."""
    link = LateLink()
    senders: set[str] = set()
    send = link.send

    def noted(block: torch.Tensor) -> Sent:
        senders.add(threading.current_thread().name)
        return send(block)

    link.send = noted  # type: ignore[method-assign]
    stage, stream = staging(link, *(batch(number, 1 << 18) for number in range(12)))
    stage.take()
    for taken in range(1, 9):
        done(stage)  # the learner computes for as long
        assert stream.given <= taken + 2
        stage.take()
        assert len(link.sent) == taken + 2  # the one taken, and the next one
    assert senders == {threading.current_thread().name}


def test_who_waits_for_the_thread_is_told_of_closing(staging: Any) -> None:
    """Also where the thread has not begun with what it was told to do."""
    rows = 1 << 18
    stage, _ = staging(CpuLink(), *(batch(number, rows) for number in range(5)))
    stage.take()
    busy = threading.Event()
    done(stage)
    stage._aside.begin(lambda: busy.wait(30))
    stage.take()
    stage.take()  # and the next one has to wait for the thread
    with ThreadPoolExecutor(2) as threads:
        waiting = threads.submit(stage.take)
        eventually(lambda: len(stage._making) == 1, "it waits for the next one")
        threads.submit(stage.close)
        eventually(lambda: stage._closed and not stage._making, "it is being closed")
        busy.set()
        with pytest.raises(ClosedError):
            waiting.result(30)


def threads_aside() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("replayring staging")]


def test_the_thread_ends_wherever_ctrl_c_meets_who_takes_batches(staging: Any) -> None:
    """At every step of Python's own modules, too, which take locks in several."""
    for number in itertools.count():
        stage, _ = staging(CpuLink(), *(batch(number, 1 << 18) for number in range(5)))
        stage.take()
        done(stage)
        with suppress(KeyboardInterrupt), AtStep(number, in_threading, interrupt) as ctrl_c:
            for _ in range(3):
                stage.take()
        stage.close()
        eventually(lambda: not threads_aside(), "the thread's end", 3)
        if not ctrl_c.reached:
            break


def in_threading(code: CodeType) -> bool:
    return "/threading.py" in code.co_filename


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("step", ["_prepare", "_next"])
def test_wherever_ctrl_c_meets_who_takes_batches_staging_goes_on(staging: Any, step: str) -> None:
    for number in itertools.count():
        stage, _ = staging(CpuLink(), *map(batch, range(6)))
        with suppress(KeyboardInterrupt), AtStep(number, named(step), interrupt) as ctrl_c:
            stage.take()
        stage.take()
        stage.take()
        assert stage._ahead is not None, number
        if not ctrl_c.reached:
            break
    assert number > 10


def test_no_thread_is_amid_torchs_code_when_the_interpreter_ends(staging: Any) -> None:
    """It would abort the process; what is still open is closed just before, and waits for it."""
    stage, _ = staging(CpuLink(), *(batch(number, 1 << 18) for number in range(5)))
    stage.take()
    (thread,) = threads_aside()
    stage._aside.begin(lambda: threading.Event().wait(0.1))  # that long does it take
    stage.close()
    assert not thread.is_alive()
