"""A data directory as a whole: creating, reopening, deleting, and what is left alone."""

from __future__ import annotations

import gc
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from replayring_proto import layout
from replayring_proto.errors import (
    AlreadyExistsError,
    NotFoundError,
    StorageError,
)
from replayring_proto.query import View
from replayring_proto.ring import Plan
from replayring_server.engine import Buffer, Store, files
from tests.engine.descriptors import few_descriptors
from tests.engine.folders import fingerprint
from tests.engine.frames import Arrays, assert_whole, checked_episode, checked_spec
from tests.engine.lives import die

SPEC = checked_spec(20)


def all_frames(buffer: Buffer) -> Arrays:
    live = buffer.reader.live
    indices = np.arange(live.start, live.end)
    arrays = buffer.reader.at_indices(Plan(buffer.spec, View()), indices).arrays
    assert_whole(buffer.spec, arrays)
    return arrays


# Reopening


def test_a_reopened_buffer_is_the_one_that_was_closed(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        buffer, _ = store.create("a", SPEC)
        for tag in (1, 2, 3):
            buffer.append(checked_episode(SPEC, tag, 9))
        before, frames = buffer.info(), all_frames(buffer)
    with Store(tmp_path) as store:
        buffer = store.get("a")
        assert buffer.info() == before
        assert not buffer.restored
        after = all_frames(buffer)
        for name in frames:
            np.testing.assert_array_equal(after[name], frames[name])
        stored = buffer.append(checked_episode(SPEC, 4, 2))
        assert (stored.index, stored.episode_index) == (27, 3)


def test_a_new_buffer_is_not_taken_for_one_that_a_power_loss_cut_back(tmp_path: Path) -> None:
    """Nor when its server died before it was opened again: that would warn of a loss."""
    store = Store(tmp_path)
    buffer, _ = store.create("a", SPEC)
    assert not buffer.restored
    die(store)
    with Store(tmp_path) as store:
        assert not store.get("a").restored


def test_opening_and_closing_changes_nothing(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.create("a", SPEC)[0].append(checked_episode(SPEC, 1, 9))
    before = fingerprint(tmp_path, without=("lock",))
    with Store(tmp_path) as store:
        assert store.names() == ["a"]
    assert fingerprint(tmp_path, without=("lock",)) == before


def test_a_reopened_buffer_is_asked_for_with_its_own_spec(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.create("a", SPEC)
    with Store(tmp_path) as store:
        assert store.create("a", SPEC)[1] is False
        with pytest.raises(AlreadyExistsError):
            store.create("a", checked_spec(40))
        assert store.get("a").spec == SPEC


def test_closing_twice_is_harmless_and_ends_appends(tmp_path: Path) -> None:
    store = Store(tmp_path)
    buffer, _ = store.create("a", SPEC)
    store.close()
    store.close()
    with pytest.raises(NotFoundError):
        buffer.append(checked_episode(SPEC, 1, 1))


def test_a_relative_data_dir_keeps_its_meaning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Store("data") as store:
        monkeypatch.chdir("/")
        store.create("a", SPEC)
        assert store.data_dir == tmp_path / "data"


def test_a_data_dir_that_is_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    for data_dir in (path, path / "below"):
        with pytest.raises(StorageError, match="data directory"):
            Store(data_dir)
    assert path.read_text() == "mine"


def test_what_is_no_buffer_in_the_data_dir_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    for name in (".hidden", "no name of a buffer", "x" * 65):
        (tmp_path / name).mkdir()
        (tmp_path / name / layout.META).write_text("{}")
    before = fingerprint(tmp_path)
    with Store(tmp_path) as store:
        assert store.names() == []
        for path in tmp_path.iterdir():
            with pytest.raises(NotFoundError):
                store.get(path.name)
    after = fingerprint(tmp_path)
    assert {name: after[name] for name in before} == before


# What a death in the middle left behind


@pytest.mark.parametrize("leftover", [".creating-a", ".deleting-0123456789abcdef"])
def test_leftovers_of_a_death_in_the_middle_are_removed(tmp_path: Path, leftover: str) -> None:
    with Store(tmp_path) as store:
        buffer, _ = store.create("a", SPEC)
        buffer.append(checked_episode(SPEC, 1, 3))
    (tmp_path / leftover / "columns").mkdir(parents=True)
    (tmp_path / leftover / "columns" / "x").write_bytes(bytes(100))
    with Store(tmp_path) as store:
        assert not (tmp_path / leftover).exists()
        assert store.names() == ["a"]
        assert store.get("a").info().num_frames == 3
        store.create("b", SPEC)


@pytest.mark.parametrize("kind", ["link", "file", "kept"])
def test_leftovers_of_any_kind_do_not_keep_the_server_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    leftover, target = tmp_path / ".creating-a", tmp_path / "target"
    target.mkdir()
    (target / "mine").write_text("mine")
    if kind == "link":
        leftover.symlink_to(target)
    elif kind == "file":
        leftover.write_text("?")
    else:
        leftover.mkdir()
        monkeypatch.setattr("shutil.rmtree", _raise_io_error)
    with Store(tmp_path) as store:
        assert store.create("a", SPEC)[1]
    assert leftover.exists() == (kind == "kept")
    assert ("cannot remove" in caplog.text) == (kind == "kept")
    assert (target / "mine").read_text() == "mine"


def test_a_death_while_creating_leaves_no_buffer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each step: the buffer is there whole, or its name is free."""

    class Died(BaseException):
        pass

    for deadly in range(8):
        steps = 0

        def step(*args: object, real: object, deadly: int = deadly) -> object:
            nonlocal steps
            steps += 1
            if steps > deadly:
                raise Died
            return real(*args)  # type: ignore[operator]

        data_dir = tmp_path / str(deadly)
        store = Store(data_dir)
        with monkeypatch.context() as patch:
            for name in ("reserve", "write_whole", "sync_folder", "sync_mapped"):
                real = getattr(files, name)
                patch.setattr(files, name, lambda *args, real=real: step(*args, real=real))
            # A process that died would not tidy up either.
            patch.setattr("shutil.rmtree", lambda *args, **kwargs: None)
            with pytest.raises(Died):
                store.create("a", SPEC)
        die(store)
        with Store(data_dir) as successor:
            assert successor.create("a", SPEC)[0].info().num_frames == 0
            assert not list(data_dir.glob(".creating-*"))


def test_a_failure_while_creating_tidies_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(store.data_dir)
    monkeypatch.setattr("os.posix_fallocate", _raise_io_error)
    with pytest.raises(OSError, match="broken disk"):
        store.create("a", SPEC)
    assert fingerprint(store.data_dir) == before
    monkeypatch.undo()
    store.create("a", SPEC)


def test_a_buffer_made_for_lack_of_descriptors_in_vain_leaves_its_name_free(
    tmp_path: Path,
) -> None:
    """Each mapped file holds one."""
    with Store(tmp_path) as store:
        with few_descriptors(4):
            for _ in range(2):
                with pytest.raises(StorageError, match="Too many open files"):
                    store.create("a", SPEC)
        assert not (tmp_path / "a").exists()
        assert store.create("a", SPEC)[1]
    with Store(tmp_path) as store:
        assert store.get("a").info().num_frames == 0
        assert not list(tmp_path.glob(".creating-*"))


@pytest.mark.parametrize("step", ["sync_folder", "map_file"])
def test_a_failure_after_the_rename_leaves_the_name_free(
    store: Store, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before = fingerprint(store.data_dir)
    real = getattr(files, step)

    def fail(path: Path, **options: bool) -> object:
        if (store.data_dir / "a").exists():
            raise OSError(5, "broken disk")
        return real(path, **options)

    with monkeypatch.context() as broken:
        broken.setattr(files, step, fail)
        with pytest.raises(OSError, match="broken disk"):
            store.create("a", SPEC)
    assert fingerprint(store.data_dir) == before
    assert store.names() == []
    store.create("a", SPEC)


def test_opening_with_too_few_descriptors_refuses_the_buffers_that_do_not_fit(
    tmp_path: Path,
) -> None:
    with Store(tmp_path) as store:
        for name in ("a", "b"):
            store.create(name, SPEC)
    files_of_one = len(layout.file_sizes(SPEC))
    with few_descriptors(files_of_one + 4), Store(tmp_path) as store:
        assert store.names() == ["a"]
        with pytest.raises(StorageError, match="Too many open files"):
            store.get("b")
    with Store(tmp_path) as store:
        assert store.names() == ["a", "b"]


def _raise_io_error(*_: object) -> None:
    raise OSError(5, "broken disk")


# Deleting


def test_a_deleted_buffer_is_gone_and_its_name_is_free(store: Store) -> None:
    old, _ = store.create("a", SPEC)
    old.append(checked_episode(SPEC, 1, 3))
    store.delete("a")
    assert not (store.data_dir / "a").exists()
    assert not list(store.data_dir.glob(".deleting-*"))
    with pytest.raises(NotFoundError):
        store.get("a")
    with pytest.raises(NotFoundError, match="was deleted"):
        old.append(checked_episode(SPEC, 2, 3))
    with pytest.raises(NotFoundError):
        old.check_open()
    new, created = store.create("a", checked_spec(5))
    assert created
    assert new.buffer_id != old.buffer_id
    assert new.info().num_frames == 0


def test_a_buffer_that_cannot_be_deleted_lives_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer, _ = store.create("a", SPEC)
    with monkeypatch.context() as broken:
        broken.setattr(Path, "rename", _raise_io_error)
        with pytest.raises(OSError, match="broken disk"):
            store.delete("a")
    assert store.get("a") is buffer
    buffer.append(checked_episode(SPEC, 1, 3))
    buffer.sync()
    assert buffer.durable_index == 3
    store.delete("a")
    with pytest.raises(NotFoundError):
        store.get("a")


def test_a_read_under_way_survives_the_deletion(store: Store) -> None:
    """Memory stays mapped while anybody holds it: no SIGBUS, no SIGSEGV."""
    buffer, _ = store.create("a", SPEC)
    buffer.append(checked_episode(SPEC, 1, 12))
    reader = buffer.reader
    held = reader.columns["b.bytes"][:12]
    _, pieces = reader.read_columns(("b.bytes", "a.tag"))
    first = next(pieces)
    store.delete("a")
    del buffer
    np.testing.assert_array_equal(held, checked_episode(SPEC, 1, 12)["b.bytes"])
    assert sum(len(piece) for piece in (first, *pieces)) >= 12 * 40
    arrays = reader.at_positions(Plan(SPEC, View()), np.arange(12)).arrays
    assert_whole(SPEC, arrays)


def test_deleting_frees_the_space(store: Store) -> None:
    spec = checked_spec(1000, width=4096)
    store.create("a", spec)
    path = store.data_dir / "a" / "columns" / "b.bytes"
    descriptor = os.open(path, os.O_RDONLY)
    try:
        store.delete("a")
        assert os.fstat(descriptor).st_nlink == 0
    finally:
        os.close(descriptor)


def test_a_buffer_removed_by_hand_can_be_deleted_and_made_anew(store: Store) -> None:
    store.create("a", SPEC)
    shutil.rmtree(store.data_dir / "a")
    store.delete("a")
    assert store.create("a", SPEC)[1]


def test_a_buffer_is_deleted_once(store: Store) -> None:
    store.create("a", SPEC)
    store.delete("a")
    with pytest.raises(NotFoundError):
        store.delete("a")


def test_nothing_is_left_open(tmp_path: Path) -> None:
    """Descriptors and threads of stores, buffers and their deletion are given back."""

    def descriptors() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    before, threads = descriptors(), threading.active_count()
    for _ in range(3):
        with Store(tmp_path) as store:
            store.create("a", SPEC)[0].append(checked_episode(SPEC, 1, 1))
            store.create("b", SPEC)
            store.delete("b")
        del store
    assert descriptors() == before
    assert threading.active_count() == threads
