"""Whether a restored buffer is what a buffer was."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from replayring_proto.layout import BOUNDS
from replayring_server.engine import Buffer, Store
from replayring_server.inspection import verify
from tests.engine.frames import assert_contiguous, assert_whole


@dataclass(frozen=True)
class Moment:
    """All that can be seen of a buffer: live frames by column, and what comes next."""

    frames: dict[str, bytes]
    oldest: int
    next_index: int
    next_episode: int


def moment(buffer: Buffer, start: int | None = None) -> Moment:
    """Returns a buffer as it is, or as if its oldest frame were `start`."""
    info, live = buffer.info(), buffer.reader.live
    first = live.start if start is None else start
    rows = np.arange(first, live.end) % info.physical_rows
    frames = {name: column[rows].tobytes() for name, column in buffer.reader.columns.items()}
    assert BOUNDS.name in frames
    return Moment(frames, first, info.next_index, info.next_episode_index)


def restored_moment(data_dir: Path, name: str = "ring") -> Moment:
    """Returns a restored buffer, in whose directory nothing is amiss."""
    report = verify(data_dir)
    assert report.findings == []
    with Store(data_dir) as store:
        return moment(store.get(name))


def check_cut(data_dir: Path, name: str = "ring") -> Moment:
    """Checks that a buffer of checked frames has whole rows and no gaps; returns it."""
    report = verify(data_dir)
    assert report.findings == []
    with Store(data_dir) as store:
        buffer = store.get(name)
        found = moment(buffer)
        live, rows = buffer.reader.live, buffer.info().physical_rows
        arrays = {
            name: column[np.arange(live.start, live.end) % rows]
            for name, column in buffer.reader.columns.items()
        }
        assert_whole(buffer.spec, arrays)
        assert_contiguous(arrays)
        np.testing.assert_array_equal(arrays["index"], np.arange(live.start, live.end))
        assert arrays[BOUNDS.name][-1, 1] == live.end, "an episode was cut at its new end"
    return found
