"""Files that cannot be trusted: that buffer is refused and untouched, the others are served."""

from __future__ import annotations

import errno
import gc
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replayring_proto import layout
from replayring_proto.errors import NotFoundError, StorageError
from replayring_server.engine import Store
from tests.engine.folders import fingerprint
from tests.engine.frames import checked_episode, checked_spec
from tests.stored import SMALL

SPEC = checked_spec(20)
Damage = Callable[[Path], Any]


def change_meta(**changes: Any) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / layout.META
        document = {**json.loads(path.read_text()), **changes}
        document["checksum"] = layout.meta_checksum(document)
        path.write_text(json.dumps(document))

    return damage


def edit_meta(old: str, new: str) -> Damage:
    """As somebody with an editor would."""

    def damage(folder: Path) -> None:
        path = folder / layout.META
        content = path.read_text()
        assert old in content
        path.write_text(content.replace(old, new))

    return damage


def write_meta(content: bytes) -> Damage:
    return lambda folder: (folder / layout.META).write_bytes(content)


def resize(name: str, by: int) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / name
        os.truncate(path, path.stat().st_size + by)

    return damage


def remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def link(name: str) -> Damage:
    """Moves a file or folder away and puts a symbolic link to it in its place."""

    def damage(folder: Path) -> None:
        elsewhere = folder.parent / ".elsewhere"
        elsewhere.mkdir(exist_ok=True)
        target = elsewhere / name.replace("/", "-")
        (folder / name).rename(target)
        (folder / name).symlink_to(target)

    return damage


