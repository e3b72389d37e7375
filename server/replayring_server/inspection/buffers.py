"""Checking one buffer, from its description over its cursor to its frames and records."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from replayring_proto import layout
from replayring_proto.errors import StorageError
from replayring_proto.spec import BufferSpec
from replayring_server.engine import files
from replayring_server.inspection.frames import Episodes, check_frames
from replayring_server.inspection.reading import read_file
from replayring_server.inspection.records import Records, RecordsCheck, check_contents
from replayring_server.inspection.report import Finding, Report
from replayring_server.inspection.standing import Standing, check_standing

_REFUSED = "opening refuses the buffer and leaves it as it is; other buffers are served"
_RESTORE = "restore it from a copy of the same moment as the other files, or delete the buffer"


class BufferCheck:
    """Checks one buffer's folder and reports as it goes."""

    def __init__(self, folder: Path, report: Report, *, contents: bool) -> None:
        """Takes what is checked.

        Args:
            folder: the buffer's.
            report: gets what is found.
            contents: whether to read the frames' values too, and compare them with their hashes.
        """
        self._folder = folder
        self._where = Path(folder.name)
        self._report = report
        self._contents = contents

    def run(self) -> str | None:
        """Checks all that can be checked, and returns the buffer's id if that can be read."""
        buffer_id = None
        try:
            if self._folder.is_symlink():
                raise StorageError(f"{self._folder} is a symbolic link; refused")
            meta = self._folder / layout.META
            buffer_id, spec = layout.decode_meta(files.read_whole(meta), str(meta))
            # Beyond damage to what says where things lie, nothing could be said for sure.
            if self._report.add(self._check_files(spec)):
                self._check_ring(spec)
        except OSError as error:
            self._report.add([Finding(str(self._where), str(error), _REFUSED, _RESTORE)])
        return buffer_id

    def _check_files(self, spec: BufferSpec) -> Iterator[Finding]:
        """Checks kinds and sizes of all files, and that there are no others."""
        sizes = layout.file_sizes(spec)
        if (self._folder / layout.COLUMNS).is_symlink():
            raise StorageError(f"{self._folder / layout.COLUMNS} is a symbolic link; refused")
        for name, size in sizes.items():
            yield from self._check_file(name, size)
        known = {*sizes, layout.META, layout.COLUMNS}
        folders = (self._folder, self._folder / layout.COLUMNS)
        for path in sorted(path for each in folders if each.is_dir() for path in each.iterdir()):
            name = str(path.relative_to(self._folder))
            if name not in known:
                yield Finding(
                    str(self._where / name),
                    "is none of the buffer's files",
                    "it is ignored, and goes when the buffer is deleted",
                    "move it away if it is of use elsewhere",
                    harmless=True,
                )

    def _check_file(self, name: str, size: int) -> Iterator[Finding]:
        where = str(self._where / name)
        try:
            fd = files.open_file(self._folder / name, os.O_RDONLY)
        except StorageError as error:
            yield Finding(where, str(error), _REFUSED, _RESTORE)
            return
        try:
            status = os.fstat(fd)
        finally:
            os.close(fd)
        if status.st_size != size:
            yield Finding(
                where,
                f"has {status.st_size:,} bytes, but the buffer's spec says {size:,}",
                f"it was changed, or a copy was cut short. {_REFUSED}",
                _RESTORE,
            )
        elif status.st_blocks * 512 < size:
            yield Finding(
                where,
                f"takes {status.st_blocks * 512:,} of its {size:,} bytes on the disk",
                "its space is not reserved, as after a sparse copy or on a file system that "
                "compresses: once the disk is full, a write would kill the server",
                "copy it with `cp --sparse=never`, while no server runs",
                harmless=True,
            )

    def _check_ring(self, spec: BufferSpec) -> None:
        """Checks the cursor, and by it the frames, and by these the records."""
        page = read_file(self._folder / layout.CURSOR)
        standing = Standing.read(page, spec.capacity)
        if not self._report.add(check_standing(self._where, page, standing)):
            return
        episodes = Episodes()
        frames = check_frames(self._folder, self._where, spec, standing.live, episodes)
        sound = self._report.add(frames)
        hashed = self._check_records(spec, standing, episodes) if sound else 0
        self._report.checked.append(
            f"buffer {self._folder.name}: {len(standing.live):,} of {spec.capacity:,} frames"
            + (f", the values of {hashed:,} episodes" if self._contents else "")
        )

    def _check_records(self, spec: BufferSpec, standing: Standing, episodes: Episodes) -> int:
        """Checks the records, and returns how many episodes' values were compared."""
        numbers = episodes.rows[:, 0]
        next_episode = int(numbers[-1]) + 1 if len(numbers) else standing.durable.episodes
        self._report.add(self._check_numbering(standing, next_episode))
        check = RecordsCheck(
            self._records(layout.EPISODES),
            self._records(layout.WRITERS),
            episodes,
            next_episode,
            standing.restored,
        )
        self._report.add(check.findings())
        records = list(check.hashed(standing.live)) if self._contents else []
        self._report.add(check_contents(self._folder, self._where, spec, records))
        return len(records)

    def _check_numbering(self, standing: Standing, next_episode: int) -> Iterator[Finding]:
        durable = standing.durable
        synced = standing.live.end == durable.head
        if durable.episodes > next_episode or (synced and durable.episodes != next_episode):
            yield Finding(
                str(self._where / layout.CURSOR),
                f"by its durable slot the next episode is number {durable.episodes:,}, by the "
                f"frames {next_episode:,}",
                "the cursor or the columns are another buffer's; numbers of episodes may repeat",
                _RESTORE,
            )

    def _records(self, name: str) -> Records:
        return Records.read(self._folder / name, str(self._where / name))
