"""How batches get to a device while the learner computes on those before.

Knows the order of things and what has to be kept until when; nothing of buffers or networks, and of
devices only that there is a `Link` to one. The stream puts its packs into memory from which a
device copies them as a whole: one copy per pack, however many columns and batches are in it, and
views of the block there. The copy of a batch begins when the one before it is taken.

No thread of its own does that: what a thread asks of CUDA ends a graph that the learner is
capturing. Only where large batches are made when they are asked for, as those from files are, a
thread makes them ahead.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from replayring._aside import Aside
from replayring._background import FOREIGN
from replayring._batch import Batch
from replayring._blocks import block_of, in_blocks, tensors_in
from replayring._device import CpuLink, CudaLink, Link, Sent
from replayring._streams import BatchStream
from replayring_proto.errors import ClosedError
from replayring_proto.pack import Memory, Pack

_WORTH_A_THREAD_BYTES = 1 << 20
"""Of a batch that is made when it is asked for: from here on, a thread of its own makes it."""

_MADE_AHEAD = 2
"""Batches that the thread makes ahead: one to be copied while the next one is made."""

_MOST_UNDER_WAY = 8
"""Copies that are not known to have ended; a learner this far ahead of its device waits."""


class _Staged(NamedTuple):
    """A batch on its way to the device, or there."""

    batch: Batch
    sent: Sent


# None is what is not there yet.
_Made: TypeAlias = "Batch | Exception | None"
_Outcome: TypeAlias = "_Staged | Exception | None"


class Staging:
    """Batches of a stream on a device, the next one brought there ahead.

    Thread-safe. Belongs to the process that made it. Whoever made it closes it.
    """

    def __init__(self, stream: BatchStream, link: Link) -> None:
        """Takes over a stream.

        Args:
            stream: where batches come from; what it puts them in is `in_blocks(link.allocate)`.
            link: the way to the device.
        """
        self._stream = stream
        self._link = link
        self._process = os.getpid()
        # To close it may be the garbage collector's deed, or a signal handler's, in the thread that
        # has the lock.
        self._lock = threading.RLock()
        self._ahead: _Outcome = None
        self._preparer: int | None = None  # the thread that stages the next one
        self._closed = False
        # The last pack that was sent, as long as there are batches in it that are not staged.
        self._last: tuple[Pack, Sent] | None = None
        # Both are kept until the copy has ended: torch would use their memory again.
        self._under_way: deque[tuple[Pack, Sent]] = deque()
        self._aside: Aside | None = None
        self._making: deque[queue.SimpleQueue[_Made]] = deque()

    def take(self) -> tuple[dict[str, Tensor], int | None]:
        """Returns the next batch, for the calling thread's current stream, and its `next_index`.

        Raises:
            ClosedError: this was closed, or belongs to another process.
            DeadlineError, ServerUnavailableError: nothing came in time. Try again.
            Exception: what else the stream, or the device, raised.
        """
        if os.getpid() != self._process:
            raise ClosedError(FOREIGN.format("iteration"))
        outcome = self._take_ahead()
        if outcome is None:
            outcome = self._stage(self._stream._draw())
        self._prepare(outcome)
        if isinstance(outcome, Exception):
            try:
                raise outcome
            finally:
                del outcome  # or this frame and the error, which has it, would keep each other
        self._link.receive(outcome.sent)
        return tensors_in(outcome.sent.block, outcome.batch), outcome.batch.next_index

    def close(self) -> None:
        """Ends it; who waits gets `ClosedError`. Callable from any thread, and again."""
        if os.getpid() != self._process:
            return
        self._closed = True
        self._stream.close()
        with self._lock:
            self._ahead = self._last = None
            under_way, self._under_way = self._under_way, deque()
            aside, self._aside = self._aside, None
            self._making.clear()
        if aside is not None:
            aside.close()  # what it is still to do, the closed stream ends
        for _, sent in under_way:
            with suppress(RuntimeError):  # of a device that has failed, as the learner knows
                sent.event.synchronize()

    def _take_ahead(self) -> _Outcome:
        """Takes what is staged, or else what the thread makes, once that is done."""
        with self._lock:
            self._check_open()
            ahead, self._ahead = self._ahead, None
            if ahead is not None or not self._making:
                return ahead
            making = self._making.popleft()
        return self._staged(making.get())

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("this iteration was closed")

    def _prepare(self, last: _Staged | Exception) -> None:
        """Stages the batch after the last one if it is there, unless that is being done."""
        me = threading.get_ident()
        with self._lock:
            self._check_open()
            # Ctrl-C may have kept this thread from saying that it is done.
            if self._ahead is not None or self._preparer not in (None, me):
                return
            self._preparer = me
        outcome: _Outcome = None
        try:
            outcome = self._next(self._is_work(last))
        finally:  # Ctrl-C may end it
            with self._lock:
                self._preparer = None
                if not self._closed:
                    self._ahead = outcome

    def _is_work(self, last: _Staged | Exception) -> bool:
        """Whether a batch like the last one takes longer to make than another thread costs."""
        made_here = not self._stream._in_background
        return (
            made_here
            and isinstance(last, _Staged)
            and last.batch.pack.layout.nbytes >= _WORTH_A_THREAD_BYTES
        )

    def _next(self, is_work: bool) -> _Outcome:
        """Stages the next batch, if it is there; what goes wrong is told in its place."""
        try:
            made = self._made_aside(is_work) if is_work or self._making else self._poll()
            return self._staged(made)
        except Exception as error:
            return _without_frames(error)

    def _made_aside(self, more: bool) -> _Made:
        """Returns what the thread has made, if it is done, and may have it make more."""
        with self._lock:
            self._check_open()
            is_done = self._making and not self._making[0].empty()
            done = self._making.popleft() if is_done else None
            wanted = _MADE_AHEAD - (done is not None) if more else 0
            while len(self._making) < wanted:
                if self._aside is None:
                    self._aside = Aside("replayring staging")
                self._making.append(self._aside.begin(self._poll))
        return None if done is None else done.get()

    def _poll(self) -> _Made:
        try:
            return self._stream._poll()
        except Exception as error:
            return _without_frames(error)

    def _staged(self, made: _Made) -> _Outcome:
        return self._stage(made) if isinstance(made, Batch) else made

    def _stage(self, batch: Batch) -> _Staged:
        with self._lock:
            last = self._last
            if last is None or last[0] is not batch.pack:
                last = (batch.pack, self._send(batch))
            self._last = None if batch.part == batch.parts - 1 else last
            return _Staged(batch, last[1])

    def _send(self, batch: Batch) -> Sent:
        under_way = self._under_way  # which closing replaces
        if len(under_way) == _MOST_UNDER_WAY:
            under_way[0][1].event.synchronize()
        while under_way and under_way[0][1].event.query():
            under_way.popleft()
        sent = self._link.send(block_of(batch))
        under_way.append((batch.pack, sent))
        return sent


def _without_frames(error: Exception) -> Exception:
    """Returns an error that can be kept: its frames would keep those of the learner, and these all.

    What they hold could never be let go of, and so the iteration never closed by that.
    """
    found: BaseException | None = error
    while found is not None:
        found.__traceback__ = None
        found = found.__cause__ or found.__context__
    return error


def staging_on(device: torch.device, stream: Callable[[Memory], BatchStream]) -> Staging:
    """Returns batches of a stream on a device.

    Args:
        device: one that `as_device` returned.
        stream: makes the stream, given the memory that it is to put batches in.
    """
    link = CpuLink() if device.type == "cpu" else CudaLink(device)
    return Staging(stream(in_blocks(link.allocate)), link)
