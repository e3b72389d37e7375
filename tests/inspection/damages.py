"""The kinds of damage that `verify` has to find, and what it has to say of each."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np

from replayring_proto import layout
from tests import stored
from tests.inspection.spoiling import (
    SPEC,
    Spoil,
    change_record,
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
