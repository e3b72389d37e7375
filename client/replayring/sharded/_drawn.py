"""What a shard drew at one moment, as a block: from its reply, or from its files."""

from __future__ import annotations

from replayring._replies import Arrays
from replayring._same_host import FileReads
from replayring._sampling import Sampling
from replayring.sharded._form import Form
from replayring.sharded._mixing import Block
from replayring.sharded._numbers import to_all
from replayring.sharded._shard import Shard
from replayring_proto.errors import MalformedMessageError
from replayring_proto.messages import parse
from replayring_proto.ring import UniformSampler
from replayring_proto.spec import INDEX
from replayring_proto.v1 import replay_pb2


def from_reply(
    shard: Shard, form: Form, arrays: Arrays, rest: bytes, born: int = 0, life: object = None
) -> Block:
    """Returns what a server drew; a block of no frames if it says that none is eligible.

    Args:
        shard: the server.
        form: what is to come.
        arrays: what came, in whose place its numbers over all shards are put.
        rest: the other fields of the reply, encoded.
        born: the batch that is being made.
        life: of the buffer there.

    Raises:
        MalformedMessageError: the server is too old to count eligible frames.
        InvalidSpecError: it came from a buffer of another spec.
    """
    reply = parse(replay_pb2.SampleBatchResponse, rest)
    frames = len(arrays[INDEX])
    if frames and not reply.eligible_frames:
        raise MalformedMessageError(
            f"the server at {shard.name} does not count eligible frames; update it"
        )
    to_all(form.check(shard, arrays), shard.number)
    return Block(arrays, frames, reply.eligible_frames, reply.next_index, born, life)


def from_files(
    shard: Shard,
    reads: FileReads,
    sampling: Sampling,
    sampler: UniformSampler,
    units: int = 1,
    born: int = 0,
    life: object = None,
) -> Block:
    """Draws from a server's files; returns a block of no frames if none is eligible.

    Args:
        shard: the server.
        reads: reads its files.
        sampling: a unit, counted.
        sampler: draws units, one after the other.
        units: how many to draw together.
        born: the batch that is being made.
        life: of the buffer there.
    """
    next_index = reads.next_index()
    pack = reads.draw(sampling, sampler, units)
    if pack is None:
        return Block({}, 0, 0, next_index, born, life)
    arrays = pack.arrays
    frames = len(arrays[INDEX])
    to_all(arrays, shard.number)
    return Block(arrays, frames, sampler.eligible or 0, next_index, born, life)
