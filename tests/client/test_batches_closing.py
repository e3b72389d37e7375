"""Closing what `BatchDataset` iterates: who waits is woken, and nothing is left behind."""

from __future__ import annotations

import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from replayring.batches import BatchDataset
from replayring_proto.errors import ClosedError, DeadlineError, ServerUnavailableError
from tests.client.scripted_streams import ScriptedBuffer, ScriptedStream, one
from tests.client.torch_buffers import (
    MakeBuffer,
    filled,
)

pytest_plugins = ["tests.client.torch_fixtures"]

pytestmark = pytest.mark.usefixtures("no_threads_stay")


@pytest.fixture(params=[None, "cpu"], ids=["where they arrive", "on a device"])
def device(request: pytest.FixtureRequest) -> str | None:
    where: str | None = request.param
    return where


def test_closing_wakes_who_waits(device: str | None) -> None:
    streams = [ScriptedStream(one(1)), ScriptedStream()]
    batches = BatchDataset(ScriptedBuffer(*streams), 1, device=device)
    seen: list[int] = []

    def loop() -> None:
        seen.extend(int(batch["x"]) for batch in batches)

    threads = [threading.Thread(target=loop) for _ in streams]
    for thread in threads:
        thread.start()
    assert all(stream.waiting.wait(20) for stream in streams)
    batches.close()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert seen == [1]
    assert [stream.closings for stream in streams] == [1, 1]
    with pytest.raises(ClosedError):
        iter(batches)
    batches.close()


def test_closing_ends_who_waits_for_a_server_that_is_away(device: str | None) -> None:
    """How fresh batches are, it is asked; and the end of that is none of a stream's."""

    class Away(ScriptedBuffer):
        asked = 0
        client = SimpleNamespace(timeout=30)

        def info(self, **_: Any) -> Any:
            self.asked += 1
            assert self.asked < 3, "it goes on asking"
            if self.asked == 2:
                batches.close()
            raise ServerUnavailableError("away")

    buffer = Away(ScriptedStream(one(1)))
    batches = BatchDataset(buffer, 1, max_staleness_frames=5, device=device)
    assert list(batches) == []
    assert buffer.asked == 2


def test_closing_wakes_who_waits_for_word_on_the_buffer(device: str | None) -> None:
    asked, over = threading.Event(), threading.Event()

    class Silent(ScriptedBuffer):
        client = SimpleNamespace(timeout=30)

        def info(self, **_: Any) -> Any:
            asked.set()
            over.wait(30)
            raise ServerUnavailableError("silent")

    batches = BatchDataset(Silent(ScriptedStream(one(1))), 1, max_staleness_frames=5, device=device)
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.extend(batches))
    thread.start()
    try:
        assert asked.wait(20)
        batches.close()
        thread.join(3)
        assert not thread.is_alive()
    finally:
        over.set()
        thread.join(20)
    assert seen == []


def test_what_is_opened_while_another_thread_closes_is_closed(device: str | None) -> None:
    class Slow(ScriptedBuffer):
        def sample_stream(self, batch_size: int, **options: Any) -> Any:
            batches.close()
            return super().sample_stream(batch_size, **options)

    stream = ScriptedStream(one(1))
    batches = BatchDataset(Slow(stream), 1, device=device)
    with pytest.raises(ClosedError):
        iter(batches)
    assert stream.closed


def test_closing_one_iterator_leaves_the_others(device: str | None) -> None:
    streams = [ScriptedStream(one(1)), ScriptedStream(one(2))]
    batches = BatchDataset(ScriptedBuffer(*streams), 1, device=device)
    first, second = iter(batches), iter(batches)
    first.close()
    assert list(first) == []
    assert int(next(second)["x"]) == 2
    assert [stream.closings for stream in streams] == [1, 0]


def test_an_iterator_let_go_closes_its_stream(device: str | None) -> None:
    stream = ScriptedStream(one(1), one(2))
    for _ in BatchDataset(ScriptedBuffer(stream), 1, device=device):
        break
    assert stream.closings == 1


def test_the_last_batch_closes_the_stream(device: str | None) -> None:
    stream = ScriptedStream(*map(one, range(1, 5)))
    batches = BatchDataset(ScriptedBuffer(stream), 1, num_batches=2, device=device)
    assert [int(batch["x"]) for batch in batches] == [1, 2]
    assert stream.closings == 1
    assert stream.given == (2 if device is None else 3)


def test_errors_pass_and_the_stream_goes_on(device: str | None) -> None:
    stream = ScriptedStream(one(1), DeadlineError("none came"), one(2))
    batches = BatchDataset(ScriptedBuffer(stream), 1, num_batches=2, timeout=30, device=device)
    iterator = iter(batches)
    assert int(next(iterator)["x"]) == 1
    with pytest.raises(TimeoutError, match="none came"):
        next(iterator)
    assert int(next(iterator)["x"]) == 2
    assert list(iterator) == []


def test_a_closed_client_is_an_error_not_an_end(device: str | None) -> None:
    stream = ScriptedStream(ClosedError("client"))
    iterator = iter(BatchDataset(ScriptedBuffer(stream), 1, device=device))
    with pytest.raises(ClosedError):
        next(iterator)


def test_a_real_client_that_closes_ends_the_wait(make_real: MakeBuffer, device: str | None) -> None:
    batches = BatchDataset(make_real(), 4, timeout=60, device=device)
    failures: list[BaseException] = []
    began = threading.Event()

    def loop() -> None:
        iterator = iter(batches)
        began.set()
        try:
            next(iterator)
        except StopIteration as stop:
            failures.append(stop)

    thread = threading.Thread(target=loop)
    thread.start()
    assert began.wait(20)
    batches.close()
    thread.join(20)
    assert not thread.is_alive()
    assert len(failures) == 1


def test_an_open_iteration_does_not_hold_up_the_exit(make_real: MakeBuffer) -> None:
    buffer = filled(make_real, 9)
    code = (
        "import replayring, sys\n"
        f"buffer = replayring.connect({buffer.client.address!r}).buffer({buffer.name!r})\n"
        "iterator = iter(replayring.BatchDataset(buffer, 4))\n"
        "assert len(next(iterator)['index']) == 4\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], timeout=100, stderr=subprocess.PIPE, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
