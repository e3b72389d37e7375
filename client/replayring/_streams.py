"""What a stream of batches is: to its user, and to those here who take batches from it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from types import TracebackType
from typing import NoReturn, TypeVar

from replayring._batch import Batch
from replayring._replies import Arrays
from replayring_proto.pack import Memory, Pack

__all__ = ["SampleStream"]

S = TypeVar("S", bound="SampleStream")


class SampleStream(Iterator[Arrays]):
    """Batches, one after the other; made by `Buffer.sample_stream`. An endless iterator.

    Thread-safe: several threads may take batches, and any may close it. Belongs to the process that
    made it; whoever made it closes it, best with `with`. Closing the client closes it too.

    A buffer of your own around one of ours, which changes batches on their way say, may return a
    subclass of your own. It needs `__next__` and `close`.
    """

    def __enter__(self: S) -> S:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def __next__(self) -> Arrays:
        """Returns the next batch: writable arrays with the batch as first axis.

        Raises:
            DeadlineError: none came in time, though the server can be reached; the message says
                what is waited for. The stream goes on: try again.
            ServerUnavailableError: none came in time, since the server cannot be reached. The
                stream goes on.
            ClosedError: this stream or its client was closed, here or meanwhile.
            InvalidRequestError: `memory` failed, or there is none. The stream goes on.
            ReplayRingError: what else the server answered. The stream is at its end.
        """

    @property
    def next_index(self) -> int | None:
        """How fresh the last batch is: frames ever added when it was drawn; None if not known."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Ends it; waiting threads get `ClosedError`. Callable from any thread, and again."""


class BatchStream(SampleStream):
    """A stream whose batches are to be had as they came."""

    _next_index: int | None = None
    # Whether batches are made by a thread of its own, and not when they are asked for.
    _in_background = False

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a stream of batches belongs to the process that made it; send the buffer there, or a "
            "BatchDataset, and begin one there"
        )

    def __next__(self) -> Arrays:
        batch = self._draw()
        self._next_index = batch.next_index
        return batch.arrays

    @property
    def next_index(self) -> int | None:
        return self._next_index

    @abstractmethod
    def _draw(self) -> Batch:
        """Returns the next batch as it came, waiting for it; raises what `next` does."""

    @abstractmethod
    def _poll(self) -> Batch | None:
        """Returns the next batch as it came, or None if it would have to be waited for.

        Raises:
            ReplayRingError: as `next`, but for what is about time.
        """


class CopiedStream(BatchStream):
    """Somebody else's stream, its batches copied into memory of the kind that is wanted."""

    def __init__(self, stream: SampleStream, memory: Memory) -> None:
        """Takes over a stream.

        Args:
            stream: what to copy; closed here.
            memory: makes what batches are copied into.
        """
        self._stream = stream
        self._memory = memory

    def _draw(self) -> Batch:
        arrays = next(self._stream)
        return Batch(Pack.of(arrays, self._memory), self._stream.next_index)

    def _poll(self) -> Batch | None:
        return None  # nobody knows, but by waiting

    def close(self) -> None:
        self._stream.close()
