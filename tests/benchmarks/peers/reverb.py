"""DeepMind Reverb: a server with a table of single frames, or of windows, and its best settings.

Natural is a tensor per column, as its users write it. Packed is all columns of a frame in one
tensor, cut up again by the learner: the fastest way of using it that is known. Which writer, which
chunk length and which dataset are best on two cores was found by trying.
"""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

os.environ |= {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "",
    "TF_ENABLE_ONEDNN_OPTS": "0",
}

import numpy as np
import reverb
import tensorflow as tf
from benchmark.turns import take_turns
from benchmark.workloads import Workload
from reverb import structured_writer

from tests.benchmarks.peers.program import run, serve_until_told

TABLE = "frames"
PACKED = "packed"
NATURAL = "natural"
STREAMS = {"small": 2, "pixels": 1, "sequence": 2}
IN_FLIGHT = {"small": 512, "pixels": 256, "sequence": 512}
PREFETCH = 4

Frames = list[dict[str, np.ndarray[Any, Any]]]
Spec = dict[str, tuple[str, tuple[int, ...]]]


def spec_of(workload: Workload, style: str) -> Spec:
    """Returns dtype and shape of each tensor of a frame."""
    if style == NATURAL:
        return dict(workload.columns)
    sizes = [
        np.dtype(d).itemsize * int(np.prod(s, dtype=int)) for d, s in workload.columns.values()
    ]
    return {"frame": ("uint8", (sum(sizes),))}


def frames_of(workload: Workload, style: str) -> Frames:
    """Returns an episode frame by frame, so that a turn does nothing but call Reverb."""
    episode = workload.episode()
    if style == PACKED:
        rows = [
            np.ascontiguousarray(column).reshape(len(column), -1).view(np.uint8)
            for column in episode.values()
        ]
        episode = {"frame": np.concatenate(rows, axis=1)}
    return [
        {name: np.asarray(column[at]) for name, column in episode.items()}
        for at in range(workload.episode_frames)
    ]


def serve(workload: Workload, style: str) -> None:
    """Serves a full table."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    table = reverb.Table(
        name=TABLE,
        sampler=reverb.selectors.Uniform(),
        remover=reverb.selectors.Fifo(),
        max_size=workload.capacity,
        rate_limiter=reverb.rate_limiters.MinSize(1),
    )
    server = reverb.Server([table], port=port)
    address = f"localhost:{port}"
    write, settle = writing(workload, address, style)
    while reverb.Client(address).server_info()[TABLE].current_size < workload.capacity:
        for _ in range(50):
            write()
        settle()
    serve_until_told(address)
    server.stop()


def writing(
    workload: Workload, address: str, style: str
) -> tuple[Callable[[], int], Callable[[], None]]:
    """Returns what writes an episode, and what waits until all is stored."""
    client = reverb.Client(address)
    frames, length = frames_of(workload, style), workload.window
    if length > 1 or (workload.name == "small" and style == NATURAL):
        return _chunked(client, frames, length)
    reference = structured_writer.create_reference_step(dict.fromkeys(frames[0]))
    config = structured_writer.create_config(
        {name: reference[name][-1] for name in frames[0]}, TABLE
    )
    writer = client.structured_writer([config])

    def write() -> int:
        for frame in frames:
            writer.append(frame)
        writer.end_episode()
        return len(frames)

    return write, writer.flush


def _chunked(
    client: Any, frames: Frames, length: int
) -> tuple[Callable[[], int], Callable[[], None]]:
    """As `writing`, with the writer whose items are read fastest where frames are small."""

    def opened() -> Any:
        return client.writer(
            max_sequence_length=length, chunk_length=length, max_in_flight_items=1000
        )

    writer = opened()

    def write() -> int:
        nonlocal writer
        for at, frame in enumerate(frames):
            writer.append(frame)
            if at >= length - 1:
                writer.create_item(TABLE, length, 1.0)
        if length > 1:  # a window must not span two episodes
            settle()
            writer.close()
            writer = opened()
        return len(frames)

    def settle() -> None:
        writer.flush()
        writer.flush()  # the first one may only send

    return write, settle


def insert(workload: Workload, address: str, style: str) -> None:
    """Writes whole episodes, an item per frame or per window."""
    take_turns(*writing(workload, address, style))


def sample(workload: Workload, address: str, style: str) -> None:
    """Takes numpy batches from a dataset."""
    batches = _batches(workload, address, style)

    def step() -> int:
        batch = next(batches)
        assert len(next(iter(batch.values()))) == workload.batch_size
        return workload.batch_size

    take_turns(step)
    os._exit(0)  # TensorFlow's threads go on fetching


def _batches(workload: Workload, address: str, style: str) -> Iterator[dict[str, Any]]:
    spec = spec_of(workload, style)
    # Items of the writer that chunks have an axis of time, even if it is of length 1.
    timed = workload.window > 1 or (workload.name == "small" and style == NATURAL)
    time = (workload.window,) if timed else ()
    streams = STREAMS[workload.name]

    def one(_: Any = None) -> Any:
        dataset = reverb.TrajectoryDataset(
            server_address=address,
            table=TABLE,
            dtypes={name: tf.as_dtype(dtype) for name, (dtype, _) in spec.items()},
            shapes={name: tf.TensorShape(time + shape) for name, (_, shape) in spec.items()},
            max_in_flight_samples_per_worker=IN_FLIGHT[workload.name],
            num_workers_per_iterator=1,
        )
        together = {} if streams > 1 else {"num_parallel_calls": 2, "deterministic": False}
        return dataset.batch(workload.batch_size, drop_remainder=True, **together)

    dataset = one()
    if streams > 1:
        dataset = tf.data.Dataset.range(streams).repeat()
        dataset = dataset.interleave(
            one, cycle_length=streams, num_parallel_calls=streams, deterministic=False
        )
    options = tf.data.Options()
    options.deterministic = False
    samples = dataset.prefetch(PREFETCH).with_options(options).as_numpy_iterator()
    if style == NATURAL:
        return (sample.data for sample in samples)
    return (_cut_up(workload, sample.data["frame"]) for sample in samples)


def _cut_up(workload: Workload, packed: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Returns the columns of packed frames."""
    columns = {}
    ends = itertools.accumulate(
        np.dtype(dtype).itemsize * int(np.prod(shape, dtype=int))
        for dtype, shape in workload.columns.values()
    )
    begin = 0
    for (name, (dtype, shape)), end in zip(workload.columns.items(), ends, strict=True):
        column = np.ascontiguousarray(packed[..., begin:end]).view(dtype)
        columns[name] = column.reshape(packed.shape[:-1] + tuple(shape))
        begin = end
    return columns


if __name__ == "__main__":
    run({"serve": serve, "insert": insert, "sample": sample})
