"""A restored buffer is what the plain list was when the snapshot was taken, and lives on like it.

The state machine of the engine's own model, whose server may also lose everything and come back
from its last snapshot, at any step. What it does after that, it does to the restored buffer.
"""

from __future__ import annotations

import copy
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from replayring_server.engine import Store
from replayring_server.inspection import verify
from replayring_server.snapshots import parts, restore, snapshot
from tests.engine.test_model import CAPACITIES, EngineAndModel, explore

EXAMPLES = int(os.environ.get("REPLAYRING_SNAPSHOT_EXAMPLES", "6"))


class SnapshotsAndModel(EngineAndModel):
    def begin_anew(self) -> None:
        super().begin_anew()
        self.kept = None
        self.destination = self.make_folder()

    def make_folder(self) -> Any:
        folder = tempfile.TemporaryDirectory(dir=Path(self.folder.name).parent)
        self.made = [*getattr(self, "made", ()), folder]
        return folder

    @rule(frames=st.sampled_from([1, 3, 1000]), prune=st.booleans())
    def take(self, frames: int, prune: bool) -> None:
        """Parts have another number of frames each time, as those of other versions may."""
        parts.PART_BYTES = frames * 64
        taken = snapshot(self.folder.name, self.destination.name, prune=prune)
        assert taken.failed == {}
        assert [one.overwritten for one in taken.buffers] == [0]
        self.kept = copy.deepcopy((self.model, self.sent))

    @precondition(lambda self: self.kept is not None)
    @rule()
    def come_back(self) -> None:
        self.store.close()
        self.made.append(self.folder)
        self.folder = self.make_folder()
        restore(self.destination.name, self.folder.name)
        assert verify(self.folder.name).findings == []
        self.store = Store(self.folder.name)
        self.buffer = self.store.get("ring")
        assert self.buffer.spec == self.spec
        self.model, self.sent = self.kept
        self.kept = None
        self.destination = self.make_folder()

    def teardown(self) -> None:
        super().teardown()
        for folder in getattr(self, "made", ()):
            folder.cleanup()


@pytest.mark.parametrize("capacity", CAPACITIES)
def test_what_comes_back_is_what_was(capacity: int) -> None:
    explore(SnapshotsAndModel, capacity, EXAMPLES)
