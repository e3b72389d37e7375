"""Ctrl-C: whatever it hits, nothing hangs, and the client goes on working."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from replayring._background import Guard
from replayring._signals import Workers
from tests.support import eventually

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(200)
def test_a_program_interrupted_again_and_again(core_server: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.client.interrupt_stress", core_server, "100"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) > 50


def test_an_interrupt_leaves_a_wait_with_the_lock_held_whenever_it_comes() -> None:
    guard = Guard()
    let_go = guard.changed._release_save

    def interrupted() -> None:
        let_go()
        raise KeyboardInterrupt

    guard.changed._release_save = interrupted
    with pytest.raises(KeyboardInterrupt), guard.lock:
        guard.changed.wait(60)
    guard.changed._release_save = let_go
    free = threading.Thread(target=guard.lock.acquire)
    free.start()
    free.join(60)
    assert not free.is_alive()


class TestWorkers:
    def test_work_of_the_main_thread_is_done_elsewhere(self) -> None:
        workers = Workers()
        thread = workers.run(threading.current_thread, lambda: None)
        assert thread is not threading.main_thread()
        assert workers.run(threading.current_thread, lambda: None) is thread, "threads are reused"
        workers.dismiss()
        eventually(lambda: not thread.is_alive(), "an idle thread is dismissed")

    def test_work_of_other_threads_is_done_there(self) -> None:
        seen: list[threading.Thread] = []
        thread = threading.Thread(
            target=lambda: seen.append(Workers().run(threading.current_thread, lambda: None))
        )
        thread.start()
        thread.join(30)
        assert seen == [thread]

    def test_errors_come_back(self) -> None:
        workers = Workers()
        with pytest.raises(ZeroDivisionError):
            workers.run(lambda: 1 // 0, lambda: None)
        workers.dismiss()

    def test_idle_threads_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("replayring._signals._IDLE_SECONDS", 0.05)
        workers = Workers()
        thread = workers.run(threading.current_thread, lambda: None)
        eventually(lambda: not thread.is_alive(), "an idle thread ends")
        assert not workers._idle

    def test_a_thread_that_answers_can_be_dismissed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        workers, idle = Workers(), []

        class Watched(queue.SimpleQueue[Any]):
            def put(self, item: Any, *options: Any) -> None:
                if isinstance(item, tuple):
                    idle.append(len(workers._idle))
                super().put(item, *options)

        monkeypatch.setattr("replayring._signals.queue.SimpleQueue", Watched)
        workers.run(lambda: None, lambda: None)
        workers.dismiss()
        assert idle == [1]
