"""Twenty thousand valid calls, broken at random: documented statuses only, and nothing leaks."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from replayring_proto.v1 import replay_pb2
from tests.mutate import broken
from tests.service.frames import SPEC, episode
from tests.support import ServerProcess, eventually
from tests.wire import (
    METHODS,
    SERVING,
    Wire,
    episode_messages,
    pack_messages,
    start_message,
    view_message,
)

CALLS = int(os.environ.get("REPLAYRING_FUZZ_CALLS", "20000"))
WARM_UP = CALLS // 5  # of these, while caches and pools fill
THREADS = 8
DOCUMENTED = {
    "OK",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "OUT_OF_RANGE",
    "FAILED_PRECONDITION",
    "RESOURCE_EXHAUSTED",
    "DEADLINE_EXCEEDED",  # a broken message may ask to wait for what never comes
}
MIB = 1 << 20

Rng = random.Random


def valid_calls() -> dict[str, list[list[bytes]]]:
    """Returns calls that the server would accept: for each method, choices of messages."""
    view = view_message(["pixel"], {"position": [-0.1, 0, 0.1]}, {"pixel": [-1, 0, 1]})
    sample = replay_pb2.SampleSpec(buffer="fuzz", batch_size=8, view=view, drop_n_last_frames=1)
    small = {"w": np.arange(6.0).reshape(2, 3), "b": np.zeros(2, bool)}
    messages = {
        "CreateBuffer": [replay_pb2.CreateBufferRequest(name="fuzz", spec=SPEC)],
        "GetBuffer": [replay_pb2.GetBufferRequest(name="fuzz")],
        "ListBuffers": [replay_pb2.ListBuffersRequest()],
        "DeleteBuffer": [replay_pb2.DeleteBufferRequest(name="victim")],
        "GetItem": [replay_pb2.GetItemRequest(buffer="fuzz", positions=[0, -1, 2], view=view)],
        "SampleBatch": [
            replay_pb2.SampleBatchRequest(spec=sample, batches=2),
            replay_pb2.SampleBatchRequest(batches=1),
        ],
        "ReadColumn": [replay_pb2.ReadColumnRequest(buffer="fuzz", keys=["pixel", "position"])],
        "PublishParameters": pack_messages(
            replay_pb2.PublishParametersRequest, small, 50, name="policy"
        ),
        "WatchParameters": [replay_pb2.WatchParametersRequest(name="policy")],
        "GetServerStatus": [replay_pb2.GetServerStatusRequest()],
    }
    calls = {method: [[m.SerializeToString() for m in sent]] for method, sent in messages.items()}
    return {**calls, "AddEpisodes": [[*_episodes(number)] for number in range(1, 300)]}


def _episodes(number: int) -> Iterator[bytes]:
    """Yields the messages of two episodes."""
    yield start_message("fuzz", f"writer{number % 8}").SerializeToString()
    for sequence, arrays in (
        (number << 20, episode(3)),
        ((number << 20) + 1, episode(2, timestamp=np.arange(2.0))),
    ):
        for message in episode_messages(sequence, arrays, chunk=40):
            yield message.SerializeToString()


VALID = valid_calls()


def broken_call(seed: int) -> tuple[str, list[bytes]]:
    """Returns a method and the messages of a valid call after one to three mutations."""
    rng = Rng(seed)
    method = rng.choice([*VALID])
    messages = [*rng.choice(VALID[method])]
    for _ in range(rng.randint(1, 3)):
        where = rng.randrange(len(messages))
        if len(messages) > 1 and rng.random() < 0.2:  # in the order of messages
            messages.insert(rng.randrange(len(messages)), messages.pop(where))
            if rng.random() < 0.5:
                del messages[where]
        else:
            messages[where] = broken(rng, messages[where], most=1)
    return method, messages


def outcome(wire: Wire, seed: int) -> tuple[str, str]:
    """Makes a broken call; returns its method and status."""
    method, messages = broken_call(seed)
    error = wire.refusal(method, *messages, timeout=2)
    return method, error.code if error else "OK"


@pytest.fixture
def fuzzed(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "data") as server:
        # A mutated capacity must not reserve the whole disk; this is a full disk to the server.
        server.stats.rlimit(psutil.RLIMIT_FSIZE, (16 * MIB, 16 * MIB))
        yield server


def tidy(wire: Wire) -> None:
    """Removes what mutated calls have created, and makes again what they may have deleted."""
    for buffer in wire.ask("ListBuffers", b"").buffers:
        if buffer.name != "fuzz":
            wire.delete(buffer.name)
    wire.create("fuzz", SPEC)
    wire.create("victim", SPEC)
    wire.publish("policy", {"w": np.zeros(2)})


def fuzz(wire: Wire, seeds: range) -> Counter[tuple[str, str]]:
    tidy(wire)
    with ThreadPoolExecutor(THREADS) as threads:
        outcomes = Counter(threads.map(lambda seed: outcome(wire, seed), seeds))
    tidy(wire)
    return outcomes


def footprint(server: ServerProcess) -> tuple[int, int, int]:
    with server.stats.oneshot():
        memory = server.stats.memory_info().rss
        return memory, server.stats.num_threads(), server.stats.num_fds()


@pytest.mark.timeout(120 + CALLS // 50)
def test_broken_calls_get_documented_answers_and_leave_nothing_behind(
    fuzzed: ServerProcess,
) -> None:
    with Wire(fuzzed.address) as wire:
        outcomes = fuzz(wire, range(WARM_UP))
        memory, threads, descriptors = footprint(fuzzed)
        outcomes += fuzz(wire, range(WARM_UP, CALLS))
        strange = {key: count for key, count in outcomes.items() if key[1] not in DOCUMENTED}
        assert not strange, f"{strange}\n{fuzzed.log_text()[-5000:]}"
        assert {method for method, _ in outcomes} == set(METHODS)
        assert outcomes.total() - outcomes_ok(outcomes) > CALLS // 3, "too few calls were broken"
        eventually(lambda: footprint(fuzzed)[2] <= descriptors, "the descriptors are closed")
        now = footprint(fuzzed)
        assert now[0] - memory < 20 * MIB
        assert now[1] <= threads + 8  # gRPC's own pool comes and goes
        assert wire.health() == SERVING
        check_ring(wire)
    assert fuzzed.stop() == 0
    assert "Traceback" not in fuzzed.log_text()


def outcomes_ok(outcomes: Counter[tuple[str, str]]) -> int:
    return sum(count for (_, code), count in outcomes.items() if code == "OK")


def check_ring(wire: Wire) -> None:
    """Checks that what was stored meanwhile is a whole ring."""
    wire.add("fuzz", episode(3), writer_id="last")
    info = wire.info("fuzz")
    columns = wire.columns("fuzz", "index", "episode_index", "frame_index", "timestamp")
    order = np.argsort(columns["index"])
    index, episodes = columns["index"][order], columns["episode_index"][order]
    assert index.tolist() == list(range(info.oldest_index, info.next_index))
    assert set(np.diff(episodes)) <= {0, 1}
    assert np.isfinite(columns["timestamp"]).all()
