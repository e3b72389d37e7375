"""The clients of a soak, each a process: what they do, and the lines of JSON in which they say it.

    python -m tests.soak.workers ROLE ADDRESS NUMBER

A worker ends when its stdin closes, so none outlives the soak. Servers that die are a client's
daily bread: only what `replayring` raises all the same is reported, as an error.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import replayring
from replayring import Client, NotFoundError, OvertakenError

BUFFER = "soak"
SPEC = {
    "tag": {"shape": (), "dtype": "int64"},
    "value": {"shape": (16,), "dtype": "float32"},
}
CAPACITY = 20_000
TIMEOUT = 120.0
"""Seconds for a call, restarts of the server included."""

Arrays = dict[str, np.ndarray]


def values(tags: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Returns what `value` holds in a frame of an episode."""
    seeds = (tags * 31 + frames) % 65_521
    return (seeds[..., None] + np.arange(16)).astype(np.float32)


def episode(tag: int, frames: int) -> Arrays:
    """Returns an episode that says of each frame what it must hold."""
    tags = np.full(frames, tag)
    return {"tag": tags, "value": values(tags, np.arange(frames))}


def torn(arrays: Arrays) -> int:
    """Returns how many rows are not as their episode was sent."""
    wrong = arrays["value"] != values(arrays["tag"], arrays["frame_index"])
    return int(wrong.any(axis=-1).sum())


def actor(client: Client, number: int) -> Iterator[Any]:
    """Adds episodes; says what of each was acknowledged."""
    buffer = client.buffer(BUFFER)
    rng = np.random.default_rng(number)
    for count in range(1_000_000):
        tag = number * 1_000_000 + count
        stored = buffer.add_episode(episode(tag, int(rng.integers(1, 120))))
        yield "stored", [tag, stored.index, stored.num_frames]
        time.sleep(0.002)


def learner(client: Client, number: int) -> Iterator[Any]:
    """Samples and checks batches; says how many rows there were, and how many were torn."""
    buffer = client.buffer(BUFFER)
    with buffer.sample_stream(256, keys=["tag", "value"], timeout=TIMEOUT) as batches:
        for batch in batches:
            yield "rows", [len(batch["tag"]), torn(batch)]
            time.sleep(0.005)


def reader(client: Client, number: int) -> Iterator[Any]:
    """Samples a batch and fetches frames by position, in turn, and checks them."""
    buffer = client.buffer(BUFFER)
    rng = np.random.default_rng(number)
    keys = ["tag", "value"]
    while True:
        batch = buffer.sample(64, keys=keys, min_frames=100)
        yield "rows", [len(batch["tag"]), torn(batch)]
        frames = buffer.get(rng.integers(-100, 100, 64), keys=keys)
        yield "rows", [len(frames["tag"]), torn(frames)]
        time.sleep(0.01)


def publisher(client: Client, number: int) -> Iterator[Any]:
    """Publishes parameters; says their versions."""
    while True:
        yield "published", client.publish("policy", {"weights": np.zeros(10_000, np.float32)})
        time.sleep(0.2)


def watcher(client: Client, number: int) -> Iterator[Any]:
    """Follows the parameters, whose versions must grow; says each."""
    last = 0
    for parameters in client.watch("policy"):
        assert parameters.version > last, f"version {parameters.version} came after {last}"
        last = parameters.version
        yield "seen", last


def churner(client: Client, number: int) -> Iterator[Any]:
    """Creates buffers, uses and deletes them."""
    while True:
        buffer = client.create_buffer(f"passing{number}", SPEC, 100)
        buffer.add_episode(episode(1, 100))
        try:
            columns = buffer.read_columns(["tag", "value", "frame_index"])
        except OvertakenError:
            pass
        else:
            yield "rows", [100, torn(columns)]
        batch = buffer.sample(16)
        yield "rows", [16, torn(batch)]
        try:
            client.delete_buffer(f"passing{number}")
        except NotFoundError:
            yield "error", "a buffer vanished by itself"
        time.sleep(0.1)


ROLES: dict[str, Callable[[Client, int], Iterator[Any]]] = {
    role.__name__: role for role in (actor, learner, reader, publisher, watcher, churner)
}


def main() -> None:
    """Plays a role until stdin closes."""
    role, address, number = sys.argv[1:]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Every other one reads from the server's files, the rest over the wire.
    near = int(number) % 2 == 1 and role != reader.__name__
    client = replayring.connect(address, timeout=TIMEOUT, same_host=near)
    try:
        for word, content in ROLES[role](client, int(number)):
            print(json.dumps([word, content]), flush=True)
    except Exception as error:
        print(json.dumps(["error", f"{role}: {error!r}"]), flush=True)


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
