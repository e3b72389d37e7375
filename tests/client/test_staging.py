"""Bringing batches to a device: order, bounds, memory used again only when it is free, ends."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from replayring._blocks import block_bytes, fill, layout_of, tensors_in
from replayring._device import CpuLink, Link, Staging
from replayring_proto.errors import ClosedError, DeadlineError
from replayring_proto.spec import DTYPES
from tests.support import eventually

Arrays = dict[str, np.ndarray]

_POISON = 0xA5


class LateCopy:
    """A copy that is not made before somebody waits for it, as a device may be that late."""

    def __init__(self, source: torch.Tensor, target: torch.Tensor) -> None:
        self._source, self._target = source, target
        self._made = False
        self._lock = threading.Lock()

    def synchronize(self) -> None:
        with self._lock:
            if not self._made:
                self._target.copy_(self._source)
                self._made = True


class LateLink(Link):
    """A device whose copies come as late as they may, and whose fresh memory is poisoned."""

    def __init__(self) -> None:
        self.staged: list[torch.Tensor] = []
        self.sent: list[LateCopy] = []

    def stage(self, nbytes: int) -> torch.Tensor:
        self.staged.append(torch.full((nbytes,), _POISON, dtype=torch.uint8))
        return self.staged[-1]

    def send(self, staged: torch.Tensor) -> tuple[torch.Tensor, LateCopy]:
        block = torch.full_like(staged, _POISON)
        self.sent.append(LateCopy(staged, block))
        return block, self.sent[-1]

    def receive(self, block: torch.Tensor, event: Any) -> None:
        event.synchronize()


class Source:
    """Gives what it is told to, when it is told to."""

    def __init__(self, *steps: Any) -> None:
        self.steps = deque(steps)
        self.given = 0
        self.closed = False
        self._changed = threading.Condition()

    def add(self, *steps: Any) -> None:
        with self._changed:
            self.steps.extend(steps)
            self._changed.notify_all()

    def take(self) -> tuple[Arrays, int]:
        with self._changed:
            assert self._changed.wait_for(lambda: self.steps or self.closed, 60)
            if self.closed:
                raise ClosedError("the stream was closed")
            step = self.steps.popleft()
            self.given += 1
        if isinstance(step, Exception):
            raise step
        return step, self.given

    def close(self) -> None:
        with self._changed:
            self.closed = True
            self._changed.notify_all()


@pytest.fixture
def staging() -> Iterator[Any]:
    """Makes stages, and sees that their threads are gone in the end."""
    made: list[Staging] = []

    def make(source: Source, link: Link, depth: int = 2, timeout: float = 30.0) -> Staging:
        made.append(Staging(source.take, source.close, link, depth=depth, timeout=timeout))
        return made[-1]

    yield make
    for one in made:
        one.close()
        assert not one._thread.is_alive()


def batch(number: int, rows: int = 4) -> Arrays:
    values = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3) + number
    return {"x": values, "done": np.arange(rows) % 2 == number % 2, "n": np.full(rows, number)}


def same(tensors: dict[str, torch.Tensor], arrays: Arrays) -> bool:
    return tensors.keys() == arrays.keys() and all(
        np.array_equal(tensors[key].numpy(), arrays[key]) for key in arrays
    )


@pytest.mark.parametrize("link", [CpuLink, LateLink])
def test_batches_come_in_order_and_whole(staging: Any, link: Any) -> None:
    stage = staging(Source(*map(batch, range(30))), link())
    for number in range(30):
        tensors, next_index = stage.take()
        assert same(tensors, batch(number))
        assert next_index == number + 1


def test_the_garbage_collector_may_close_it_in_its_own_thread(staging: Any) -> None:
    """An iterator in a cycle is let go wherever the collector runs, with whatever lock held."""

    class Closing(deque[Any]):
        def __len__(self) -> int:  # asked with the lock held
            if threading.current_thread() is stage._thread:
                stage.close()
            return super().__len__()

    source = Source(batch(0))
    stage = staging(source, CpuLink(), depth=1)
    eventually(lambda: len(stage._ready) == 1, "a batch")
    with stage._lock:
        stage._ready = Closing(stage._ready)
    stage.take()
    eventually(lambda: not stage._thread.is_alive(), "the thread's end")
    with pytest.raises(ClosedError):
        stage.take()


def test_memory_is_used_again_only_when_its_copy_has_ended(staging: Any) -> None:
    """Here nobody waits for a copy but who must: the stage before it fills the memory again."""
    link = LateLink()
    stage = staging(Source(*map(batch, range(30))), link, depth=12)
    eventually(lambda: len(link.sent) >= 12, "twelve copies begun")
    for number in range(30):
        assert same(stage.take()[0], batch(number))
    assert len(link.staged) == 2  # and those are all there are


def test_batches_that_are_kept_stay_as_they_are(staging: Any) -> None:
    stage = staging(Source(*map(batch, range(20))), CpuLink())
    kept = [stage.take()[0] for _ in range(20)]
    assert all(same(tensors, batch(number)) for number, tensors in enumerate(kept))


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_no_more_are_fetched_than_wanted(staging: Any, depth: int) -> None:
    source = Source(*map(batch, range(20)))
    stage = staging(source, LateLink(), depth=depth)
    for taken in range(5):
        eventually(lambda: source.given == depth + taken, "the stage is full")  # noqa: B023
        assert len(stage._ready) <= depth
        stage.take()


def test_sizes_change(staging: Any) -> None:
    sizes = [4, 400, 3, 4000, 1]
    stage = staging(Source(*(batch(size, size) for size in sizes)), LateLink())
    assert all(same(stage.take()[0], batch(size, size)) for size in sizes)


def test_errors_come_in_their_place_and_the_stage_goes_on(staging: Any) -> None:
    stage = staging(Source(batch(0), ValueError("odd"), batch(1)), CpuLink())
    assert same(stage.take()[0], batch(0))
    with pytest.raises(ValueError, match="odd"):
        stage.take()
    assert same(stage.take()[0], batch(1))


def test_an_error_of_the_device_is_told(staging: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(CpuLink, "send", fail)
        source = Source(batch(0))
        stage = staging(source, CpuLink())
        with pytest.raises(RuntimeError, match="out of memory"):
            stage.take()
    source.add(batch(1))
    assert same(stage.take()[0], batch(1))


def test_that_nothing_came_is_told_to_who_waited_all_that_time(staging: Any) -> None:
    source = Source(DeadlineError("before anybody asked"))
    stage = staging(source, CpuLink(), timeout=0.05)
    eventually(lambda: stage._trouble, "the source gave up once")
    with pytest.raises(DeadlineError):
        stage.take()
    source.add(batch(1))
    assert same(stage.take()[0], batch(1))
    assert stage._trouble is None
    source.add(DeadlineError("while nobody waited"), batch(2))
    eventually(lambda: source.given == 4, "the stage went on by itself")
    assert same(stage.take()[0], batch(2))


def test_closing_wakes_who_waits(staging: Any) -> None:
    stage = staging(Source(), CpuLink())
    failures: list[Exception] = []
    waiting = threading.Event()

    def wait() -> None:
        waiting.set()
        try:
            stage.take()
        except ClosedError as error:
            failures.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert waiting.wait(20)
    stage.close()
    thread.join(20)
    assert len(failures) == 1
    with pytest.raises(ClosedError):
        stage.take()
    stage.close()


def test_a_full_stage_closes(staging: Any) -> None:
    source = Source(*map(batch, range(9)))
    stage = staging(source, CpuLink())
    eventually(lambda: len(stage._ready) == 2, "it is full")
    stage.close()
    assert source.closed
    assert not stage._ready


def test_a_forked_child_is_told(staging: Any) -> None:
    stage = staging(Source(batch(0)), CpuLink())
    child = os.fork()
    if not child:
        try:
            stage.close()  # which is the parent's
            stage.take()
        except ClosedError:
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert same(stage.take()[0], batch(0))


def test_nothing_is_kept_of_a_batch_that_was_taken(staging: Any) -> None:
    stage = staging(Source(batch(0)), CpuLink())
    tensors, _ = stage.take()
    gone = weakref.ref(tensors["x"])
    del tensors
    gc.collect()
    assert gone() is None


# Blocks


@pytest.mark.parametrize("name", DTYPES)
def test_any_dtype_in_a_block(name: str) -> None:
    arrays = {
        "odd": np.arange(3, dtype=np.uint8),
        "scalars": np.arange(5).astype(DTYPES[name]),
        "matrices": np.arange(30).reshape(5, 3, 2).astype(DTYPES[name]),
        "none": np.zeros((0, 3), DTYPES[name]),
        "turned": np.arange(12).reshape(3, 4).astype(DTYPES[name]).T,
    }
    layout = layout_of(arrays)
    assert layout_of({key: array.copy() for key, array in arrays.items()}) is layout
    block = torch.empty(block_bytes(layout), dtype=torch.uint8)
    fill(layout, arrays, block.numpy())
    tensors = tensors_in(layout, block)
    assert same(tensors, arrays)
    assert all(tensor.is_contiguous() for tensor in tensors.values())
    tensors["scalars"].zero_()
    assert same(tensors_in(layout, block), {**arrays, "scalars": np.zeros(5, DTYPES[name])})
