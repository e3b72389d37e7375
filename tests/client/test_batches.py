"""BatchDataset: sampled batches as an iterable dataset."""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import replayring
from replayring.batches import BatchDataset, BatchIterator
from replayring_proto.errors import InvalidRequestError
from tests.client.scripted_streams import ScriptedBuffer, ScriptedStream
from tests.client.torch_buffers import (
    COLUMNS,
    MakeBuffer,
    Worker,
    filled,
    make_naive,
    rollout,
)
from tests.support import ServerProcess, eventually

pytest_plugins = ["tests.client.torch_fixtures"]
pytestmark = pytest.mark.usefixtures("no_threads_stay")


def test_batches_are_collated_tensors(make_buffer: MakeBuffer) -> None:
    buffer = filled(make_buffer, 5, 6)
    with BatchDataset(buffer, 32) as batches:
        iterator = iter(batches)
        for batch in (next(iterator), next(iterator)):
            assert type(batch) is dict
            assert batch.keys() == COLUMNS
            assert all(type(value) is torch.Tensor for value in batch.values())
            assert batch["state"].shape == (32, 2, 3)
            assert batch["action"].shape == batch["index"].shape == (32,)
            assert batch["state"].dtype == torch.float32
            assert batch["action"].equal(-batch["index"].double())
            assert batch["state"][:, 0, 0].equal(batch["index"].float())


def test_all_eligible_frames_are_drawn_evenly(make_buffer: MakeBuffer) -> None:
    buffer = filled(make_buffer, 7, 4, 1, 5, capacity=12)  # frames 5..16; episodes 5-6, 7-10, ...
    with BatchDataset(buffer, 300, drop_n_last_frames=1, num_batches=40, seed=3) as batches:
        drawn = torch.cat([batch["index"] for batch in batches])
    counts = np.bincount(drawn.numpy(), minlength=17)
    eligible = [5, 7, 8, 9, 12, 13, 14, 15]
    assert np.flatnonzero(counts).tolist() == eligible
    # 12000 draws of 8: a standard deviation of 36.
    assert np.abs(counts[eligible] - 1500).max() < 200


def test_windows_keys_and_tolerance(make_buffer: MakeBuffer) -> None:
    buffer = filled(make_buffer, 6)
    with BatchDataset(
        buffer,
        16,
        delta_timestamps={"action": [0.0, 0.16]},
        delta_indices={"index": [0, 1]},
        drop_n_last_frames=1,
        keys=["action"],
        tolerance_s=0.08,
        num_batches=3,
    ) as batches:
        for batch in batches:
            presets = {"index", "episode_index", "frame_index", "timestamp"}
            assert batch.keys() == {"action", "action_is_pad", "index_is_pad", *presets}
            assert batch["index"].shape == batch["action"].shape == (16, 2)
            assert batch["index"].diff().tolist() == [[1]] * 16
            assert not batch["index_is_pad"].any()
            is_last = batch["index"][:, 0] == 4  # from there 0.16 s lead beyond the end, by 0.06
            expected = torch.where(is_last, 5, batch["index"][:, 0] + 2)
            assert batch["action"][:, 1].equal(-expected.double())
            assert not batch["action_is_pad"].any()


def test_a_tolerance_error_reaches_the_loop(make_buffer: MakeBuffer) -> None:
    buffer = filled(make_buffer, 9)
    with (
        BatchDataset(buffer, 64, delta_timestamps={"index": [0.05]}, tolerance_s=0.01) as batches,
        pytest.raises(AssertionError),
    ):
        next(iter(batches))


def test_a_number_of_batches(make_buffer: MakeBuffer) -> None:
    buffer = filled(make_buffer, 9)
    batches = BatchDataset(buffer, 4, num_batches=5)
    assert len(batches) == 5
    iterator = iter(batches)
    assert sum(1 for _ in iterator) == 5
    assert list(iterator) == []
    assert sum(1 for _ in batches) == 5
    with pytest.raises(TypeError, match="num_batches"):
        len(BatchDataset(buffer, 4))


def test_several_iterations_at_once(make_buffer: MakeBuffer) -> None:
    buffer = filled(make_buffer, 50)
    with BatchDataset(buffer, 16, num_batches=4) as batches:
        pairs = [
            (a["index"].tolist(), b["index"].tolist())
            for a, b in zip(batches, batches, strict=True)
        ]
        assert len(pairs) == 4
        assert all(a != b for a, b in pairs)


def test_a_seed_repeats_the_stream(make_buffer: MakeBuffer) -> None:
    buffer = filled(make_buffer, 50)
    batches = BatchDataset(buffer, 16, num_batches=4, seed=11)
    first, again = ([batch["index"].tolist() for batch in batches] for _ in range(2))
    assert first == again
    assert first[0] != first[1]
    other = [batch["index"].tolist() for batch in BatchDataset(buffer, 16, num_batches=4, seed=12)]
    assert first != other


