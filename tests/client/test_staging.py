"""Bringing batches to a device: order, memory that is kept until it is copied, errors, ends."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
import torch

from replayring._batch import Batch
from replayring._blocks import in_blocks
from replayring._device import CpuLink, Sent
from replayring._staging import Staging
from replayring_proto.errors import ClosedError, DeadlineError
from replayring_proto.pack import Pack
from tests.client.scripted_streams import ScriptedStream, same
from tests.client.staged import LateCopy, LateLink, batch, together

pytest_plugins = ["tests.client.staged_fixtures"]


def in_threads(count: int, work: Callable[[], None]) -> None:
    """Has so many threads do the same, and waits for them."""
    with ThreadPoolExecutor(count) as threads:
        for done in [threads.submit(work) for _ in range(count)]:
            done.result(30)


@pytest.mark.parametrize("link", [CpuLink, LateLink])
def test_batches_come_in_order_and_whole(staging: Any, link: Any) -> None:
    stage, _ = staging(link(), *map(batch, range(30)))
    for number in range(30):
        tensors, next_index = stage.take()
        assert same(tensors, batch(number))
        assert next_index == number + 1


@pytest.mark.parametrize("link", [CpuLink, LateLink])
def test_batches_that_came_together_are_told_apart(staging: Any, link: Any) -> None:
    stage, _ = staging(link(), together(0, 1, 2), batch(3), together(4, 5))
    for number in range(6):
        assert same(stage.take()[0], batch(number))


def test_what_came_together_is_copied_once(staging: Any) -> None:
    link = LateLink()
    stage, _ = staging(link, together(0, 1, 2), together(3, 4, 5))
    for number in range(3):
        assert len(link.sent) == (0 if number == 0 else 1)
        stage.take()
    assert len(link.sent) == 2  # the batch after is on its way, and the others with it


def test_the_next_one_is_on_its_way_and_no_more(staging: Any) -> None:
    link = LateLink()
    stage, stream = staging(link, *map(batch, range(20)))
    for taken in range(1, 6):
        stage.take()
        assert stream.given == len(link.sent) == taken + 1


def test_what_is_not_there_yet_is_not_waited_for(staging: Any) -> None:
    stage, stream = staging(CpuLink(), batch(0))
    assert same(stage.take()[0], batch(0))
    assert not stream.waiting.is_set()
    stream.add(batch(1))
    assert same(stage.take()[0], batch(1))


def test_memory_is_kept_until_it_is_copied(staging: Any) -> None:
    """Here nothing is copied before it is taken; torch would give the memory to the next pack."""
    stage, stream = staging(LateLink(), *map(batch, range(4)))
    bodies = []
    poll = stream._poll

    def watched() -> Batch | None:
        found = poll()
        if found is not None:
            bodies.append(weakref.ref(found.pack.body))
        return found

    stream._poll = watched
    stage.take()
    gc.collect()
    assert bodies[0]() is not None  # the second's, which nobody has taken
    stage.take()
    stage.take()
    gc.collect()
    assert bodies[0]() is None


def test_memory_there_is_kept_until_it_is_filled(staging: Any) -> None:
    """Whoever let go of it early would have the copy write into what is there next."""
    link = LateLink()
    there = []
    send = link.send

    def noted(block: torch.Tensor) -> Sent:
        sent = send(block)
        there.append(weakref.ref(sent.block))
        return sent

    link.send = noted  # type: ignore[method-assign]
    stage, _ = staging(link, *map(batch, range(3)))
    stage.take()
    stage._ahead = None  # as if nobody ever received it
    gc.collect()
    assert there[1]() is not None
    stage.close()
    gc.collect()
    assert there[1]() is None


def test_a_learner_far_ahead_of_its_device_waits(
    staging: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or all the memory there is would wait to be copied."""
    monkeypatch.setattr(LateLink, "receive", lambda *_: None)
    link = LateLink()
    stage, _ = staging(link, *map(batch, range(50)))
    for _ in range(49):
        stage.take()
        assert sum(not copy.query() for copy in link.sent) <= 8
    assert sum(not copy.query() for copy in link.sent) == 8


