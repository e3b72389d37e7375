"""`verify` finds each kind of damage, says what it means, and changes nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replayring_proto import layout
from replayring_proto.errors import (
    DirectoryLockedError,
    InvalidRequestError,
    NotFoundError,
    StorageError,
)
from replayring_server.engine import Origin, Store
from replayring_server.engine.lock import DirectoryLock
from replayring_server.inspection import Report, describe, frames, reading, verify
from replayring_server.snapshots import snapshot
from tests.engine.folders import fingerprint
from tests.inspection.damages import (
    DAMAGES,
    SMALL,
)
from tests.inspection.spoiling import (
    SPEC,
    change_record,
    episode,
    set_rows,
    swap,
    truncate,
)


def found(report: Report, harmless: bool) -> list[tuple[str, str]]:
    return [(f.where, f.what) for f in report.findings if f.harmless == harmless]


def test_a_data_directory_without_damage_is_said_to_have_none(data_dir: Path) -> None:
    report = verify(data_dir)
    assert report.findings == []
    assert not report.damaged
    assert report.checked == [
        "buffer other: 33 of 50 frames, the values of 9 episodes",
        "buffer ring: 50 of 50 frames, the values of 13 episodes",
        "parameters critic: version 1",
        "parameters policy: version 1",
    ]
    assert list(report.lines())[-1] == f"{data_dir}: no damage found"


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_explained(data_dir: Path, damage: str) -> None:
    spoil, where, what = DAMAGES[damage]
    spoil(data_dir)
    report = verify(data_dir)
    assert report.damaged
    named = [text for place, text in found(report, harmless=False) if place == where]
    assert any(what in text for text in named), report.findings
    for finding in report.findings:
        assert finding.means
        assert finding.remedy
    text = "\n".join(report.lines())
    assert f"DAMAGE    {where}: " in text
    assert "no damage" not in text


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_does_not_keep_info_from_saying_the_rest(data_dir: Path, damage: str) -> None:
    DAMAGES[damage][0](data_dir)
    found = describe(data_dir)
    assert "other" in [state.name for state in found.buffers] or "other" in damage
    assert list(found.lines())


@pytest.mark.parametrize("damage", [None, *DAMAGES])
def test_nothing_is_changed_not_even_a_time(data_dir: Path, damage: str | None) -> None:
    if damage:
        DAMAGES[damage][0](data_dir)

    def state() -> list[Any]:
        statuses = [path.lstat() for path in [data_dir, *sorted(data_dir.rglob("*"))]]
        return [
            fingerprint(data_dir),
            [(s.st_mtime_ns, s.st_ctime_ns, s.st_mode) for s in statuses],
        ]

    if damage == "a column that is a pipe":
        return  # which no test may read either
    before = state()
    verify(data_dir)
    assert state() == before


@pytest.mark.parametrize("size", [1, 7])
def test_reading_in_small_pieces_finds_the_same(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """The first and the last frame of a piece are seen with their neighbours."""
    spoils = [set_rows("index", 112, 6, 5), set_rows("_bounds", 126, (0, 100), 6)]
    spoils += [set_rows("episode_index", 140, 30, 2), set_rows("timestamp", 128, np.nan)]
    spoils += [set_rows("done", 126, 2), change_record("episodes", 35, num_frames=3)]
    for spoil in spoils:
        spoil(data_dir)
    whole = verify(data_dir)
    assert len(whole.findings) == 5
    monkeypatch.setattr(frames, "SLICE", size)
    monkeypatch.setattr(reading, "PIECE_BYTES", size)
    assert verify(data_dir) == whole


def test_no_more_than_some_megabytes_are_read_at_once(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the size of a file of frames: here 4 MiB are the size of two or three frames."""
    sizes = []
    real = reading.read_at

    def watch(fd: int, path: Path, offset: int, content: memoryview) -> None:
        if path.parent.name == layout.COLUMNS:
            sizes.append(len(content))
        real(fd, path, offset, content)

    monkeypatch.setattr(reading, "read_at", watch)
    monkeypatch.setattr(frames, "SLICE", 2)
    monkeypatch.setattr(reading, "PIECE_BYTES", 700)
    assert not verify(data_dir).damaged
    assert 300 < max(sizes) <= 700