def test_batches_belong_to_the_caller(make_buffer: MakeBuffer) -> None:
    buffer = filled(make_buffer, 3)
    with BatchDataset(buffer, 8) as batches:
        iterator = iter(batches)
        next(iterator)["state"].fill_(-1)
        assert (next(iterator)["state"] >= 0).all()


def test_breaking_out_leaves_nothing(make_buffer: MakeBuffer) -> None:
    buffer = filled(make_buffer, 9)
    for _ in range(5):
        for batch in BatchDataset(buffer, 4):
            assert len(batch["index"]) == 4
            break
    # and no_threads_stay looks


# Waiting


def test_waits_for_frames(make_real: MakeBuffer) -> None:
    buffer = make_real()
    buffer.add_data(rollout(3))
    with BatchDataset(buffer, 8, min_frames=10, timeout=60) as batches:
        iterator = iter(batches)
        buffer.add_data(rollout(7))
        assert len(next(iterator)["index"]) == 8


@pytest.mark.parametrize("min_frames", [1, 50])
def test_time_runs_out(make_real: MakeBuffer, min_frames: int) -> None:
    buffer = make_real()
    if min_frames > 1:
        buffer.add_data(rollout(3))
    with BatchDataset(buffer, 8, min_frames=min_frames, timeout=0.2) as batches:
        began = time.monotonic()
        with pytest.raises(TimeoutError, match="min_frames"):
            next(iter(batches))
        assert time.monotonic() - began < 20


@pytest.mark.parametrize("device", [None, "cpu"])
def test_without_a_timeout_it_waits_for_as_long_as_it_takes_and_says_once_what_for(
    make_real: MakeBuffer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    device: str | None,
) -> None:
    """A learner may well be started before its actors."""
    monkeypatch.setattr(replayring.batches, "_TELL_SECONDS", 0.05)
    buffer = make_real()
    attempts: list[object] = []
    real = BatchIterator._patiently

    def patiently(self: BatchIterator, attempt: Callable[[], Any]) -> Any:
        return real(self, lambda: attempts.append(attempt) or attempt())

    monkeypatch.setattr(BatchIterator, "_patiently", patiently)
    with (
        BatchDataset(buffer, 8, min_frames=10, device=device, max_staleness_frames=100) as batches,
        ThreadPoolExecutor(1) as threads,
    ):
        batch = threads.submit(next, iter(batches))
        eventually(lambda: len(attempts) > 5, "it tries again and again")
        assert not batch.done()
        buffer.add_data(rollout(10))
        assert len(batch.result(60)["index"]) == 8
    (told,) = (one for one in caplog.messages if one.startswith("still waiting for a batch"))
    assert "holds 0 frames" in told
    assert "waits for 10 (min_frames)" in told


def test_without_a_timeout_it_outlives_any_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(replayring.batches, "_TELL_SECONDS", 0.1)
    with ServerProcess(tmp_path / "data") as server:
        client = replayring.connect(server.address, timeout=0.5, same_host=False)
        buffer = client.create_buffer("b", {"x": {"shape": (), "dtype": "int64"}}, capacity=10)
        buffer.add_episode({"x": np.arange(3)})
        batches = BatchDataset(buffer, 4, in_flight=1)
        iterator = iter(batches)
        next(iterator)
        server.kill()

        def waits() -> bool:
            return any("still waiting for a batch" in one for one in caplog.messages)

        with ThreadPoolExecutor(1) as threads:
            more = threads.submit(lambda: [next(iterator) for _ in range(10)])
            eventually(waits, "it says so")
            with ServerProcess(server.data_dir, listen=server.address):
                assert len(more.result(60)) == 10
                client.close()


def test_frames_that_arrive_are_sampled(make_buffer: MakeBuffer) -> None:
    buffer = filled(make_buffer, 5)
    with BatchDataset(buffer, 64, in_flight=1) as batches:
        iterator = iter(batches)
        assert next(iterator)["index"].max() <= 4
        buffer.add_data(rollout(90))
        assert any(next(iterator)["index"].max() > 4 for _ in range(5))


