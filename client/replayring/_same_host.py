"""Reading frames straight from the server's files, where this process can open them.

A client on the server's machine needs no wire to sample: it maps the buffer's files and reads them
as the server does. The wire stays for all that changes something and for all that has to wait. What
can be had here and there is the same; where the files are out of reach, the wire gives it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from replayring._background import FOREIGN
from replayring._batch import Batch, batches_in
from replayring._replies import Arrays
from replayring._sampling import CLOSED, Sampling
from replayring._streams import BatchStream
from replayring_proto import limits
from replayring_proto.errors import ClosedError, LimitExceededError, NotFoundError, StorageError
from replayring_proto.files import is_want
from replayring_proto.messages import BufferInfo
from replayring_proto.pack import Memory, Pack, PackLayout, aligned_empty
from replayring_proto.query import View
from replayring_proto.ring import (
    MakingRoom,
    MappedRing,
    NothingEligible,
    Plan,
    UniformSampler,
)
from replayring_proto.spec import BufferSpec

logger = logging.getLogger("replayring")

_BY_DEFAULT = limits.ServerLimits()

# As the server's variables are read. "true" as a path would merely, and silently, not be there.
_WORDS = {
    **dict.fromkeys(("", "1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


@dataclass(frozen=True)
class Place:
    """Where a buffer's files should be.

    Attributes:
        folder: the buffer's directory, as this machine names it.
        buffer_id: what they must say they are.
    """

    folder: Path
    buffer_id: str


def same_host_setting(given: bool | str | os.PathLike[str] | None) -> bool | Path:
    """Returns whether to look for the server's files, or in which directory.

    Args:
        given: the same, or None for what the environment says.
    """
    if given is None:
        value = os.environ.get("REPLAYRING_SAME_HOST", "")
        given = _WORDS.get(value.lower(), value)
    return given if isinstance(given, bool) else Path(given)


def place_of(setting: bool | Path, info: BufferInfo) -> Place | None:
    """Returns where to look for a buffer's files, or None for nowhere."""
    if setting is False or not info.path:
        return None
    folder = Path(info.path) if setting is True else setting / info.name
    return Place(folder, info.buffer_id)


class LookAgainError(Exception):
    """Whether the files are within reach cannot be said at present: descriptors are used up."""


def find(place: Place, spec: BufferSpec, max_bytes: int) -> FileReads | None:
    """Returns reads from a buffer's files, or None where they are not within reach.

    Args:
        place: where they should be.
        spec: the buffer's.
        max_bytes: what one read may take at most.

    Raises:
        LookAgainError: it is to be tried again, after a while.
    """
    try:
        ring = MappedRing(place.folder)
    except (StorageError, OSError) as error:
        if is_want(error):
            raise LookAgainError from None
        logger.debug("reading %s over the wire: %s", place.folder.name, error)
        return None
    if ring.buffer_id != place.buffer_id or ring.reader.spec != spec:
        logger.debug("reading %s over the wire: the files are another's", place.folder.name)
        return None
    return FileReads(ring, max_bytes)