def test_without_contents_the_frames_values_are_not_read(data_dir: Path) -> None:
    set_rows("c.words", 113, 5)(data_dir)
    assert verify(data_dir).damaged
    report = verify(data_dir, contents=False)
    assert not report.damaged
    assert "buffer ring: 50 of 50 frames" in report.checked


def test_episodes_with_times_of_their_own_are_compared_as_they_came(tmp_path: Path) -> None:
    times = {"timestamp": np.array([0, 0.5, 0.5, 9])}
    numbers = {"frame_index": np.array([3, 3, 4, 0])}
    with Store(tmp_path) as store:
        buffer, _ = store.create("ring", SPEC)
        for tag, more in enumerate(({}, times, numbers, {**times, **numbers}, {}), 1):
            buffer.append({**episode(tag, 4), **more}, Origin("w", tag))
    report = verify(tmp_path)
    assert report.findings == []
    assert "the values of 5 episodes" in report.checked[0]
    set_rows("timestamp", 13, 0.6, 2)(tmp_path)
    (finding,) = verify(tmp_path).findings
    assert "1 of 5 whole episodes, the first of them 3 (index 12 to 15)" in finding.what


def test_a_sector_that_cannot_be_read_is_a_finding(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.preadv
    broken = (data_dir / SMALL).stat().st_ino

    def fail(fd: int, *arguments: Any) -> int:
        if os.fstat(fd).st_ino == broken:
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, *arguments)

    monkeypatch.setattr(os, "preadv", fail)
    ((where, what),) = found(verify(data_dir), harmless=False)
    assert where == "ring"
    assert what == f"{data_dir}/{SMALL} cannot be read at byte 8,800: Input/output error"


def test_every_damaged_buffer_is_reported(data_dir: Path) -> None:
    for name in ("ring", "other"):
        truncate(f"{name}/cursor")(data_dir)
    truncate(".parameters/policy")(data_dir)
    report = verify(data_dir)
    places = [where for where, _ in found(report, harmless=False)]
    assert places == ["other/cursor", "ring/cursor", ".parameters/policy"]
    assert list(report.lines())[-1] == f"{data_dir}: 3 damaged"


def test_cursors_that_only_differ_in_how_many_episodes_there_were_are_told_apart(
    tmp_path: Path,
) -> None:
    with Store(tmp_path) as store:
        for name, lengths in (("ring", (10,)), ("other", (4, 6))):
            buffer, _ = store.create(name, SPEC)
            for length in lengths:
                buffer.append(episode(1, length))
    swap("ring/cursor", "other/cursor")(tmp_path)
    one, two = found(verify(tmp_path), harmless=False)
    assert one == (
        "other/cursor",
        "by its durable slot the next episode is number 1, by the frames 2",
    )
    assert two == (
        "ring/cursor",
        "by its durable slot the next episode is number 2, by the frames 1",
    )


# What is no damage


def leave_behind(data_dir: Path) -> None:
    (data_dir / ".creating-0").mkdir()
    (data_dir / ".deleting-1").mkdir()
    (data_dir / "notes").write_text("mine")
    (data_dir / "lost+found").mkdir()
    (data_dir / "ring/columns/old").write_text("mine")
    (data_dir / ".parameters/.policy.part").write_text("half")
    (data_dir / ".parameters/a b").write_text("mine")
    shutil.copytree(data_dir / "ring", data_dir / "twin")


