"""When episodes are written to the disk, and what happens when the disk fails.

That what was written is enough after a power loss is `test_power_loss`'s subject.
"""

from __future__ import annotations

import errno
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from replayring_proto import layout
from replayring_proto.errors import AlreadyExistsError, InvalidSpecError
from replayring_proto.spec import BufferSpec
from replayring_server.engine import Buffer, Origin, Store, files, syncer
from replayring_server.engine.cursor import Cursor
from tests.engine.descriptors import few_descriptors
from tests.engine.lives import die
from tests.support import eventually

EPISODE = {"x": np.arange(5)}


def spec(durability: str) -> BufferSpec:
    return BufferSpec.from_data_spec(
        {"x": {"shape": (), "dtype": "int64"}}, 100, durability=durability
    )


def durable_head(buffer: Buffer) -> int:
    return buffer._cursor.durable.head


def test_commit_is_on_the_disk_when_append_returns(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        buffer, _ = store.create("b", spec("commit"))
        for end in (5, 10, 15):
            buffer.append(EPISODE)
            assert durable_head(buffer) == end


def test_interval_is_synced_in_the_background(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        buffer, _ = store.create("b", spec("interval"))
        buffer.append(EPISODE)
        eventually(lambda: durable_head(buffer) == 5, "a sync in the background")


@pytest.mark.parametrize("durability", ["none", "interval", "commit"])
def test_a_clean_close_makes_everything_durable(tmp_path: Path, durability: str) -> None:
    with Store(tmp_path) as store:
        buffer, _ = store.create("b", spec(durability))
        buffer.append(EPISODE)
    assert durable_head(buffer) == 5


def test_after_a_clean_close_a_restart_of_the_machine_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However far rows were reserved while the server ran."""
    with Store(tmp_path) as store:
        buffer, _ = store.create("b", replace(spec("interval"), capacity=1000))
        for _ in range(210):
            buffer.append(EPISODE)
        buffer._cursor.reserve_for_sync(500)
        live = buffer.reader.live
    monkeypatch.setattr(layout, "machine_boot_id", lambda: b"another boot id.")
    with Store(tmp_path) as store:
        buffer = store.get("b")
        assert buffer.restored
        assert buffer.reader.live == live


def test_none_waits_for_the_clean_close(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        unsynced, _ = store.create("none", spec("none"))
        synced, _ = store.create("interval", spec("interval"))
        unsynced.append(EPISODE)
        synced.append(EPISODE)
        eventually(lambda: durable_head(synced) == 5, "a sync of the other buffer")
        assert durable_head(unsynced) == 0


def test_appends_that_wait_together_share_a_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(tmp_path) as store:
        buffer, _ = store.create("b", spec("commit"))
        sync_mapped, checkpoint = files.sync_mapped, Cursor.checkpoint
        began, go_on = threading.Event(), threading.Event()
        heads: list[int] = []

        def slow(mapped: files.Bytes, path: Path) -> None:
            if path.name != layout.CURSOR:  # which appends may wait for themselves
                began.set()
                assert go_on.wait(60)
            sync_mapped(mapped, path)

        def noted(self: Cursor, head: int, low: int, episodes: int) -> None:
            heads.append(head)
            checkpoint(self, head, low, episodes)

        monkeypatch.setattr(files, "sync_mapped", slow)
        monkeypatch.setattr(Cursor, "checkpoint", noted)
        with ThreadPoolExecutor(8) as threads:
            appends = [threads.submit(buffer.append, EPISODE)]
            assert began.wait(60)
            appends += [threads.submit(buffer.append, EPISODE) for _ in range(7)]
            eventually(lambda: buffer.reader.live.end == 40, "all appends")
            go_on.set()
            assert len({append.result(60).index for append in appends}) == 8
    assert heads == [5, 40]  # one had begun before the seven others came, which share one


def test_a_failing_disk_ends_the_buffer_and_tells_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bool] = []
    store = Store(tmp_path, on_failure=lambda: told.append(True))
    buffer, _ = store.create("b", spec("commit"))
    buffer.append(EPISODE)
    with monkeypatch.context() as broken:
        broken.setattr(files, "sync_mapped", failing)
        with pytest.raises(OSError, match="Input/output"):
            buffer.append(EPISODE)
    # The disk works again, but what the kernel dropped is gone: nothing is acknowledged any more.
    for _ in range(2):
        with pytest.raises(OSError, match="stopped after an error of the disk"):
            buffer.append(EPISODE)
    assert told == [True]
    assert durable_head(buffer) == 5
    with pytest.raises(OSError, match="stopped after an error of the disk"):
        store.close()


@pytest.mark.parametrize("durability", ["none", "interval", "commit"])
def test_what_a_failing_disk_did_not_take_is_gone_when_it_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    """As after a power loss, although the machine runs on: memory may have been dropped."""
    monkeypatch.setattr(syncer, "INTERVAL_S", 3600.0)
    store = Store(tmp_path)
    buffer, _ = store.create("b", spec(durability))
    buffer.append(EPISODE, Origin("w", 1))
    buffer.sync()
    with monkeypatch.context() as broken:
        broken.setattr(files, "sync_mapped", failing)
        if durability == "commit":
            with pytest.raises(OSError, match="Input/output"):
                buffer.append(EPISODE, Origin("w", 2))
        else:
            buffer.append(EPISODE, Origin("w", 2))
            with pytest.raises(OSError, match="Input/output"):
                buffer.sync()
    with pytest.raises(OSError, match="stopped after an error of the disk"):
        buffer.append(EPISODE, Origin("w", 2))  # the retry of what is there, and will be gone
    die(store)
    with Store(tmp_path) as reopened:
        buffer = reopened.get("b")
        assert buffer.restored
        assert buffer.reader.live.end == 5
        assert buffer.append(EPISODE, Origin("w", 1)).duplicate
        assert buffer.append(EPISODE, Origin("w", 2)).index == 5


def test_to_have_no_descriptor_left_is_no_failure_of_the_disk(tmp_path: Path) -> None:
    told: list[bool] = []
    with Store(tmp_path, on_failure=lambda: told.append(True)) as store:
        buffer, _ = store.create("b", spec("commit"))
        with few_descriptors(0):
            for _ in range(30):  # more than once around, so that rows are reserved as well
                buffer.append(EPISODE)
        assert durable_head(buffer) == 150
    assert not told


def failing(mapped: files.Bytes, path: Path) -> None:
    raise OSError(errno.EIO, "Input/output error", str(path))


def test_durability_is_part_of_the_spec(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.create("b", spec("commit"))
        with pytest.raises(AlreadyExistsError, match="another spec"):
            store.create("b", spec("none"))
    with Store(tmp_path) as store:
        assert store.get("b").info().durability == "commit"
    with pytest.raises(InvalidSpecError, match=r"'always'.*none, interval, commit"):
        spec("always")
