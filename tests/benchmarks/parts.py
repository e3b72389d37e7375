"""The parts of the benchmark: who takes turns with whom."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.benchmarks.contest import Contender
from tests.benchmarks.rig import PYTHON, Rig

NATURAL, PACKED = "natural", "packed"
Contenders = Iterator[Contender]


def sample(rig: Rig) -> Contenders:
    """Batches over the wire."""
    yield Contender({"replayring": [rig.ours("sample")]})
    echo = rig.serving(PYTHON, "echo")
    yield Contender({"bare gRPC": [rig.peer(PYTHON, "echo", "sample", echo, rig.batch_bytes)]})
    if python := rig.peers.flight:
        address = rig.serving(python, "flight", rig.plain())
        yield Contender({"Arrow Flight": [rig.peer(python, "flight", "sample", address)]})
        exchange = rig.peer(python, "flight", "exchange", address)
        yield Contender({"Arrow Flight, exchange": [exchange]})
    if python := rig.peers.reverb:
        for name, style in (("Reverb", NATURAL), ("Reverb, packed", PACKED)):
            address = rig.serving(python, "reverb", style)
            yield Contender({name: [rig.peer(python, "reverb", "sample", address, style)]})
    if python := rig.peers.torchrl:
        yield Contender({"TorchRL rpc": [rig.peer(python, "torchrl_rpc", "sample")]})
    yield Contender({"replayring, 2 learners": [rig.ours("sample") for _ in range(2)]})
    yield Contender({"replayring, one at a time": [rig.ours("sample_one")]})
    yield Contender({"replayring, torch tensors": [rig.ours("tensors")]})


def same_host(rig: Rig) -> Contenders:
    """Batches from the server's files."""
    yield Contender({"replayring": [rig.ours("sample", same_host=True)]})
    yield Contender({"numpy gather": [rig.peer(PYTHON, "gather", "sample", rig.plain())]})
    if python := rig.peers.torchrl:
        yield Contender({"TorchRL in process": [rig.peer(python, "torchrl_local", "sample")]})
    two = [rig.ours("sample", same_host=True) for _ in range(2)]
    yield Contender({"replayring, 2 learners": two})
    yield Contender({"replayring, one at a time": [rig.ours("sample_one", same_host=True)]})
    yield Contender({"replayring, torch tensors": [rig.ours("tensors", same_host=True)]})


def insert(rig: Rig) -> Contenders:
    """Whole episodes from actors."""
    yield Contender({"replayring": [rig.ours("insert")]})
    echo = rig.serving(PYTHON, "echo")
    yield Contender({"bare gRPC": [rig.peer(PYTHON, "echo", "insert", echo, rig.episode_bytes)]})
    if python := rig.peers.reverb:
        for name, style in (("Reverb", NATURAL), ("Reverb, packed", PACKED)):
            address = rig.serving(python, "reverb", style)
            yield Contender({name: [rig.peer(python, "reverb", "insert", address, style)]})
    if python := rig.peers.torchrl:
        yield Contender({"TorchRL rpc": [rig.peer(python, "torchrl_rpc", "insert")]})
        yield Contender({"TorchRL in process": [rig.peer(python, "torchrl_local", "insert")]})
    yield Contender({"replayring, 4 actors": [rig.ours("insert") for _ in range(4)]})
    yield Contender({"replayring, one at a time": [rig.ours("insert_one")]})


def together(rig: Rig) -> Contenders:
    """An actor and a learner, alone and at once, over the wire."""
    yield Contender({"insert, alone": [rig.ours("insert")]})
    yield Contender({"sample, alone": [rig.ours("sample")]})
    yield Contender({"insert, both": [rig.ours("insert")], "sample, both": [rig.ours("sample")]})


def loader(rig: Rig) -> Contenders:
    """A `DataLoader` with two workers over a dataset of frames."""
    yield Contender({"replayring": [rig.ours("loader")]})
    if path := rig.peers.online_buffer:
        reference = rig.peer(PYTHON, "online_buffer", "loader", path)
        yield Contender({"LeRobot OnlineBuffer": [reference]})
    yield Contender({"replayring, same host": [rig.ours("loader", same_host=True)]})


def capacity(rig: Rig) -> Contenders:
    """One batch at a time, of buffers of growing size; beside it, what memory allows."""
    for power in rig.powers:
        workload = rig.workload.of_capacity(10**power)
        name = rig.buffer(workload, f"of-10-{power}")
        yield Contender({f"10^{power} frames": [rig.ours("sample_one", name=name)]})
        files = rig.ours("sample_one", same_host=True, name=name)
        yield Contender({f"same host, 10^{power} frames": [files]})
        gather = rig.peer(PYTHON, "gather", "sample", rig.plain(name))
        yield Contender({f"numpy gather, 10^{power} frames": [gather]})


def shards(rig: Rig) -> Contenders:
    """Four actors, then a learner, with servers that share this machine."""
    for count in rig.shards:
        buffer = rig.sharded(count)
        actors = [rig.client("insert", buffer) for _ in range(4)]
        yield Contender({f"insert, shards: {count}": actors})
        yield Contender({f"sample, shards: {count}": [rig.client("sample", buffer)]})
        one = rig.client("sample_one", buffer)
        yield Contender({f"sample, one at a time, shards: {count}": [one]})


def training(rig: Rig) -> Contenders:
    """A learner that trains a network, on a GPU if there is one, and what it loses to replay."""
    yield Contender({"on the same batch": [rig.trainer("train_on_one")]})
    yield Contender({"replayring": [rig.trainer("train")]})
    yield Contender({"replayring, same host": [rig.trainer("train", same_host=True)]})
    yield Contender({"replayring, copied by the loop": [rig.trainer("train_and_copy")]})
    yield Contender({"replayring, DataLoader": [rig.trainer("train_from_loader")]})
    yield Contender({"replayring, without training": [rig.trainer("take")]})


PARTS: dict[str, Callable[[Rig], Contenders]] = {
    "sample": sample,
    "same-host": same_host,
    "insert": insert,
    "together": together,
    "loader": loader,
    "capacity": capacity,
    "shards": shards,
    "training": training,
}

SMALL_ONLY = ("loader", "capacity", "shards")
"""Parts that are measured with the workload `small` alone."""

GPU_ONLY = ("training",)
"""Parts that are measured unasked only where there is a GPU: processors are busy with training."""
