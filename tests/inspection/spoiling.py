"""Ways to damage a data directory, one file at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from replayring_proto import layout
from replayring_proto.spec import BufferSpec
from tests.engine.frames import checked_episode
from tests.stored import stored_column

SPEC = BufferSpec.from_data_spec(
    {
        "a.tag": {"shape": (), "dtype": "int64"},
        "b.bytes": {"shape": (8,), "dtype": "uint8"},
        "c.words": {"shape": (80,), "dtype": "int32"},
        "done": {"shape": (), "dtype": "bool"},
        "z.tag": {"shape": (), "dtype": "int64"},
    },
    50,
    10,
)

Spoil = Callable[[Path], Any]


def flip(path: Path, at: int, mask: int) -> None:
    """Changes bits of one byte."""
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ mask]))


def truncate(name: str, by: int = 1) -> Spoil:
    return lambda data_dir: os.truncate(data_dir / name, (data_dir / name).stat().st_size - by)


def swap(one: str, other: str) -> Spoil:
    def spoil(data_dir: Path) -> None:
        first, second = data_dir / one, data_dir / other
        held = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(held)

    return spoil


def set_rows(name: str, index: int, value: Any, count: int = 1) -> Spoil:
    """Changes rows of a column of "ring", from the one of the frame `index`."""

    def spoil(data_dir: Path) -> None:
        column = stored_column(data_dir / "ring", SPEC, name)
        raw = column.view(np.uint8) if column.dtype == np.bool_ else column
        raw[np.arange(index, index + count) % len(raw)] = value

    return spoil


def set_counters(**counters: int) -> Spoil:
    """Changes live counters of "ring"."""

    def spoil(data_dir: Path) -> None:
        words = np.memmap(data_dir / "ring" / layout.CURSOR, np.int64, "r+")
        for name, value in counters.items():
            words[getattr(layout, f"{name.upper()}_WORD")] = value
        words.flush()

    return spoil


def change_record(name: str, slot: int, **fields: Any) -> Spoil:
    """Changes a record of "ring" without its checksum, as a flipped bit would."""

    def spoil(data_dir: Path) -> None:
        records = np.memmap(data_dir / "ring" / name, layout.EPISODE_RECORD, "r+")
        for field, value in fields.items():
            records[field][slot] = value
        records.flush()

    return spoil


def erase_record(name: str, slot: int) -> Spoil:
    """Erases a record of "ring" as if it had never been."""
    size = layout.EPISODE_RECORD.itemsize

    def spoil(data_dir: Path) -> None:
        with (data_dir / "ring" / name).open("r+b") as file:
            file.seek(slot * size)
            file.write(bytes(size))

    return spoil


def move_record(name: str, slot: int, to: int) -> Spoil:
    """Moves a whole record of "ring" to another place."""

    def spoil(data_dir: Path) -> None:
        records = np.memmap(data_dir / "ring" / name, layout.EPISODE_RECORD, "r+")
        records[to] = records[slot]
        records[slot] = np.zeros((), layout.EPISODE_RECORD)
        records.flush()

    return spoil


def episode(tag: int, frames: int) -> dict[str, np.ndarray[Any, Any]]:
    """An episode that fits `SPEC`."""
    return {**checked_episode(SPEC, tag, frames), "done": np.arange(frames) == frames - 1}