# Arguments


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_size": 0},
        {"batch_size": -1},
        {"keys": ["nothing"]},
        {"keys": "state"},
        {"delta_timestamps": {"nothing": [0.0]}},
        {"delta_timestamps": [0.0]},
        {"delta_timestamps": {"state": [0.0]}, "delta_indices": {"state": [0]}},
        {"delta_indices": {"state": [0.5]}},
        {"tolerance_s": -1.0},
        {"drop_n_last_frames": -1},
        {"min_frames": 0},
        {"min_frames": 101},
        {"in_flight": 0},
        {"num_batches": 0},
        {"timeout": 0},
        {"seed": -1},
        {"seed": 1 << 64},
    ],
)
def test_arguments_are_checked_at_once(make_buffer: MakeBuffer, arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError):
        BatchDataset(make_buffer(), **{"batch_size": 4, **arguments})


@pytest.mark.parametrize("name", ["batch_size", "drop_n_last_frames", "min_frames", "seed"])
def test_fractions_are_no_counts(name: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"{name} is 1.5"):
        BatchDataset(make_naive(), **{"batch_size": 4, name: 1.5})


def test_arguments_reach_the_stream() -> None:
    buffer = ScriptedBuffer(ScriptedStream())
    offsets = {"state": [0.0, 0.1]}
    batches = BatchDataset(
        buffer,
        np.int64(7),
        delta_timestamps=offsets,
        drop_n_last_frames=2,
        min_frames=9,
        in_flight=3,
        seed=5,
        timeout=1.5,
    )
    offsets["state"][0] = 9.0  # too late to matter
    iter(batches).close()
    (options,) = buffer.options
    assert options["delta_timestamps"]["state"].tolist() == [0.0, 0.1]
    wanted = {"batch_size": 7, "drop_n_last_frames": 2, "min_frames": 9, "in_flight": 3}
    wanted |= {"seed": 5, "timeout": 1.5, "keys": None, "delta_indices": None}
    assert {key: options[key] for key in wanted} == wanted


# Pinning


def test_pinning_without_cuda_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    buffer = filled(make_naive, 3)
    with pytest.warns(UserWarning, match="CUDA"):
        batches = BatchDataset(buffer, 4, pin_memory=True)
    assert len(next(iter(batches))["index"]) == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        BatchDataset(buffer, 4)


def test_pinning_with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[torch.Tensor] = []
    ordinary = torch.empty

    def empty(*shape: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        made = ordinary(*shape, **options)
        if pin_memory:
            pinned.append(made)
        return made

    def is_pinned(block: torch.Tensor) -> bool:
        return any(one.data_ptr() == block.untyped_storage().data_ptr() for one in pinned)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(torch.Tensor, "is_pinned", is_pinned)
    batches = BatchDataset(filled(make_naive, 3), 4, pin_memory=True)
    for batch in itertools.islice(batches, 3):
        assert all(is_pinned(value) for value in batch.values())
        assert len({value.untyped_storage().data_ptr() for value in batch.values()}) == 1
        assert batch["state"][:, 0, 0].equal(batch["index"].float())
    pinned.clear()
    next(iter(BatchDataset(batches.buffer, 4)))
    assert not pinned
    # In a worker, CUDA is not touched.
    monkeypatch.setattr("replayring.batches.get_worker_info", lambda: Worker(0, 1))
    next(iter(batches))
    assert not pinned


# Around buffers and streams of the caller's own


def test_a_buffer_around_ours_need_not_know_of_memory(make_real: MakeBuffer) -> None:
    class Around:
        def __init__(self, buffer: Any) -> None:
            self._buffer = buffer
            self.spec, self.client = buffer.spec, buffer.client

        def sample_stream(self, batch_size: int, *, timeout: float, **options: Any) -> Any:
            assert "memory" not in options
            return self._buffer.sample_stream(batch_size, timeout=timeout, **options)

    around: Any = Around(filled(make_real, 90))
    with BatchDataset(around, 8, num_batches=2) as batches:
        assert [len(batch["index"]) for batch in batches] == [8, 8]


class Doubled(replayring.SampleStream):
    """A stream of the caller's own around one of ours, which changes batches on their way."""

    def __init__(self, stream: replayring.SampleStream) -> None:
        self._stream = stream

    def __next__(self) -> dict[str, np.ndarray]:
        batch = next(self._stream)
        return {"index": batch["index"], "action": 2 * batch["action"]}

    def close(self) -> None:
        self._stream.close()


@pytest.mark.parametrize("device", [None, "cpu"])
def test_a_stream_of_the_callers_own(make_real: MakeBuffer, device: str | None) -> None:
    buffer = filled(make_real, 5, 6)
    ours = buffer.sample_stream
    buffer.sample_stream = lambda *args, **options: Doubled(ours(*args, **options))
    with BatchDataset(buffer, 16, device=device, num_batches=3) as batches:
        iterator = iter(batches)
        for batch in iterator:
            assert batch.keys() == {"index", "action"}
            assert batch["action"].equal(-2.0 * batch["index"])
        assert iterator.next_index is None  # nobody says