def replace_by_folder(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def replace_by_pipe(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return damage


def set_counters(low: int, head: int, intent: int) -> Damage:
    def damage(folder: Path) -> None:
        words = np.memmap(folder / layout.CURSOR, np.int64, "r+")
        words[[layout.LOW_WORD, layout.HEAD_WORD, layout.INTENT_WORD]] = low, head, intent
        words.flush()

    return damage


def overwrite(name: str, content: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(content)


def from_other(*names: str) -> Damage:
    """Puts files of the other buffer, which holds more, in the place of this one's."""

    def damage(folder: Path) -> None:
        for name in names:
            shutil.copyfile(folder.parent / "good" / name, folder / name)

    return damage


FILES = ["cursor", "episodes", "writers", SMALL, "columns/c.words"]

DAMAGES: dict[str, tuple[Damage, str]] = {
    "an edited rate": (edit_meta('"fps": 10', '"fps": 20'), "not what was written"),
    "an edited durability": (edit_meta("interval", "none"), "not what was written"),
    "the cursor of another buffer": (from_other("cursor"), "of another buffer"),
    "columns of another buffer": (from_other(SMALL), "of an episode from 0 to 18"),
    "a head too low": (set_counters(0, 5, 7), "of an episode from 0 to 6"),
    "no description": (remove(layout.META), "buffer.json: No such file"),
    "no columns": (lambda folder: shutil.rmtree(folder / "columns"), "No such file"),
    "an unknown format version": (change_meta(format=1), "format version 1"),
    "no format version": (write_meta(b"{}"), "not a replayring buffer"),
    "a description that is no JSON": (write_meta(b"\xff{"), "not a replayring buffer"),
    "an empty description": (write_meta(b""), "not a replayring buffer"),
    "a description that is too long": (
        lambda folder: os.truncate(folder / layout.META, (1 << 20) + 1),
        "has 1,048,577 bytes, where 1,048,576 are the most",
    ),
    "a larger capacity": (change_meta(capacity=40_000), "the buffer's spec says"),
    "a smaller capacity": (change_meta(capacity=1), "the buffer's spec says"),
    "a capacity of none": (change_meta(capacity=0), "describes no valid buffer"),
    "a column outside": (
        change_meta(columns={"../../x": {"shape": [], "dtype": "int8"}}),
        "describes no valid buffer",
    ),
    "a column more": (
        change_meta(
            columns={
                **{c.name: {"shape": c.shape, "dtype": c.dtype.name} for c in SPEC.columns},
                "more": {"shape": [], "dtype": "int8"},
            }
        ),
        "the buffer's spec says",
    ),
    "a large column more": (
        change_meta(
            columns={
                **{c.name: {"shape": c.shape, "dtype": c.dtype.name} for c in SPEC.columns},
                "more": {"shape": [999], "dtype": "int8"},
            }
        ),
        "No such file",
    ),
    "a linked description": (link(layout.META), "symbolic link"),
    "a linked folder of columns": (link("columns"), "symbolic link"),
    "a cursor of zeros": (overwrite("cursor", bytes(layout.CURSOR_BYTES)), "cursor"),
    "a cursor of noise": (
        overwrite("cursor", np.random.default_rng(0).bytes(layout.CURSOR_BYTES)),
        "cursor",
    ),
    "low beyond head": (set_counters(9, 3, 9), "cursor is damaged"),
    "head beyond intent": (set_counters(0, 30, 3), "cursor is damaged"),
    "intent far ahead": (set_counters(0, 3, 1000), "cursor is damaged"),
    "a description that is a folder": (replace_by_folder(layout.META), "not a regular file"),
    "a description that is a pipe": (replace_by_pipe(layout.META), "not a regular file"),
    "a column that is a pipe": (replace_by_pipe("columns/c.words"), "not a regular file"),
    **{f"{name} too short": (resize(name, -1), "the buffer's spec says") for name in FILES},
    **{f"{name} too long": (resize(name, 4096), "the buffer's spec says") for name in FILES},
    **{f"{name} missing": (remove(name), "No such file") for name in FILES},
    **{f"{name} linked": (link(name), "symbolic link") for name in FILES},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with two buffers, closed."""
    folder = tmp_path_factory.mktemp("made")
    with Store(folder) as store:
        for name, frames in (("good", 19), ("bad", 7)):
            buffer, _ = store.create(name, SPEC)
            buffer.append(checked_episode(SPEC, 1, frames))
    return folder


@pytest.fixture
def data_dir(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "data"))


def assert_refused(data_dir: Path, message: str) -> None:
    """Opens the directory: "bad" is refused, untouched and can be deleted; "good" is served."""
    before = fingerprint(data_dir / "bad")
    for _ in range(2):  # the second opening finds what the first one left
        with Store(data_dir) as store:
            assert store.names() == ["good"]
            assert [buffer.name for buffer in store.buffers()] == ["good"]
            assert store.get("good").info().num_frames == 19
            with pytest.raises(StorageError, match=message) as refused:
                store.get("bad")
            assert f"`replayring verify {data_dir}`" in str(refused.value)
            with pytest.raises(StorageError):
                store.create("bad", SPEC)
        assert fingerprint(data_dir / "bad") == before
    others = {path for path in data_dir.iterdir() if path.name != "bad"}
    with Store(data_dir) as store:
        store.delete("bad")
        assert set(data_dir.iterdir()) == others
        with pytest.raises(NotFoundError):
            store.delete("bad")
        assert store.create("bad", SPEC)[1]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_buffer_is_refused_and_untouched_and_the_others_are_served(
    data_dir: Path, damage: str
) -> None:
    apply, message = DAMAGES[damage]
    apply(data_dir / "bad")
    assert_refused(data_dir, message)


def test_a_buffer_whose_folder_is_linked_is_refused(data_dir: Path) -> None:
    (data_dir / "bad").rename(data_dir / ".elsewhere")
    (data_dir / "bad").symlink_to(data_dir / ".elsewhere")
    before = fingerprint(data_dir / ".elsewhere")
    assert_refused(data_dir, "symbolic link")  # and deleting it deletes the link
    assert fingerprint(data_dir / ".elsewhere") == before


def test_a_refusal_names_the_file_and_the_remedy(data_dir: Path) -> None:
    resize("columns/c.words", 8)(data_dir / "bad")
    with Store(data_dir) as store, pytest.raises(StorageError) as refused:
        store.get("bad")
    assert f"{data_dir}/bad/columns/c.words has 26,888 bytes" in str(refused.value)
    assert "26,880" in str(refused.value)
    assert "Restore it, or delete the buffer" in str(refused.value)


def test_a_refused_buffer_is_logged_and_served_again_once_repaired(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    resize("columns/c.words", 8)(data_dir / "bad")
    Store(data_dir).close()
    assert "'bad' cannot be served" in caplog.text
    resize("columns/c.words", -8)(data_dir / "bad")
    with Store(data_dir) as store:
        assert store.get("bad").info().num_frames == 7


def test_a_folder_that_cannot_be_looked_into_is_refused_if_its_name_could_be_a_buffers(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a restore by root. But not `lost+found`, which no server may look into."""
    (data_dir / "lost+found").mkdir()
    for name in ("listdir", "open"):
        monkeypatch.setattr(os, name, forbidding({"bad", "lost+found"}, getattr(os, name)))
    with Store(data_dir) as store:
        assert store.names() == ["good"]
        with pytest.raises(StorageError, match="Permission denied"):
            store.get("bad")
        with pytest.raises(NotFoundError):
            store.get("lost+found")


def forbidding(names: set[str], real: Callable[..., Any]) -> Callable[..., Any]:
    def call(path: Any, *arguments: Any) -> Any:
        if names & set(Path(path).parts):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, *arguments)

    return call


def test_whatever_else_goes_wrong_with_a_buffer_the_others_are_served(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    with monkeypatch.context() as patch:
        patch.setattr("replayring_server.engine.buffer.WriterTable", fail)
        with Store(data_dir) as store, pytest.raises(StorageError, match="a defect"):
            store.get("bad")
    assert "Traceback" in caplog.text
    with Store(data_dir) as store:
        assert store.names() == ["bad", "good"]


def test_a_refused_buffer_that_was_removed_by_hand_can_be_deleted_and_made_anew(
    data_dir: Path,
) -> None:
    remove("cursor")(data_dir / "bad")
    with Store(data_dir) as store:
        shutil.rmtree(data_dir / "bad")
        store.delete("bad")
        assert store.create("bad", SPEC)[1]


def test_a_refused_buffer_holds_no_files_open(data_dir: Path) -> None:
    def descriptors() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    set_counters(0, 30, 3)(data_dir / "bad")
    with Store(data_dir) as store:
        store.delete("good")
        before = descriptors()
    with Store(data_dir):
        assert descriptors() == before  # the lock's


def test_a_buffer_is_no_data_directory(tmp_path: Path) -> None:
    """Whoever names one too many is told: buffers were restored, and served, within a buffer."""
    with Store(tmp_path) as store:
        store.create("b", SPEC)
    before = sorted((tmp_path / "b").iterdir())
    with pytest.raises(StorageError, match=rf"is one buffer; name .*, which is {tmp_path}$"):
        Store(tmp_path / "b")
    assert sorted((tmp_path / "b").iterdir()) == before