class FileReads:
    """Reads of one buffer from its files. Thread-safe, and usable on both sides of a fork."""

    def __init__(self, ring: MappedRing, max_bytes: int) -> None:
        self._ring = ring
        self._reader = ring.reader
        self._max_bytes = max_bytes
        self._last_plan: tuple[View, Plan] | None = None
        self._samplers = threading.local()

    def exist(self) -> bool:
        """Whether the buffer was neither deleted nor moved away meanwhile."""
        try:
            self._ring.check_exists()
        except NotFoundError:
            return False
        return True

    def answer(self, view: View, frames: int) -> bool:
        """Whether so many frames at once are for the files to give.

        Beyond what servers allow by default, it is the server that is to be asked: it knows what
        its owner allows, and so the same can be had here and there.
        """
        try:
            self._plan(view).check_size(frames, _BY_DEFAULT)
        except LimitExceededError:
            return False
        return True

    def sample(self, sampling: Sampling) -> Arrays | None:
        """Returns a batch, or None while there is too little to draw from."""
        pack = self.draw(sampling, self.sampler(sampling))
        return None if pack is None else pack.arrays

    def draw(
        self,
        sampling: Sampling,
        sampler: UniformSampler,
        batches: int = 1,
        memory: Memory = aligned_empty,
    ) -> Pack | None:
        """Returns this sampler's next batch, or None while there is too little to draw from.

        Args:
            sampling: what it samples.
            sampler: from `sampler`.
            batches: how many to draw together, one after the other.
            memory: makes what they are put in.
        """
        if len(self._reader.live) < sampling.min_frames:
            return None
        try:
            return sampler.batch(batches, memory)
        except NothingEligible:
            return None

    def sampler(self, sampling: Sampling) -> UniformSampler:
        """Returns a sampler for this thread; a seeded one begins anew.

        Raises:
            LimitExceededError: a batch would be too large.
        """
        # A fork copies random streams: both sides would draw the same.
        key = (os.getpid(), sampling.query)
        kept = sampling.seed is None and not sampling.count_eligible
        if kept and getattr(self._samplers, "key", None) == key:
            last: UniformSampler = self._samplers.last
            return last
        rng = np.random.default_rng(sampling.seed)
        sampler = UniformSampler(self._reader, sampling.query, rng, count=sampling.count_eligible)
        self._check(sampler.plan.layout(sampling.query.batch_size))
        if kept:
            self._samplers.key, self._samplers.last = key, sampler
        return sampler

    def together(self, sampling: Sampling, sampler: UniformSampler, most: int) -> int:
        """Returns how many of this sampler's batches to draw together, at most so many.

        Small ones share what a draw costs beside its bytes. Of a seed they would be others.
        """
        if sampling.seed is not None:
            return 1
        nbytes = sampler.plan.layout(sampling.query.batch_size).nbytes
        return max(1, min(most, min(limits.TOGETHER_BYTES, self._max_bytes) // nbytes))

    def next_index(self) -> int:
        """Returns how many frames were ever added."""
        return self._reader.live.end

    def get(self, view: View, positions: list[int], indices: list[int]) -> Arrays | None:
        """Returns the frames at some positions, or else with some values of `index`.

        None while an append makes room for itself: positions are then to be asked of the server,
        which knows when it is done.

        Raises:
            ReplayRingError: as `Buffer.get` says.
        """
        plan = self._plan(view)
        self._check(plan.layout(len(positions) or len(indices)))
        if not positions:
            return self._reader.at_indices(plan, np.array(indices, np.int64)).arrays
        try:
            at = np.array(positions, np.int64)
            return self._reader.at_positions(plan, at, steady=True).arrays
        except MakingRoom:
            return None

    def read_columns(self, keys: tuple[str, ...]) -> Arrays | None:
        """Returns whole columns; None as for `get`.

        Raises:
            ReplayRingError: as `Buffer.read_columns` says.
        """
        try:
            layout, pieces = self._reader.read_columns(keys, steady=True)
        except MakingRoom:
            return None
        self._check(layout)
        body = aligned_empty(layout.nbytes)
        filled = 0
        for piece in pieces:
            body[filled : filled + len(piece)] = piece
            filled += len(piece)
        return layout.views(body)

    def _plan(self, view: View) -> Plan:
        last = self._last_plan
        if last is None or last[0] != view:
            last = self._last_plan = (view, Plan(self._reader.spec, view))
        return last[1]

    def _check(self, layout: PackLayout) -> None:
        limits.check_limit(
            layout.nbytes,
            self._max_bytes,
            "bytes of one read",
            "ask for less, or raise max_reply_bytes of connect()",
        )


class FileStream(BatchStream):
    """Batches drawn from the files when they are asked for: a small one with some that follow it.

    A batch that has to wait is waited for at the server. Once the files are gone, all come from
    there, fetched ahead.
    """

    def __init__(
        self,
        reads: Callable[[], FileReads | None],
        sampling: Sampling,
        over_wire: Callable[[Sampling, int], BatchStream],
        in_flight: int,
        check_open: Callable[[], None],
        memory: Memory,
    ) -> None:
        """Prepares a stream.

        Args:
            reads: returns the files' reads, or None when they are gone, for good.
            sampling: what to sample, checked.
            over_wire: returns a stream of such batches from the server, so many of them ahead.
            in_flight: batches wanted ahead, checked; as from the server, half of them at most are
                drawn together.
            check_open: raises `ClosedError` if the client was closed.
            memory: makes what batches are put in.
        """
        self._reads = reads
        self._sampling = sampling
        self._over_wire = over_wire
        self._in_flight = in_flight
        self._instead: BatchStream | None = None
        self._check_open = check_open
        self._memory = memory
        self._closed = False
        self._waits: set[BatchStream] = set()
        self._given = 0  # batches
        self._sampler: UniformSampler | None = None
        self._together = 1
        self._ready: deque[Batch] = deque()
        # To close it may be the garbage collector's deed, in a thread that has the lock.
        self._lock = threading.RLock()
        self._process = os.getpid()

    def _draw(self) -> Batch:
        batch = self._poll()
        if batch is not None:
            return batch
        return self._wait() if self._instead is None else self._instead._draw()

    def _poll(self) -> Batch | None:
        self._check_open()
        if os.getpid() != self._process:
            raise ClosedError(FOREIGN.format("sample stream"))
        if self._closed:
            raise ClosedError(CLOSED)
        reads = self._reads()
        return self._without_files()._poll() if reads is None else self._read(reads)

    def close(self) -> None:
        if os.getpid() != self._process:
            return
        with self._lock:
            self._closed = True
            self._ready = deque()  # another, as a signal handler may come amid `_read`
            streams = [*self._waits, *filter(None, [self._instead])]
        for stream in streams:
            stream.close()

    def _without_files(self) -> BatchStream:
        """Returns the stream from the server that goes on in the place of this one."""
        with self._lock:
            if self._closed:
                raise ClosedError(CLOSED)
            if self._instead is None:
                self._ready.clear()
                sampling = self._sampling.after(self._given)
                self._instead = self._over_wire(sampling, self._in_flight)
            return self._instead

    def _wait(self) -> Batch:
        """Takes a batch from the server; its stream ends with that, as the next one would age."""
        with self._lock:
            sampling = self._sampling.after(self._given)
            self._given += 1
            self._sampler = None  # whose seed, if it has one, gives that batch
            self._ready.clear()
        with self._over_wire(sampling, 1) as stream:
            with self._lock:
                if self._closed:
                    raise ClosedError(CLOSED)
                self._waits.add(stream)
            try:
                return stream._draw()
            finally:
                with self._lock:
                    self._waits.discard(stream)

    def _read(self, reads: FileReads) -> Batch | None:
        with self._lock:
            ready = self._ready
            if not ready:
                ready.extend(self._drawn(reads))
            if not ready:
                return None
            self._given += 1
            return ready.popleft()

    def _drawn(self, reads: FileReads) -> list[Batch]:
        if self._sampler is None:
            self._sampler = reads.sampler(self._sampling.after(self._given))
            most = self._in_flight // 2
            self._together = reads.together(self._sampling, self._sampler, most)
        next_index = reads.next_index()
        pack = reads.draw(self._sampling, self._sampler, self._together, self._memory)
        return [] if pack is None else batches_in(pack, self._together, next_index)