def test_closing_waits_for_copies_under_way(staging: Any) -> None:
    """They read memory that is let go then; one of them may be of a batch that is in use."""
    link = LateLink()
    stage, _ = staging(link, *map(batch, range(4)))
    stage.take()
    assert [copy.query() for copy in link.sent] == [True, False]
    stage.close()
    assert all(copy.query() for copy in link.sent)


def test_a_device_that_has_failed_does_not_keep_it_from_closing(
    staging: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: LateCopy) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    stage, stream = staging(LateLink(), *map(batch, range(4)))
    stage.take()
    monkeypatch.setattr(LateCopy, "synchronize", fail)
    stage.close()
    assert stream.closed


def test_batches_that_are_kept_stay_as_they_are(staging: Any) -> None:
    stage, _ = staging(CpuLink(), *map(batch, range(20)))
    kept = [stage.take()[0] for _ in range(20)]
    assert all(same(tensors, batch(number)) for number, tensors in enumerate(kept))


def test_on_the_cpu_nothing_is_copied(staging: Any) -> None:
    stage, stream = staging(CpuLink())
    pack = Pack.of(batch(0), stream.memory)
    stream._draw = lambda: Batch(pack, 1)
    tensors, _ = stage.take()
    pack.arrays["x"][1, 2] = 77
    assert tensors["x"][1, 2] == 77


def test_sizes_change(staging: Any) -> None:
    sizes = [4, 400, 3, 4000, 1]
    stage, _ = staging(LateLink(), *(batch(size, size) for size in sizes))
    assert all(same(stage.take()[0], batch(size, size)) for size in sizes)


def test_errors_come_in_their_place_and_the_stage_goes_on(staging: Any) -> None:
    stage, _ = staging(CpuLink(), batch(0), ValueError("odd"), batch(1))
    assert same(stage.take()[0], batch(0))
    with pytest.raises(ValueError, match="odd"):
        stage.take()
    assert same(stage.take()[0], batch(1))


