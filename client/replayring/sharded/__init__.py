"""Several servers as one: the API of `Client` and `Buffer` over shards unaware of each other.

    client = replayring.connect("replay-1:50051,replay-2:50051,replay-3:50051")

Shards are ordinary servers. What one buffer is to the user is a buffer of the same name on each of
them. Nothing is ever copied from one to another: each frame lies on one shard, and dies with that
shard's disk. What is gained is speed, room, and a learner that goes on while a shard is away.

Names and numbers
    A shard's name is its address, as it was given. Its number is its place in the sorted list of
    names. `index` and `episode_index` that come from a shard have its number times 2^48 added, so
    that they name one frame and one episode over all shards, contiguous within an episode, and fit
    int64 for 2^15 shards of 2^48 frames (nine years at a million a second). So what holds one of
    them (`get(indices=...)`, `RemoteDataset.by_index`, sampling weights) needs to know nothing of
    shards. `shard_of` takes them apart. They hold for as long as the list of names does.

    With "dns:///HOST:PORT" every address that the name has when the client is made is a shard,
    IPv4 addresses if there are any. A shard that comes back under another address is another one:
    orchestrators that change addresses should be given a list of names, one per shard, which gRPC
    resolves anew each time it connects.

Buffers
    `capacity` is that of all shards together; each keeps 1/n of it, rounded up. Shards must agree
    on the spec. To add a shard, create the buffer with a capacity that is larger by one share: the
    old shards find theirs unchanged. A shard that is away when a buffer is created gets it when it
    is back, from whoever then uses it.

    Positions run over shard 0, then shard 1, ..., over those that can be reached. While shards
    fill, the positions of all but the first move, as in a `ConcatDataset`; `index` does not.

Writers
    A writer belongs to the shard that rendezvous hashing gives its identity: the one whose name,
    hashed with the identity, gives the largest number. Another shard more moves 1/n of the
    identities, and no others. With `on_outage="wait"` (the default) a writer stays with its shard,
    whatever happens, so every episode is stored exactly once. Identities that are made here are
    made for shards that can be reached, and a spill directory remembers its shard.

    With `on_outage="move"` it goes on at another shard, under another identity, when its own has
    been away for `move_after_s`. What was not acknowledged is sent there again. An episode that the
    first shard had stored, and whose acknowledgement was lost, is then stored twice. Nothing that
    was acknowledged is lost either way, as long as its shard's disk is not. Closing ends moving:
    what `close` says is not acknowledged, no shard is sent later.

Samples
    Frames of a batch are independent and equally likely among all eligible frames of all shards.
    Each shard sends blocks of frames ahead of need. A block says how many frames were eligible when
    it was drawn (`SampleSpec.count_eligible`), and its frames are independent and uniform among
    them. So for each frame of a batch a shard is drawn with those counts as weights, and the next
    unused frame of its block is taken; the rest of a block serves the next batches. See `_mixing`
    for why that is exact. A block that is used up slowly grows old, and its count with it; it is
    thrown away after about twice as many batches as are wanted ahead. So a batch shows each shard
    as it was at most that many batches ago, however unequal shards are and however fast they fill.
    A shard that has nothing eligible says so, and again as frames come that are not eligible: they
    count as seen, since a batch that is drawn after them would not have them either.
    `in_flight` batches are wanted ahead, of each shard where they are small: a shard that sends a
    few frames at a time would spend its time on messages. `min_frames` is over the sum.

A shard that is lost
    It counts as away when two attempts to reach it failed, or when it was silent for 1.5 s while
    something was wanted of it. The log says that once, and once that it is back; of one that
    is slow, and away again and again, it says so now and then. Streams go on with the others and
    take it back when it answers. `info`, `buffers`, `status`, `read_columns`, positions and
    `latest` are about the shards that can be reached. What is asked of one shard
    alone (a frame by `index`, a writer's episode) waits for it, up to the timeout. When all are
    away, or those that are not lack the buffer, everything waits as it does for one server.

    A shard that came back without its files has no buffer until somebody calls `create_buffer`
    again. Until then all these leave it out as one that is away, and so do new writers and
    `add_episode` once this is known; its own writers are told with `NotFoundError`. `info` says
    which of the two it is, in `missing`. When all lack it, `NotFoundError` says so. What was drawn
    of the buffer before is given to nobody once it is known to be gone, or to be another one now:
    `index` begins anew in that. One that is made anew with another spec is refused with
    `InvalidSpecError`. `ShardedClient.buffer` raises `NotFoundError`: a server that does not belong
    to the others is not to be taken for one of them.

    A shard that gives the buffer to nobody, as its files are damaged, or not to this client, for a
    token or a certificate, is left out of what is read as well, and `missing` has what it says.
    Who opens a buffer, or adds to that shard, is told.

Parameters
    `publish` goes to all shards that can be reached, under one number that is above all before it:
    shards that returned lower ones are told again. `watch` follows one shard, chosen at random, for
    some seconds at a time, and goes on with the next when that time is up or the shard is away. So
    it survives the loss of any, spreads the load, and never yields a version below one before. Who
    publishes a name from two places at once may give two contents the same number.
"""

from replayring.sharded._numbers import shard_of
from replayring.sharded.buffer import ShardedBuffer
from replayring.sharded.client import ShardedClient
from replayring.sharded.infos import ShardedBufferInfo
from replayring.sharded.statuses import ShardedServerStatus

__all__ = [
    "ShardedBuffer",
    "ShardedBufferInfo",
    "ShardedClient",
    "ShardedServerStatus",
    "shard_of",
]
