"""One buffer: a ring with its files, its reader, and the record of who stored what."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, TypeVar

from replayring_proto import layout
from replayring_proto.errors import NotFoundError, ReplayRingError, SequenceReusedError
from replayring_proto.messages import BufferInfo
from replayring_proto.ring import FrameColumns, RingReader
from replayring_proto.spec import BufferSpec
from replayring_server.engine import files
from replayring_server.engine.cursor import Checkpoint, Cursor
from replayring_server.engine.gaps import Gaps
from replayring_server.engine.incoming import Checked, check_all, side_by_side
from replayring_server.engine.records import EpisodeLog, Origin, Record, WriterTable
from replayring_server.engine.ring import RingWriter, check_ends
from replayring_server.tally import BufferTally

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Stored:
    """Where an episode was stored.

    Attributes:
        episode_index: its number in the buffer.
        index: `index` of its first frame.
        num_frames: its frames.
        duplicate: whether a retry was recognised, and it was stored before.
    """

    episode_index: int
    index: int
    num_frames: int
    duplicate: bool = False


@dataclass(frozen=True)
class Content:
    """What a new buffer begins with: nothing, or what a snapshot has.

    Attributes:
        fill: writes rows and records to the reserved files in a folder, all but the cursor, syncs
            what it wrote, and returns where the ring stands then.
        restored_from: what it came from, for buffer.json.
    """

    fill: Callable[[Path], Checkpoint] = lambda folder: Checkpoint()
    restored_from: str | None = None


NOTHING = Content()


class Buffer:
    """An open buffer. Thread-safe: appends queue on a lock, reads take none. Closed by its store.

    Attributes:
        name: the buffer's name.
        buffer_id: identity given at creation.
        spec: what it holds.
        reader: reads the ring, from any thread.
        restored: whether opening it fell back to what its last sync made durable, because the
            machine was restarted since its files were last open, or the disk failed.
        opened_index: `index` that the next frame would have got when the buffer was opened.
        opened_episode_index: the same of the next episode.
        tally: what is counted from then on.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        on_failure: Callable[[], None] = lambda: None,
        renew: Callable[[Buffer], None] = lambda buffer: None,
    ) -> None:
        """Opens the buffer in `folder`, as its last server left it.

        Args:
            folder: where its files are.
            name: what it is called.
            on_failure: called when the disk fails, by each thread that meets the error.
            renew: called when `renew_reservation` should be, from another thread and soon.

        Raises:
            StorageError: files are missing, damaged, or of an unknown version. Nothing is changed.
        """
        meta = folder / layout.META
        self.buffer_id, self.spec = layout.decode_meta(files.read_whole(meta), str(meta))
        sizes = layout.file_sizes(self.spec)
        files.check_sizes(folder, sizes)
        self.name = name
        self._on_failure = on_failure
        self._renew = renew
        self._folder = folder
        self._disk_bytes = sum(sizes.values())
        self._mapped = {file: files.map_file(folder / file, writable=True) for file in sizes}
        columns = FrameColumns(self.spec, self._mapped.__getitem__)
        page, path = self._mapped[layout.CURSOR], folder / layout.CURSOR
        self._cursor = Cursor(page, self.spec.capacity, lambda: files.sync_mapped(page, path))
        self.restored = self._cursor.restored
        counters = self._cursor.counters
        self.reader = RingReader(self.spec, counters, columns)
        self._ring = RingWriter(self.spec, counters, columns, self._cursor.reserve)
        check_ends(self.reader.live, columns)
        # A ring that a power loss left empty still knows how far its episodes were numbered.
        self._next_episode = self.reader.state()[2] or self._cursor.durable.episodes
        self.opened_index = self.reader.live.end
        self.opened_episode_index = self._next_episode
        self.tally = BufferTally()
        self._gaps = Gaps(self.spec, name)
        self._log = EpisodeLog(self._mapped[layout.EPISODES])
        self._writers = WriterTable(self._mapped[layout.WRITERS], self._log, self._next_episode)
        self._lock = threading.Lock()
        self._syncing = threading.Lock()
        self._renewing = threading.Lock()
        self._renewal_due = False
        self._closed = False
        self._deleted = False
        self._failed = False
        self._recover_last_record()

    @classmethod
    def create(
        cls, folder: Path, buffer_id: str, spec: BufferSpec, content: Content = NOTHING
    ) -> None:
        """Makes a new buffer's files in the existing, empty `folder`; buffer.json comes last.

        Raises:
            DiskSpaceError: the disk is full.
        """
        files.make_folder(folder / layout.COLUMNS)
        for file, size in layout.file_sizes(spec).items():
            files.reserve(folder / file, size)
        standing = content.fill(folder)
        cursor = files.map_file(folder / layout.CURSOR, writable=True)
        Cursor.format(cursor, standing)
        files.sync_mapped(cursor, folder / layout.CURSOR)
        files.sync_folder(folder / layout.COLUMNS)
        meta = layout.encode_meta(buffer_id, spec, content.restored_from)
        files.write_whole(folder / layout.META, meta)

    def append(self, data: Mapping[str, Any], origin: Origin | None = None) -> Stored:
        """Stores one episode and makes it as durable as the buffer promises; see `store`."""
        stored = self.store(data, origin)
        self.settle(stored)
        return stored

    def store(self, data: Mapping[str, Any], origin: Origin | None = None) -> Stored:
        """Stores one episode, whole, and makes it visible at once.

        When this returns, the episode survives the death of the process. It is to be acknowledged
        only after `settle`.

        Args:
            data: an array of shape (T, *column shape) per declared column; `timestamp` and
                `frame_index` may be added.
            origin: who sent it; a repetition with the same bytes is recognised, not stored again.

        Raises:
            InvalidEpisodeError: the data does not fit the spec; nothing was written.
            SequenceReusedError: the origin was used for another episode, or is too old to tell.
            NotFoundError: the buffer was deleted or closed.
            OSError: the disk failed; nothing is acknowledged any more.
        """
        stored, refusal = self.store_all([(data, origin)])
        try:
            if refusal is not None:
                raise refusal
        finally:
            del refusal  # which holds this frame by now
        return stored[0]

    def store_all(
        self, episodes: Iterable[tuple[Mapping[str, Any], Origin | None]]
    ) -> tuple[list[Stored], ReplayRingError | None]:
        """Stores episodes in order, each as `store` does, until one is refused.

        Small ones that follow each other are stored and become visible together, which takes less
        time than one by one.

        Args:
            episodes: data and origin of each, as for `store`.

        Returns:
            Where each was stored up to the first that was refused, and why that was; None for all.

        Raises:
            OSError: as `store`.
        """
        checked, refusal = check_all(self.spec, episodes)
        self._gaps.look(checked)
        stored: list[Stored] = []
        with self._lock:
            try:
                self.check_open()
                self._check_disk()
                while len(stored) < len(checked):
                    stored += self._store_next(checked[len(stored) :])
            except (NotFoundError, SequenceReusedError) as error:
                refusal = error.with_traceback(None)  # without the frames, which hold this buffer
        return stored, refusal

    def settle(self, stored: Stored) -> None:
        """Makes an episode, and all before it, as durable as the buffer promises.

        With durability "commit", they survive a power loss when this returns.

        Raises:
            OSError: the disk failed; nothing is acknowledged any more.
        """
        if self.spec.durability == "commit":
            self.sync(stored.index + stored.num_frames)

    def sync(self, until: int | None = None) -> None:
        """Makes the frames below `until`, or all there are, survive a power loss.

        Callers that wait for each other here share one sync: whoever comes next covers all.

        Raises:
            OSError: the disk failed. The kernel may have dropped what it could not write, so a
                later success would mean nothing: the buffer takes nothing from then on.
        """
        with self._syncing:
            if not self._deleted and (until is None or until > self._cursor.durable.head):
                self._sync()

    def _sync(self) -> None:
        with self._lock:
            live, episodes = self.reader.live, self._next_episode
        if live.end == self._cursor.durable.head:
            return
        with self._failing_for_good(), self.tally.syncs.running():
            # To write what came since the last sync takes less time than it took to come.
            self._cursor.reserve_for_sync(live.end - self._cursor.durable.head)
            for file, mapped in self._mapped.items():
                if file != layout.CURSOR:
                    files.sync_mapped(mapped, self._folder / file)
            self._cursor.checkpoint(live.end, live.start, episodes)

    def renew_reservation(self) -> None:
        """Reserves rows for the appends to come, which then need not wait for the disk.

        Raises:
            OSError: the disk failed; nothing is acknowledged any more.
        """
        with self._renewing:
            self._renewal_due = False
            if not self._closed:
                with self._failing_for_good():
                    self._cursor.renew()

    @contextmanager
    def _failing_for_good(self) -> Iterator[None]:
        """Refuses to go on after an error of the disk, and tells the store.

        What the kernel could not write it drops sooner or later, so memory is no better than after
        a power loss: the next server is to take what was durable before.
        """
        self._check_disk()
        try:
            yield
        except OSError:
            self._failed = True
            self._cursor.distrust()
            logger.exception("the disk failed under buffer %r", self.name)
            self._on_failure()
            raise

    def _check_disk(self) -> None:
        if self._failed:
            raise OSError(f"buffer {self.name!r} stopped after an error of the disk")

    def check_open(self) -> None:
        """Checks that the buffer was not deleted or closed meanwhile.

        Raises:
            NotFoundError: it was.
        """
        if self._closed:
            raise self.gone()

    @property
    def is_open(self) -> bool:
        """Whether the buffer was neither deleted nor closed."""
        return not self._closed

    def gone(self) -> NotFoundError:
        """Returns what those get who still use a buffer that was deleted or closed."""
        return NotFoundError(f"buffer {self.name!r} was deleted")

    @property
    def durable_index(self) -> int:
        """Frames below this `index` survive a power loss."""
        return self._cursor.durable.head

    def between_appends(self, read: Callable[[], T]) -> T:
        """Returns what `read` returns, while nothing is appended.

        For what has no use for a window that lacks the frames whose rows an append needs. Others
        that append wait meanwhile, so let it be short.
        """
        with self._lock:
            return read()

    def info(self, *, steady: bool = False) -> BufferInfo:
        """Returns the spec and where the ring stands.

        Args:
            steady: as for `RingReader.window`.

        Raises:
            MakingRoom: as there.
        """
        live, num_episodes, next_episode = self.reader.state(steady=steady)
        return BufferInfo(
            name=self.name,
            buffer_id=self.buffer_id,
            spec=self.spec,
            oldest_index=live.start,
            next_index=live.end,
            num_episodes=num_episodes,
            # Of the same moment as the window, unless that is empty.
            next_episode_index=next_episode or self._next_episode,
            physical_rows=layout.physical_rows(self.spec.capacity),
            disk_bytes=self._disk_bytes,
            path=str(self._folder),
        )

    def close(self, *, sync: bool = True) -> None:
        """Stops appends and, unless the files are about to go, writes them to the disk.

        Reads already under way finish on memory that stays mapped until they let go of it.

        Raises:
            OSError: the disk failed.
        """
        with self._lock:
            was_closed, self._closed = self._closed, True
            self._deleted = self._deleted or not sync
        with self._syncing, self._renewing:  # also waits for one that is under way
            if sync and not was_closed:
                self._sync()
                with self._failing_for_good():
                    self._cursor.release()

    def _store_next(self, episodes: Sequence[Checked]) -> list[Stored]:
        """Stores the first of some episodes, with as many after it as may share its append."""
        first = episodes[0]
        known = first.origin and self._known(first.origin, first.payload_hash)
        if known:
            return [known]
        frames, count = first.frames, 1
        for last, one in pairwise(episodes):
            frames += one.frames
            if frames > self._ring.slack or not one.may_share(last):
                break
            count += 1
        return self._store(episodes[:count])

    def _store(self, episodes: Sequence[Checked]) -> list[Stored]:
        """Stores new episodes, of which all but the first are small and of its writer."""
        lengths = [one.frames for one in episodes]
        starts = accumulate(lengths, initial=self.reader.live.end)
        stored = [
            Stored(episode, index, frames)
            for episode, (index, frames) in enumerate(
                zip(starts, lengths, strict=False), self._next_episode
            )
        ]
        records = [
            one.record(where.episode_index, where.index)
            for one, where in zip(episodes, stored, strict=True)
        ]
        with self._failing_for_good():
            self._ring.append(
                side_by_side(episodes),
                self._next_episode,
                lengths,
                partial(self._log_all, records),
            )
        self._next_episode += len(episodes)
        if records[-1] is not None:
            self._writers.put(records[-1])
        if self._cursor.running_out and not self._renewal_due:
            self._renewal_due = True
            self._renew(self)
        return stored

    def _log_all(self, records: Sequence[Record | None]) -> None:
        for episode, record in enumerate(records, self._next_episode):
            if record is None:
                self._log.erase(episode)
            else:
                self._log.write(record)

    def _known(self, origin: Origin, payload_hash: bytes) -> Stored | None:
        """Returns what was stored for a repeated origin, or None for a new one."""
        record = self._writers.last(origin.writer_id)
        if record is None and self._writers.full:
            record = self._log.newest_of(origin.writer_id, self._next_episode)
        if record is None or origin.sequence > record.origin.sequence:
            return None
        if origin.sequence < record.origin.sequence:
            record = self._log.find(origin, self._next_episode)
        if record is None:
            raise SequenceReusedError(
                f"writer {origin.writer_id!r} sent sequence {origin.sequence} again, but has moved "
                "on and the server no longer remembers that episode; sequences must grow"
            )
        if record.payload_hash != payload_hash:
            raise SequenceReusedError(
                f"writer {origin.writer_id!r} used sequence {origin.sequence} before for another "
                f"episode (number {record.episode_index}); give every episode its own sequence"
            )
        return Stored(record.episode_index, record.index, record.num_frames, duplicate=True)

    def _recover_last_record(self) -> None:
        """Tells the writers' table of the last episode, if a death came between the two."""
        record = self._log.read(self._next_episode - 1) if self._next_episode else None
        if record:
            self._writers.put(record)
