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
from replayring_proto.errors import DirectoryLockedError, NotFoundError
from replayring_server.engine import Origin, Store
from replayring_server.engine.lock import DirectoryLock
from replayring_server.inspection import Report, describe, frames, reading, verify
from tests import stored
from tests.engine.folders import fingerprint
from tests.inspection.spoiling import (
    SPEC,
    Spoil,
    change_record,
    episode,
    erase_record,
    flip,
    move_record,
    set_counters,
    set_rows,
    swap,
    truncate,
)


def fifo(name: str) -> Spoil:
    def spoil(data_dir: Path) -> None:
        (data_dir / name).unlink()
        os.mkfifo(data_dir / name)

    return spoil


def link(name: str) -> Spoil:
    def spoil(data_dir: Path) -> None:
        (data_dir / name).rename(data_dir / ".elsewhere")
        (data_dir / name).symlink_to(data_dir / ".elsewhere")

    return spoil


def remove(name: str) -> Spoil:
    return lambda data_dir: (data_dir / name).unlink()


def edit(name: str, old: str, new: str) -> Spoil:
    def spoil(data_dir: Path) -> None:
        content = (data_dir / name).read_text()
        assert old in content
        (data_dir / name).write_text(content.replace(old, new))

    return spoil


def flipped(name: str, at: int) -> Spoil:
    return lambda data_dir: flip(data_dir / name, at, 0x10)


def swap_columns(one: str, other: str) -> Spoil:
    def spoil(data_dir: Path) -> None:
        first, second = (stored.stored_column(data_dir / "ring", SPEC, key) for key in (one, other))
        held = first.copy()
        first[...] = second
        second[...] = held

    return spoil


def copied(one: str, to: str) -> Spoil:
    return lambda data_dir: shutil.copyfile(data_dir / one, data_dir / to)


def renamed(one: str, to: str) -> Spoil:
    return lambda data_dir: (data_dir / one).rename(data_dir / to)


SMALL = f"ring/{stored.SMALL}"

