"""AddEpisodes as the contract has it, with faults at chosen moments.

A plain model: what it stores is a list, which tests compare with what was added.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np

from replayring_proto.errors import InvalidEpisodeError, NotFoundError, ReplayRingError
from replayring_proto.framing import decode_frame
from replayring_proto.pack import PackAssembler, parse_header
from replayring_proto.v1 import replay_pb2
from tests.client.fake_server import error, fail

LOST_BEFORE = "the connection breaks before the episode is stored"
LOST_AFTER = "the episode is stored, but its acknowledgement is lost"
LOST_MIDWAY = "the connection breaks within the episode"
REFUSED = "the episode is refused"
GONE = "the buffer is gone"
WRONG_ACK = "another sequence is acknowledged"
ENDED = "the call ends well, but too early"


@dataclass(frozen=True)
class Stored:
    """An episode as it arrived."""

    writer_id: str
    sequence: int
    arrays: dict[str, Any]


class FakeStore:
    """A script for `FakeServer` that keeps episodes. Thread-safe.

    Attributes:
        stored: the episodes kept, in order.
        received: every (writer_id, sequence) that came whole, in order, retries included.
        faults: what happens to the n-th episode that arrives, retries counted; used up.
        refuse: decides by an episode's sequence, every time it comes.
    """

    def __init__(self, **faults: str) -> None:
        self.stored: list[Stored] = []
        self.received: list[tuple[str, int]] = []
        self.buffers: set[str] = set()
        self.faults = {int(key.removeprefix("at_")): fault for key, fault in faults.items()}
        self.refuse: Callable[[int], bool] = lambda sequence: False
        self.proceed = threading.Event()
        self.proceed.set()
        self._arrivals = 0
        self._lock = threading.Lock()

    def __call__(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """Serves one call."""
        writer_id, sequence, fault, assembler = "", 0, "", None
        for message in requests:
            frame = decode_frame(message)
            fields = replay_pb2.AddEpisodesRequest.FromString(frame.rest)
            if fields.HasField("start"):
                writer_id = fields.start.writer_id
                self.buffers.add(fields.start.buffer)
            for part in map(decode_frame, frame.nested):
                assert part.header is not None
                whole = PackAssembler(parse_header(part.header))
                whole.add(part.data)
                self._arrivals += 1
                fault = self.faults.pop(self._arrivals, "")
                if fault == LOST_MIDWAY:
                    fail(context, grpc.StatusCode.UNAVAILABLE)
                self.proceed.wait(60)
                if fault == ENDED:
                    return
                sequence = replay_pb2.WholeEpisode.FromString(part.rest).sequence
                yield from self._take(writer_id, sequence, whole.pack.arrays, fault, context)
            if frame.nested:
                continue
            if frame.header is not None:
                sequence, assembler = fields.sequence, PackAssembler(parse_header(frame.header))
                self._arrivals += 1
                fault = self.faults.pop(self._arrivals, "")
                if fault == LOST_MIDWAY:
                    fail(context, grpc.StatusCode.UNAVAILABLE)
            assert assembler is not None
            assembler.add(frame.data)
            if assembler.complete:
                self.proceed.wait(60)
                if fault == ENDED:
                    return
                yield from self._take(writer_id, sequence, assembler.pack.arrays, fault, context)

    def sequences(self) -> list[int]:
        """Returns the sequences stored, in order."""
        return [episode.sequence for episode in self.stored]

    def _take(
        self,
        writer_id: str,
        sequence: int,
        arrays: dict[str, Any],
        fault: str,
        context: grpc.ServicerContext,
    ) -> Iterator[bytes]:
        self.received.append((writer_id, sequence))
        if fault == LOST_BEFORE:
            fail(context, grpc.StatusCode.UNAVAILABLE)
        if fault == REFUSED or self.refuse(sequence):
            yield from _end(InvalidEpisodeError(f"sequence {sequence} has NaN"), context)
        if fault == GONE:
            yield from _end(NotFoundError("there is no buffer 'fake'"), context)
        index, duplicate = self._store(Stored(writer_id, sequence, arrays))
        if fault == LOST_AFTER:
            fail(context, grpc.StatusCode.UNAVAILABLE)
        acknowledgement = replay_pb2.Acknowledgement(
            sequence=sequence + (fault == WRONG_ACK),
            episode_index=index,
            index=10 * index,
            num_frames=len(next(iter(arrays.values()))),
            duplicate=duplicate,
        )
        yield replay_pb2.AddEpisodesResponse(acknowledgements=[acknowledgement]).SerializeToString()

    def _store(self, episode: Stored) -> tuple[int, bool]:
        with self._lock:
            for index, known in enumerate(self.stored):
                if (known.writer_id, known.sequence) == (episode.writer_id, episode.sequence):
                    for key, array in episode.arrays.items():
                        assert np.array_equal(array, known.arrays[key]), "a retry differs"
                    return index, True
            self.stored.append(episode)
            return len(self.stored) - 1, False


def _end(failure: ReplayRingError, context: grpc.ServicerContext) -> Iterator[bytes]:
    return error(failure)(iter(()), context)
