"""Page-locked memory in stock: what is had when, and which thread allocates it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from replayring import _page_locked
from replayring._page_locked import Reserve, locked, page_locked

_EMPTY = torch.empty


class System:
    """A system that page-locks memory: which blocks, and for which threads."""

    def __init__(self) -> None:
        self.blocks: list[torch.Tensor] = []
        self.threads: set[int] = set()
        self.fails = False

    def empty(self, *shape: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        made = _EMPTY(*shape, **options)
        if pin_memory:
            if self.fails:
                raise RuntimeError("CUDA error: out of memory")
            self.threads.add(threading.get_ident())
            self.blocks.append(made)
        return made

    def locks(self, block: torch.Tensor) -> bool:
        return any(
            one.untyped_storage().data_ptr() == block.untyped_storage().data_ptr()
            for one in self.blocks
        )


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    made = System()
    monkeypatch.setattr(torch, "empty", made.empty)
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda block: made.locks(block))
    monkeypatch.setattr(_page_locked, "_told", threading.Event())
    return made


def test_there_is_as_much_in_stock_as_is_taken_in_between(system: System) -> None:
    reserve = Reserve()
    assert not system.locks(reserve.take(100))
    reserve.fill()
    assert [system.locks(reserve.take(100)) for _ in range(3)] == [True, False, False]
    reserve.fill()
    for _ in range(4):
        blocks = [reserve.take(100) for _ in range(3)]
        assert all(system.locks(block) and len(block) == 100 for block in blocks)
        assert len({block.data_ptr() for block in blocks}) == 3
        reserve.fill()


def test_what_came_before_the_first_filling_is_no_measure(system: System) -> None:
    """All that is in flight: as much again would lie in stock, for good."""
    reserve = Reserve()
    for _ in range(9):
        reserve.take(100)
    reserve.fill()
    assert len(system.blocks) == 1
    for _ in range(9):
        reserve.take(200)
    reserve.fill()
    assert len(system.blocks) == 2


def test_little_is_taken_of_what_is_larger(system: System) -> None:
    reserve = Reserve()
    reserve.take(300)
    reserve.fill()
    block = reserve.take(64)
    assert system.locks(block)
    assert block.shape == (64,)
    assert block.dtype == torch.uint8


def test_larger_ones_take_the_place_of_smaller_ones(system: System) -> None:
    reserve = Reserve()
    reserve.take(64)
    reserve.fill()
    assert not system.locks(reserve.take(65))
    reserve.fill()
    assert [len(block) for block in system.blocks] == [64, 65]
    assert system.locks(reserve.take(64))
    reserve.fill()
    assert system.locks(reserve.take(65))


def test_nothing_is_allocated_unasked(system: System) -> None:
    reserve = Reserve()
    reserve.fill()
    assert not system.blocks
    reserve.take(64)
    for _ in range(9):
        reserve.fill()
    assert len(system.blocks) == 1


def test_only_who_fills_allocates(system: System) -> None:
    reserve = Reserve()

    def receive(fill: Callable[[], None]) -> None:
        for _ in range(500):
            reserve.take(64)
            fill()

    with ThreadPoolExecutor(3) as threads:
        done = [threads.submit(receive, lambda: None) for _ in range(3)]
        for _ in range(500):
            reserve.fill()
        for one in done:
            one.result(30)
    assert system.threads <= {threading.get_ident()}


def test_where_no_memory_can_be_locked_ordinary_memory_does(
    system: System, caplog: pytest.LogCaptureFixture
) -> None:
    system.fails = True
    for _ in range(3):
        assert page_locked(128).shape == (128,)
    (told,) = caplog.messages
    assert told.startswith("128 bytes could not be page-locked")
    assert told.endswith("lower in_flight or batch_size: CUDA error: out of memory")
    reserve = Reserve()
    reserve.take(128)
    reserve.fill()
    block = reserve.take(128)
    assert locked(block) is block  # nor is it copied to what would be no better


def test_what_came_in_ordinary_memory_is_copied(system: System) -> None:
    block = torch.arange(100, dtype=torch.uint8)
    copy = locked(block)
    assert copy.equal(block)
    assert system.locks(copy)
    assert locked(copy) is copy