# Of "ring", frames 110 to 159 live: episodes 26 to 39, the first of them not whole; see conftest.
DAMAGES: dict[str, tuple[Spoil, str, str]] = {
    "an edited spec": (
        edit("ring/buffer.json", '"fps": 10', '"fps": 20'),
        "ring",
        "its checksum does not match",
    ),
    "an unknown version": (edit("ring/buffer.json", '"format": 2', '"format": 7'), "ring", "7"),
    "a spec that is cut short": (truncate("ring/buffer.json", 9), "ring", "not a replayring"),
    "a spec that is gone": (remove("ring/buffer.json"), "ring", "buffer.json: No such file"),
    "a linked buffer": (link("ring"), "ring", "symbolic link"),
    "a linked folder of columns": (link("ring/columns"), "ring", "columns is a symbolic link"),
    "a linked column": (link(SMALL), SMALL, "symbolic link"),
    "a column that is a pipe": (fifo(SMALL), SMALL, "regular file"),
    "a column that is gone": (remove(SMALL), SMALL, "No such file"),
    "a column cut short": (
        truncate("ring/columns/c.words", 8),
        "ring/columns/c.words",
        "has 36,472 bytes, but the buffer's spec says 36,480",
    ),
    "a longer cursor": (truncate("ring/cursor", -1), "ring/cursor", "has 4,097 bytes"),
    "columns that are gone": (
        lambda data_dir: shutil.rmtree(data_dir / "ring/columns"),
        SMALL,
        "No such file",
    ),
    "no durable slot": (
        lambda data_dir: [flip(data_dir / "ring/cursor", at, 1) for at in layout.SLOT_OFFSETS],
        "ring",
        "neither durable slot",
    ),
    "head beyond intent": (set_counters(head=170), "ring/cursor", "low=0, head=170, intent=160"),
    "head before what was synced": (
        set_counters(head=154),
        "ring/cursor",
        "head is 154, but 160 frames had been synced",
    ),
    "intent far ahead": (set_counters(intent=230), "ring/cursor", "head=160, intent=230"),
    "a low that hides frames": (set_counters(low=130), "ring/cursor", "low is 130, which no"),
    "another cursor": (
        swap("ring/cursor", "other/cursor"),
        SMALL,
        "the first at index 0, hold another number",
    ),
    "a frame of another place": (
        set_rows("index", 120, 6),
        SMALL,
        "column 'index': 1 frames, the first at index 120, hold another number",
    ),
    "frames of another place, over the end of the file": (
        set_rows("index", 112, 6, 5),
        SMALL,
        "column 'index': 5 frames, the first at index 112, hold another number",
    ),
    "the newest frame in another place": (
        set_rows("index", 159, 6),
        SMALL,
        "column 'index': 1 frames, the first at index 159",
    ),
    "bounds that exclude their frame": (
        set_rows("_bounds", 126, (0, 100), 6),
        SMALL,
        "column '_bounds': 7 frames, the first at index 126, name bounds",
    ),
    "bounds in the midst of an episode": (
        set_rows("_bounds", 135, (135, 139)),
        SMALL,
        "column '_bounds': 2 frames, the first at index 135",
    ),
    "bounds beyond the newest frame": (
        set_rows("_bounds", 154, (154, 161), 6),
        SMALL,
        "column '_bounds': 6 frames, the first at index 154",
    ),
    "an episode with another's number": (
        set_rows("episode_index", 140, 30, 2),
        SMALL,
        "column 'episode_index': 2 frames, the first at index 140",
    ),
    "an episode below 0": (
        set_rows("episode_index", 110, -1),
        SMALL,
        "first at index 110",
    ),
    "a time that is none": (
        set_rows("timestamp", 128, np.nan),
        SMALL,
        "column 'timestamp': 2 frames, the first at index 128, have a time",
    ),
    "a time that goes back": (
        set_rows("timestamp", 130, 0.05),
        SMALL,
        "column 'timestamp': 1 frames, the first at index 130",
    ),
    "a time that was made up": (
        set_rows("timestamp", 131, 77.0),
        "ring/columns",
        "1 of 13 whole episodes, the first of them 32 (index 126 to 131)",
    ),
    "a frame number that was made up": (
        set_rows("frame_index", 131, 4),
        "ring/columns",
        "1 of 13 whole episodes, the first of them 32",
    ),
    "a bool that is none": (
        set_rows("done", 126, 2),
        SMALL,
        "column 'done': 1 frames, the first at index 126, hold bytes other than 0 and 1",
    ),
    "a changed value": (
        set_rows("c.words", 113, 5),
        "ring/columns",
        "1 of 13 whole episodes, the first of them 28 (index 112 to 113), are not what",
    ),
    "columns swapped": (
        swap_columns("a.tag", "frame_index"),
        "ring/columns",
        "13 of 13 whole episodes",
    ),
    "a column of another buffer": (
        swap("ring/columns/c.words", "other/columns/c.words"),
        "ring/columns",
        "whole episodes",
    ),
    "a record that is not whole": (
        change_record("episodes", 35, num_frames=3),
        "ring/episodes",
        "1 records are not whole, the first at place 35",
    ),
    "a record of no frames": (
        change_record("episodes", 35, num_frames=0),
        "ring/episodes",
        "1 records are not whole, the first at place 35",
    ),
    "a record in another place": (
        move_record("episodes", 35, 80),
        "ring/episodes",
        "1 records lie in another place than their episode's, the first at 80",
    ),
    "the records of another buffer": (
        swap("ring/episodes", "other/episodes"),
        "ring/writers",
        "3 writers, 'ring-1' among them, have another last episode than the log says",
    ),
    "a writer that is not whole": (
        change_record("writers", 1, writer_id=b"x"),
        "ring/writers",
        "1 records are not whole, the first at place 1",
    ),
    "a writer that was erased": (
        erase_record("writers", 1),
        "ring/writers",
        "1 writers, 'ring-2' among them, lack their last episode",
    ),
    "the writers of another buffer": (
        swap("ring/writers", "other/writers"),
        "ring/writers",
        "have another last episode than the log says",
    ),
    "parameters cut short": (truncate(".parameters/policy"), ".parameters/policy", "is damaged"),
    "parameters of another version": (
        flipped(".parameters/policy", 8),
        ".parameters/policy",
        "checksum does not match",
    ),
    "parameters of another name": (
        swap(".parameters/policy", ".parameters/critic"),
        ".parameters/critic",
        "checksum does not match",
    ),
    "a linked folder of parameters": (link(".parameters"), ".parameters", "symbolic link"),
    "a linked lock": (link("lock"), "lock", "symbolic link"),
    "a buffer of no valid name": (renamed("ring", "my ring"), "my ring", "its name cannot be"),
}


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


def test_json_says_the_same(data_dir: Path) -> None:
    truncate("ring/cursor")(data_dir)
    report = json.loads(json.dumps(verify(data_dir).as_json()))
    assert report["damaged"] is True
    assert report["data_dir"] == str(data_dir)
    (finding,) = report["findings"]
    assert finding.keys() == {"where", "what", "means", "remedy", "harmless"}
    assert finding["where"] == "ring/cursor"