@pytest.mark.parametrize("ahead", [0, 1])
def test_an_error_of_the_device_is_told(
    staging: Any, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("out of memory")

    stage, stream = staging(CpuLink(), *map(batch, range(ahead)))
    for number in range(ahead):
        assert same(stage.take()[0], batch(number))
    with monkeypatch.context() as patch:
        patch.setattr(CpuLink, "send", fail)
        stream.add(batch(7))
        with pytest.raises(RuntimeError, match="out of memory"):
            stage.take()
    stream.add(batch(8))
    assert same(stage.take()[0], batch(8))


def test_of_what_came_together_the_rest_is_sent_after_an_error(
    staging: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("out of memory")

    stage, _ = staging(CpuLink(), together(0, 1, 2))
    with monkeypatch.context() as patch:
        patch.setattr(CpuLink, "send", fail)
        with pytest.raises(RuntimeError):
            stage.take()
    assert [same(stage.take()[0], batch(number)) for number in (1, 2)] == [True, True]


def test_that_nothing_came_is_told_and_the_stage_goes_on(staging: Any) -> None:
    stage, stream = staging(CpuLink(), DeadlineError("none came"))
    with pytest.raises(DeadlineError):
        stage.take()
    stream.add(batch(1))
    assert same(stage.take()[0], batch(1))


def test_closing_wakes_who_waits(staging: Any) -> None:
    stage, stream = staging(CpuLink())
    failures: list[Exception] = []

    def wait() -> None:
        try:
            stage.take()
        except ClosedError as error:
            failures.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert stream.waiting.wait(20)
    stage.close()
    thread.join(20)
    assert len(failures) == 1
    with pytest.raises(ClosedError):
        stage.take()
    stage.close()


def test_what_was_brought_ahead_is_not_given_after_closing(staging: Any) -> None:
    stage, stream = staging(CpuLink(), *map(batch, range(9)))
    stage.take()
    stage.close()
    assert stream.closed
    with pytest.raises(ClosedError):
        stage.take()


def test_the_garbage_collector_may_close_it_with_the_lock_held(staging: Any) -> None:
    """An iterator in a cycle is let go wherever the collector runs."""
    stage, _ = staging(CpuLink(), *map(batch, range(3)))
    stage.take()
    with stage._lock:
        stage.close()
    with pytest.raises(ClosedError):
        stage.take()


def test_several_threads_get_each_batch_once(staging: Any) -> None:
    stage, _ = staging(LateLink(), *(together(*range(n, n + 4)) for n in range(0, 400, 4)))
    numbers: list[int] = []

    def learn() -> None:
        for _ in range(100):
            tensors, _ = stage.take()
            (number,) = tensors["n"].unique().tolist()
            assert same(tensors, batch(number))
            numbers.append(number)

    in_threads(4, learn)
    assert sorted(numbers) == list(range(400))


def test_a_forked_child_is_told(staging: Any) -> None:
    stage, _ = staging(CpuLink(), batch(0))
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


@pytest.mark.parametrize("steps", [[batch(0)], [together(0)], [together(0, 0)]])
def test_nothing_is_kept_of_batches_that_were_taken(staging: Any, steps: Any) -> None:
    stage, stream = staging(CpuLink(), *steps)
    count = getattr(steps[0], "parts", 1)
    blocks = []
    for _ in range(count):
        tensors, _ = stage.take()
        blocks.append(weakref.ref(tensors["x"]._base))
    for number in (1, 2):  # what was copied is let go when more is sent
        stream.add(batch(number))
        stage.take()
    del tensors
    gc.collect()
    assert [block() for block in blocks] == [None] * count


def test_threads_that_wait_do_not_wait_for_each_other(staging: Any) -> None:
    stage, stream = staging(CpuLink())
    together_there = threading.Barrier(3)

    def draw() -> Batch:
        together_there.wait(20)  # broken if one of them waits for another
        raise DeadlineError("none came")

    stream._draw = draw
    failures: list[Exception] = []

    def wait() -> None:
        try:
            stage.take()
        except Exception as error:
            failures.append(error)

    in_threads(3, wait)
    assert [type(error) for error in failures] == [DeadlineError] * 3


def test_an_error_that_is_kept_keeps_nobody(staging: Any) -> None:
    """Whoever holds an error holds the frames it passed, and theirs hold the learner's."""

    class Model:
        pass

    def fail() -> Any:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("odd") from error

    stage, stream = staging(CpuLink(), batch(0))

    def learn() -> weakref.ref[Any]:
        model = Model()
        stream._poll = fail
        stage.take()
        return weakref.ref(model)

    model = learn()
    gc.collect()
    assert model() is None
    with pytest.raises(ValueError, match="odd"):
        stage.take()


def test_an_error_that_was_told_keeps_nobody(staging: Any) -> None:
    """It holds the frames it passed; where one of these holds it, only the collector ends that."""

    class Model:
        pass

    def fail() -> Any:
        raise ValueError("odd")

    stage, stream = staging(CpuLink(), batch(0))
    stream._poll = fail
    stage.take()

    def learn() -> weakref.ref[Any]:
        model = Model()
        with suppress(ValueError):
            stage.take()
        return weakref.ref(model)

    gc.disable()
    try:
        assert learn()() is None
    finally:
        gc.enable()


def test_ctrl_c_while_the_next_one_is_looked_for_ends_no_looking(staging: Any) -> None:
    stage, stream = staging(CpuLink(), *map(batch, range(5)))
    poll = stream._poll

    def interrupted() -> Any:
        raise KeyboardInterrupt

    stream._poll = interrupted
    with pytest.raises(KeyboardInterrupt):
        stage.take()
    stream._poll = poll
    assert same(stage.take()[0], batch(1))
    assert stream.given == 3  # the next one is there again


def test_threads_have_default_devices_which_are_not_for_this() -> None:
    with torch.device("meta"):
        assert CpuLink().allocate(64).device.type == "cpu"
        stream = ScriptedStream(batch(0), batch(1), memory=in_blocks(CpuLink().allocate))
        stage = Staging(stream, CpuLink())
        assert same(stage.take()[0], batch(0))
        assert same(stage.take()[0], batch(1))
        stage.close()
