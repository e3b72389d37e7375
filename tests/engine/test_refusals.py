"""Files that cannot be trusted: that buffer is refused and untouched, the others are served."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replayring_proto import layout
from replayring_proto.errors import StorageError
from replayring_server.engine import Store
from tests.engine.folders import fingerprint
from tests.engine.frames import checked_episode, checked_spec

SPEC = checked_spec(20)
Damage = Callable[[Path], Any]


def change_meta(**changes: Any) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / layout.META
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

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


FILES = ["cursor", "episodes", "writers", "columns/a.tag", "columns/_bounds", "columns/index"]

DAMAGES: dict[str, tuple[Damage, str]] = {
    "an unknown format version": (change_meta(format=2), "format version 2"),
    "no format version": (write_meta(b"{}"), "not a replayring buffer"),
    "a description that is no JSON": (write_meta(b"\xff{"), "not a replayring buffer"),
    "an empty description": (write_meta(b""), "not a replayring buffer"),
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
    "a column that is a pipe": (replace_by_pipe("columns/a.tag"), "not a regular file"),
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
        for name in ("good", "bad"):
            buffer, _ = store.create(name, SPEC)
            buffer.append(checked_episode(SPEC, 1, 7))
    return folder


@pytest.fixture
def data_dir(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "data"))


def assert_refused(data_dir: Path, message: str) -> None:
    """Opens the directory: "bad" is refused and untouched, "good" is served."""
    before = fingerprint(data_dir / "bad")
    for _ in range(2):  # the second opening finds what the first one left
        with Store(data_dir) as store:
            assert store.names() == ["good"]
            assert store.get("good").info().num_frames == 7
            with pytest.raises(StorageError, match=message):
                store.get("bad")
            with pytest.raises(StorageError):
                store.create("bad", SPEC)
            with pytest.raises(StorageError):
                store.delete("bad")
    assert fingerprint(data_dir / "bad") == before


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
    assert_refused(data_dir, "symbolic link")
    assert fingerprint(data_dir / ".elsewhere") == before


def test_a_refusal_names_the_file_and_the_remedy(data_dir: Path) -> None:
    resize("columns/a.tag", 8)(data_dir / "bad")
    with Store(data_dir) as store, pytest.raises(StorageError) as refused:
        store.get("bad")
    assert f"{data_dir}/bad/columns/a.tag has 680 bytes" in str(refused.value)
    assert "672" in str(refused.value)
    assert "remove the buffer's folder" in str(refused.value)


def test_a_refused_buffer_is_logged_and_served_again_once_repaired(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    resize("columns/a.tag", 8)(data_dir / "bad")
    Store(data_dir).close()
    assert "'bad' cannot be served" in caplog.text
    resize("columns/a.tag", -8)(data_dir / "bad")
    with Store(data_dir) as store:
        assert store.get("bad").info().num_frames == 7
