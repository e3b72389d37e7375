"""Clients that live for weeks: nothing is left of writers and streams, closed or let go."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest

import replayring
from tests.client.fake_server import FakeServer, status
from tests.client.fake_store import FakeStore
from tests.support import PATIENCE, eventually

pytestmark = pytest.mark.usefixtures("no_threads_left")

EPISODE = {"state": np.zeros((50, 2)), "reward": np.zeros(50)}
STEP = {"state": [0, 0], "reward": 0}


def test_memory_threads_and_descriptors_are_flat(buffer: replayring.Buffer, tmp_path: Path) -> None:
    buffer.add_episode(EPISODE)
    process = psutil.Process()

    def use() -> None:
        with buffer.writer() as writer:
            writer.add_episode(EPISODE)
        with buffer.writer(spill_dir=tmp_path, max_in_flight_bytes=1) as writer:
            for _ in range(3):
                writer.add_episode(EPISODE)
        with buffer.sample_stream(256) as batches:
            next(batches)
        next(iter(replayring.BatchDataset(buffer, 256, num_batches=1)))

    def used() -> tuple[int, int, int]:
        gc.collect()
        return process.memory_info().rss, process.num_fds(), threading.active_count()

    for _ in range(20):  # what is made once, and kept
        use()
    memory, descriptors, threads = used()
    for _ in range(100):
        use()
    eventually(lambda: used()[2] <= threads, "threads have ended")
    # 100 streams that kept a batch each, or 500 episodes, would be 3 MB; pages come and go by more
    # than that, so a leak of whole buffers, 100 KB a round, is what this sees.
    assert used()[0] - memory < 10 << 20
    assert used()[1] <= descriptors + 2


class TestWritersThatNobodyClosed:
    def test_warn_and_send_what_they_have(
        self, fake: FakeServer, fake_client: replayring.Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        stored = FakeStore()
        stored.proceed.clear()
        fake.script("AddEpisodes", stored)
        writer = fake_client.buffer("fake").writer(writer_id="me")
        writer.add_episode(EPISODE)
        writer.append(STEP)
        with pytest.warns(ResourceWarning, match="writer me of 'fake' was never closed") as warned:
            del writer
        assert "1 steps of an episode that was not ended are lost" in str(warned[0].message)
        assert "0 episodes are acknowledged, 1 are not; sequence 1 may be lost" in caplog.text
        stored.proceed.set()
        eventually(lambda: stored.sequences() == [1], "it is sent all the same")

    def test_warn_although_all_is_sent(
        self, fake: FakeServer, fake_client: replayring.Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        fake.script("AddEpisodes", FakeStore())
        writer = fake_client.buffer("fake").writer()
        writer.add_episode(EPISODE)
        writer.flush()
        with caplog.at_level(logging.WARNING), pytest.warns(ResourceWarning, match="use `with`"):
            del writer
        assert caplog.text == "", "nothing is lost, so only the warning says so"

    def test_do_not_warn_if_they_were_never_used(
        self, fake_client: replayring.Client, tmp_path: Path
    ) -> None:
        buffer = fake_client.buffer("fake")
        buffer.writer(spill_dir=tmp_path)
        gc.collect()
        buffer.writer(spill_dir=tmp_path).close()  # the directory was let go as well

    def test_keep_in_the_spill_directory_what_is_in_memory(
        self, fake: FakeServer, fake_client: replayring.Client, tmp_path: Path
    ) -> None:
        fake.script("AddEpisodes", status(grpc.StatusCode.UNAVAILABLE))
        writer = fake_client.buffer("fake").writer(spill_dir=tmp_path)
        writer.add_episode(EPISODE)
        with pytest.warns(ResourceWarning, match=f"sequence 1 kept in {tmp_path}"):
            del writer
        assert len(list(tmp_path.glob("*.episode"))) == 1
        stored = FakeStore()
        fake.script("AddEpisodes", stored)
        eventually(lambda: stored.sequences() == [1], "it is sent all the same")

    def test_say_so_when_the_program_ends(self, core_server: str, name: str) -> None:
        program = f"""
import replayring
buffer = replayring.connect({core_server!r}).create_buffer({name!r}, {{"x": {{"shape": (),
    "dtype": "float32"}}}}, 100)
writer = buffer.writer()
writer.append({{"x": 1}})
"""
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE
        )
        assert "was never closed" in done.stderr
        assert "1 steps of an episode that was not ended are lost" in done.stderr
        assert done.returncode == 0
