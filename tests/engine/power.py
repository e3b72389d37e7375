"""A disk that can lose power: what of a buffer's files would be found afterwards.

Between two syncs of a file, the kernel may write any of its pages at any moment, or never. So after
a power loss every sector holds what it held at the last sync, or at some moment since. `PowerDisk`
notes each file at its syncs and at moments in between; `lose` mixes these, sector by sector.
"""

from __future__ import annotations

import random
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from replayring_proto import layout
from replayring_proto.layout import CURSOR
from replayring_server.engine import files

SECTOR = 512
CURSOR_GRAIN = 16


class PowerDisk:
    """Stands between one buffer's folder and the disk.

    Attributes:
        watcher: called at every moment worth losing power at: before and after each sync, and
            whenever `pass_moment` is called.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
        self.random = random.Random(seed)
        self.watcher: Callable[[], None] = lambda: None
        self._synced: dict[Path, bytes] = {}
        self._since: defaultdict[Path, list[bytes]] = defaultdict(list)
        self._monkeypatch = monkeypatch
        self._folder = Path()
        monkeypatch.setattr(files, "sync_mapped", self._sync)
        self._boots = 0
        self.restart_machine()

    def restart_machine(self) -> None:
        """Gives the machine a new boot id."""
        self._boots += 1
        boot_id = self._boots.to_bytes(16, "big")
        self._monkeypatch.setattr(layout, "machine_boot_id", lambda: boot_id)

    def pass_moment(self) -> None:
        """Notes what lies in every file now: the kernel might write it back at this moment."""
        for path in self._synced:
            self._since[path] = [*self._since[path][-3:], path.read_bytes()]
        self.watcher()

    def lose(self, target: Path) -> None:
        """Puts what a power loss now would leave of the noted files into `target`."""
        for path, synced in self._synced.items():
            versions = [synced, *self._since[path], path.read_bytes()]
            grain = CURSOR_GRAIN if path.name == CURSOR else SECTOR
            pieces = range(0, len(synced), grain)
            content = b"".join(self.random.choice(versions)[at : at + grain] for at in pieces)
            relative = path.relative_to(self._folder)
            (target / relative).parent.mkdir(parents=True, exist_ok=True)
            (target / relative).write_bytes(content)
        for path in self._folder.glob("*.json"):
            shutil.copy(path, target)

    def watch(self, folder: Path) -> None:
        """Takes the files of a buffer just created, all of them synced, as they are."""
        self._folder = folder
        self._synced = {
            path: path.read_bytes()
            for path in sorted(folder.rglob("*"))  # in one order on every file system
            if path.is_file() and path.suffix != ".json"
        }
        self._since.clear()

    @contextmanager
    def watching(self, folder: Path, watcher: Callable[[], None]) -> Iterator[None]:
        """Takes what a loss has left in `folder` in place of the files watched before, for now."""
        outer = self._folder, self._synced, self._since, self.watcher
        self._since, self.watcher = defaultdict(list), watcher
        self.watch(folder)
        yield
        self._folder, self._synced, self._since, self.watcher = outer

    def _sync(self, mapped: files.Bytes, path: Path) -> None:
        if path not in self._synced:
            return
        self.watcher()
        self._synced[path] = path.read_bytes()
        self._since[path] = []
        self.watcher()
