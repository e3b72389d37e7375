"""The live side: what one buffer's files hold at a moment, read while a server writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from replayring_proto import layout
from replayring_proto.errors import OvertakenError, StorageError
from replayring_proto.ring import Counters, Live
from replayring_server.engine import files
from replayring_server.engine.cursor import read_slots
from replayring_server.engine.records import Record
from replayring_server.inspection.reading import FrameReader
from replayring_server.inspection.standing import Standing, read_ends

Array = npt.NDArray[Any]

_ATTEMPTS = 1000


@dataclass(frozen=True)
class Cut:
    """One moment of a buffer.

    Attributes:
        live: the live frames.
        episodes: number that the next episode gets.
        durable: frames below this `index` survive a power loss.
        lineage: of the others, whose numbers a power loss may give to others yet.
    """

    live: Live
    episodes: int
    durable: int
    lineage: bytes
    _log: npt.NDArray[np.uint8]
    _writers: npt.NDArray[np.uint8]

    def records(self) -> tuple[Array, Array]:
        """Returns the records in the log, and the last one of each writer: each by episode.

        Takes long enough for a small ring to turn: to be asked when the frames are copied.
        """
        log = _published(self._log, self.episodes)
        known = _by_episode([*_published(self._writers, self.episodes), *log])
        last = {record.origin.writer_id: record for record in known}
        return _encoded(log), _encoded(_by_episode(last.values()))


class Source:
    """One buffer's files, open to be read. A context manager. Not thread-safe.

    The files stay readable when the buffer is deleted meanwhile.

    Attributes:
        buffer_id: identity given at creation.
        spec: what the buffer holds.
    """

    def __init__(self, folder: Path) -> None:
        """Opens the files in `folder`.

        Raises:
            StorageError: they are no buffer, cannot be read, or were deleted meanwhile.
        """
        if folder.is_symlink():
            raise StorageError(f"{folder} is a symbolic link; refused")
        with ExitStack() as undo:
            with files.opened_together(folder / layout.CURSOR):
                meta = folder / layout.META
                self.buffer_id, self.spec = layout.decode_meta(files.read_whole(meta), str(meta))
                files.check_sizes(folder, layout.file_sizes(self.spec))
                self._page, self._log, self._writers = (
                    files.map_file(folder / name)
                    for name in (layout.CURSOR, layout.EPISODES, layout.WRITERS)
                )
                columns = layout.stored_columns(self.spec)
                self._frames = undo.enter_context(FrameReader(folder, self.spec, columns))
            undo.pop_all()
        self._rows = layout.physical_rows(self.spec.capacity)

    def cut(self) -> Cut:
        """Returns how the buffer stands at a moment after this was called.

        The writers' table is read before that moment, and the log after it, so that every episode
        between the two is in the log, which must not have moved on by more than half meanwhile.

        Raises:
            OvertakenError: it did, every time.
            StorageError: the files are damaged.
        """
        places = len(self._log) // layout.EPISODE_RECORD.itemsize
        for _ in range(_ATTEMPTS):
            before = self._ends()[1]
            writers = self._writers.copy()
            standing, last = self._ends()
            log = self._log.copy()
            if self._ends()[1] - before < places // 2:
                return Cut(standing.live, last + 1, *self._ground(), log, writers)
        raise OvertakenError("writers overtook every attempt to read who they are; try again")

    def _ground(self) -> tuple[int, bytes]:
        """Returns which frames are durable, and the lineage of the others."""
        # The newer of two slots may not be on the disk yet.
        durable = min(slot.head for slot in read_slots(self._page) if slot)
        return durable, layout.lineage_of(self._page).tobytes()

    def read(self, first: int, arrays: Mapping[str, Array]) -> int:
        """Fills `arrays`, one for each stored column, with the frames from `first` on.

        Returns:
            `index` of the first one that is whole; those before it were being overwritten.

        Raises:
            StorageError: the disk cannot read them.
        """
        self._frames.read_into(first, arrays)
        # Nothing is overwritten before a server has opened the files in this life of the machine.
        if layout.boot_id_of(self._page).tobytes() != layout.machine_boot_id():
            return first
        return max(first, Counters(self._page).intent - self._rows)

    def _ends(self) -> tuple[Standing, int]:
        """Returns where the ring stands, and the number of the last episode."""
        standing, _, last = read_ends(self._page, self._frames, self.spec.capacity)
        return standing, last

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self._frames.close()


def _published(content: npt.NDArray[np.uint8], next_episode: int) -> list[Record]:
    """Returns the whole records of published episodes. One that is torn is newer."""
    encoded = content.view(layout.EPISODE_RECORD)
    found = (Record.decode(encoded[slot]) for slot in np.flatnonzero(encoded["num_frames"]))
    return _by_episode(one for one in found if one and one.episode_index < next_episode)


def _by_episode(records: Iterable[Record]) -> list[Record]:
    return sorted(records, key=lambda record: record.episode_index)


def _encoded(records: list[Record]) -> Array:
    encoded = b"".join(record.encode() for record in records)
    return np.frombuffer(encoded, layout.EPISODE_RECORD)