def test_what_is_no_damage_is_noted_as_such(data_dir: Path) -> None:
    leave_behind(data_dir)
    report = verify(data_dir)
    assert not report.damaged
    assert [(where, what.split(" ", 3)[:3]) for where, what in found(report, harmless=True)] == [
        ("ring/columns/old", ["is", "none", "of"]),
        ("twin/columns/old", ["is", "none", "of"]),
        ("twin", ["has", "the", "same"]),
        (".parameters/.policy.part", ["was", "being", "written"]),
        (".parameters/a b", ["is", "none", "of"]),
        (".creating-0", ["was", "being", "created"]),
        (".deleting-1", ["was", "being", "created"]),
        ("notes", ["is", "neither", "a"]),
    ]
    assert "note      notes: is neither" in "\n".join(report.lines())


def test_a_name_that_is_no_text_is_shown_all_the_same(data_dir: Path) -> None:
    """In a locale whose output is strict, the report once ended in a traceback, and in 1."""
    (data_dir / os.fsdecode(b"\xff")).mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "replayring_server", "verify", data_dir],
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "note      \\udcff: is neither" in done.stdout


def test_a_sparse_copy_is_noted(data_dir: Path) -> None:
    """On a disk that is full later it would cost the server its life."""
    path = data_dir / "ring/columns/c.words"
    size = path.stat().st_size
    os.truncate(path, 0)
    os.truncate(path, size)
    ((where, what),) = found(verify(data_dir, contents=False), harmless=True)
    assert where == "ring/columns/c.words"
    assert what == f"takes 0 of its {size:,} bytes on the disk"


# Beside a server, and on something else


def test_a_served_directory_is_refused_and_the_server_undisturbed(data_dir: Path) -> None:
    with Store(data_dir) as store:
        store.lock.describe("pid 7, 127.0.0.1:50051")
        for _ in range(2):
            with pytest.raises(DirectoryLockedError, match=r"this process.* stop it, then verify"):
                verify(data_dir)
        with pytest.raises(DirectoryLockedError):
            DirectoryLock(data_dir)
        store.get("ring").append(episode(50, 3))
    assert not verify(data_dir).damaged


def test_a_server_that_came_and_went_meanwhile_is_noticed(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve_meanwhile(*_: object, **__: object) -> Any:
        with Store(data_dir) as store:
            store.get("ring").append(episode(50, 3))
        return iter(())

    monkeypatch.setattr("replayring_server.inspection.directory._check_lock", serve_meanwhile)
    with pytest.raises(DirectoryLockedError, match="while it was checked"):
        verify(data_dir)


@pytest.mark.parametrize(
    ("below", "message"),
    [
        ("nowhere", "there is no directory"),
        ("lock", "there is no directory"),
        ("ring", "is one buffer; name the data directory"),
        ("ring/columns", "is no data directory"),
    ],
)
def test_what_is_no_data_directory_is_said_to_be_none(
    data_dir: Path, below: str, message: str
) -> None:
    with pytest.raises(NotFoundError, match=message):
        verify(data_dir / below)


def test_a_snapshot_is_said_to_be_one_and_neither_checked_nor_served_nor_overwritten(
    data_dir: Path, tmp_path: Path
) -> None:
    to = tmp_path / "to"
    snapshot(data_dir, str(to))
    before = fingerprint(to, without=("lock",))
    for look in (verify, describe):
        with pytest.raises(NotFoundError, match=r"is a snapshot: `replayring restore"):
            look(to)
    with pytest.raises(StorageError, match=r"is a snapshot: `replayring restore"):
        Store(to)
    assert fingerprint(to, without=("lock",)) == before
    before = fingerprint(data_dir)
    shutil.copytree(data_dir, tmp_path / "other")
    with pytest.raises(InvalidRequestError, match="is a server's data directory"):
        snapshot(tmp_path / "other", str(data_dir))
    assert fingerprint(data_dir) == before


def test_json_says_the_same(data_dir: Path) -> None:
    truncate("ring/cursor")(data_dir)
    report = json.loads(json.dumps(verify(data_dir).as_json()))
    assert report["damaged"] is True
    assert report["data_dir"] == str(data_dir)
    (finding,) = report["findings"]
    assert finding.keys() == {"where", "what", "means", "remedy", "harmless"}
    assert finding["where"] == "ring/cursor"
