"""Peers that stop in the middle of something."""

from __future__ import annotations

import numpy as np

from replayring_proto.v1 import replay_pb2
from tests.wire import Stream, Wire, episode_messages, start_message

# Left alone, gRPC takes ever more of a reply that nobody reads: on a slow machine, all of it.
NARROW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1 << 16))
"""Options of a connection whose peer sees at once that nothing is read."""


def half_an_episode(
    wire: Wire, buffer: str, writer_id: str, episode: dict[str, np.ndarray], chunk: int
) -> Stream:
    """Begins an episode and stops after its first chunk."""
    call = wire.stream("AddEpisodes", timeout=None)
    messages = episode_messages(1, episode, chunk=chunk)
    assert len(messages) > 1
    call.send(start_message(buffer, writer_id), messages[0])
    return call


def unread_batch(wire: Wire, buffer: str, batch_size: int) -> Stream:
    """Asks for a large batch over a `NARROW` connection, and reads no more than its beginning."""
    call = wire.stream("SampleBatch", timeout=None)
    spec = replay_pb2.SampleSpec(buffer=buffer, batch_size=batch_size)
    call.send(replay_pb2.SampleBatchRequest(spec=spec))
    call.receive()
    return call


def follower(wire: Wire, name: str) -> Stream:
    """Follows parameters; nothing is read yet."""
    call = wire.stream("WatchParameters", timeout=None)
    call.send(replay_pb2.WatchParametersRequest(name=name, follow=True))
    return call
