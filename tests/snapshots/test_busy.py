"""Snapshots beside writers at full speed, in another process: whole rows, whole episodes, no gaps.

REPLAYRING_SNAPSHOTS sets how many are taken of each of two buffers.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from replayring_server.engine import files
from replayring_server.snapshots import parts, restore, snapshot
from tests.engine.crowd import BUFFERS, SPEC, member
from tests.snapshots.comparing import check_cut

SNAPSHOTS = int(os.environ.get("REPLAYRING_SNAPSHOTS", "12"))


@pytest.mark.parametrize("frames", [3, 100, 4000])
def test_every_cut_is_whole(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch, frames: int
) -> None:
    """In parts of so many frames, of rings of 3,000, over one destination, again and again."""
    monkeypatch.setattr(parts, "PART_BYTES", frames * parts.part_layout(SPEC, 64).nbytes // 64)
    monkeypatch.setattr(files.os, "fsync", lambda fd: None)  # the more snapshots
    data, to, back = (memory_path / name for name in ("data", "to", "back"))
    heads = dict.fromkeys(BUFFERS, 0)
    with member("write", data) as said:
        assert said.readline() == "full\n"
        for _ in range(SNAPSHOTS):
            taken = snapshot(data, str(to), prune=True)
            assert taken.failed == {}
            restore(str(to), back)
            for one in taken.buffers:
                found = check_cut(back, one.name)
                assert (found.oldest, found.next_index) == (one.oldest_index, one.next_index)
                assert one.next_index - one.oldest_index + one.overwritten <= SPEC.capacity
                assert found.next_index > heads[one.name], "an older cut"
                heads[one.name] = found.next_index
            shutil.rmtree(back)
