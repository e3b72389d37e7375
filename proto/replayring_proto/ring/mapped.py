"""A server's buffer, read straight from its files by another process of the same machine.

The protocol of `ring.reader` needs nothing but the mapped files: no lock, no word with the server.
"""

from __future__ import annotations

from pathlib import Path

from replayring_proto import files, layout, machine
from replayring_proto.errors import NotFoundError, StorageError
from replayring_proto.ring.columns import FrameColumns
from replayring_proto.ring.counters import Counters
from replayring_proto.ring.reader import RingReader


class MappedRing:
    """One buffer's files, mapped to be read. Thread-safe; survives forks; unmapped when let go.

    Attributes:
        buffer_id: identity given at creation.
        reader: reads the ring.
    """

    def __init__(self, folder: Path) -> None:
        """Maps the files in `folder`.

        A server of this machine must have opened them since the machine started.

        Raises:
            StorageError: they are no buffer, may not be read by this process, are in use by another
                machine, or this is no machine on which they could be.
        """
        if not machine.STORES_IN_ORDER:
            raise StorageError("only Linux on x86-64 reads buffers of other processes")
        if folder.is_symlink():
            raise StorageError(f"{folder} is a symbolic link; refused")
        # Absolute, as the working directory may change.
        self._cursor = folder.absolute() / layout.CURSOR
        with files.opened_together(self._cursor) as self._identity:
            meta = folder / layout.META
            self.buffer_id, spec = layout.decode_meta(files.read_whole(meta), str(meta))
            files.check_sizes(folder, layout.file_sizes(spec))
            cursor = files.map_file(self._cursor)
            # Over a network file system another machine may hold them, whose writes come late or
            # never.
            if layout.boot_id_of(cursor).tobytes() != layout.machine_boot_id():
                raise StorageError(f"{folder} is not in use by a server of this machine")
            columns = FrameColumns(spec, lambda name: files.map_file(folder / name))
        self.reader = RingReader(spec, Counters(cursor), columns)

    def check_exists(self) -> None:
        """Checks that the files still have their names. Costs two microseconds.

        Raises:
            NotFoundError: they do not: the buffer was deleted, or moved away with its directory.
        """
        if not files.is_at(self._cursor, self._identity):
            raise NotFoundError("this buffer was deleted, or moved away")
