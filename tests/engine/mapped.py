"""Readers of a buffer that another process writes: its files, mapped, and no lock."""

from __future__ import annotations

import mmap
import random
from pathlib import Path
from typing import Any

import numpy as np

from replayring_proto import layout
from replayring_proto.query import SampleQuery
from replayring_proto.ring import Counters, FrameColumns, RingReader, UniformSampler
from replayring_proto.spec import BufferSpec
from tests.engine.frames import assert_whole


def open_for_reading(folder: Path, spec: BufferSpec) -> RingReader:
    """Maps a buffer's files as a client on the same machine does: to read, and without a lock."""

    def mapped(path: Path) -> np.ndarray[Any, Any]:
        with path.open("rb") as file:
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)

    columns = FrameColumns(spec, lambda name: mapped(folder / name))
    return RingReader(spec, Counters(mapped(folder / layout.CURSOR)), columns)


def read_batch(reader: RingReader, rng: random.Random, size: int) -> tuple[int, bool]:
    """Reads a batch; returns its size, and whether a row of it is torn."""
    query = SampleQuery(size)
    pack = UniformSampler(reader, query, np.random.default_rng(rng.getrandbits(32))).batch()
    try:
        assert_whole(reader.spec, pack.arrays)
    except AssertionError:
        return size, True
    return size, False
