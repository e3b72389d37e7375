"""Batches on a real GPU. All that needs one is here, to be run by one command where there is one.

    python -m pytest tests/client/test_cuda.py

The GPU is as late as it may: `torch.cuda._sleep` keeps a stream busy for a number of its cycles, so
that whatever does not wait for what it has to is seen to have read or written too early.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import replayring
from replayring._batch import Batch, batches_in
from replayring._blocks import in_blocks
from replayring._device import CudaLink, Sent
from replayring._staging import Staging
from replayring._streams import BatchStream
from replayring.batches import BatchDataset
from replayring.dataset import RemoteDataset
from replayring_proto.errors import ClosedError
from replayring_proto.pack import Memory, Pack, aligned_empty
from replayring_proto.spec import DTYPES
from tests.client.torch_buffers import MakeBuffer, filled, rollout

pytest_plugins = ["tests.client.torch_fixtures"]
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

GPU = torch.device("cuda")
CYCLES = 20_000_000  # about 10 ms
WORDS = 1 << 20
EXIT_SECONDS = 100


class LateLink(CudaLink):
    """A link whose copies begin late."""

    def send(self, block: torch.Tensor) -> Sent:
        with torch.cuda.stream(self._stream):
            torch.cuda._sleep(CYCLES)
        return super().send(block)


class Numbered(BatchStream):
    """So many batches, each of which is full of its number, some of them in one pack."""

    def __init__(self, count: int, words: int = WORDS, parts: int = 1) -> None:
        self.memory: Memory = aligned_empty
        self._packs = iter(range(count // parts))
        self._words = words
        self._parts = parts
        self._ready: deque[Batch] = deque()
        self._closed = threading.Event()

    def close(self) -> None:
        self._closed.set()

    def _draw(self) -> Batch:
        if (batch := self._poll()) is not None:
            return batch
        self._closed.wait()
        raise ClosedError("that was all")

    def _poll(self) -> Batch | None:
        if not self._ready and (number := next(self._packs, None)) is not None:
            first = number * self._parts
            numbers = np.arange(first, first + self._parts, dtype=np.int32)
            arrays = {"x": numbers.repeat(self._words)}
            self._ready.extend(batches_in(Pack.of(arrays, self.memory), self._parts, 0))
        return self._ready.popleft() if self._ready else None


def staged(stream: Numbered, link: CudaLink) -> Staging:
    stream.memory = in_blocks(link.allocate)
    return Staging(stream, link)


@pytest.mark.parametrize("link", [CudaLink, LateLink])
@pytest.mark.parametrize("late", [False, True], ids=["prompt learner", "late learner"])
@pytest.mark.parametrize("aside", [False, True], ids=["default stream", "own stream"])
@pytest.mark.parametrize("parts", [1, 4])
def test_nothing_is_read_or_used_again_too_early(
    link: Any, late: bool, aside: bool, parts: int
) -> None:
    """Each batch is let go as soon as its use has been enqueued, long before the GPU is there."""
    count = 40
    stages = staged(Numbered(count, parts=parts), link(GPU))
    stream = torch.cuda.Stream() if aside else torch.cuda.default_stream()
    found = []
    with torch.cuda.stream(stream):
        for _ in range(count):
            tensors, _ = stages.take()
            if late:
                torch.cuda._sleep(CYCLES)
            found.append(torch.stack(tensors["x"].aminmax()))
            del tensors
        stream.synchronize()
    stages.close()
    ends = torch.stack(found).cpu()
    assert ends.tolist() == [[number, number] for number in range(count)]


def test_memory_is_used_again() -> None:
    """On the device lies what is being learned from, and what comes next."""
    count, nbytes = 200, 4 * WORDS
    stages = staged(Numbered(count), CudaLink(GPU))
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    for _ in range(count):
        tensors, _ = stages.take()
        tensors["x"].sum().item()
    stages.close()
    most = torch.cuda.max_memory_allocated() - before
    assert nbytes <= most <= 6 * nbytes


def test_every_dtype_arrives(make_real: MakeBuffer) -> None:
    names = list(DTYPES)
    buffer = make_real(data_spec={name: {"dtype": name, "shape": (3,)} for name in names})
    numbers = np.arange(300).reshape(100, 3) % 2
    buffer.add_episode({name: numbers.astype(name) for name in names})
    with BatchDataset(buffer, 7, device="cuda", num_batches=9, seed=1) as batches:
        ours = [{key: value.cpu() for key, value in batch.items()} for batch in batches]
    with BatchDataset(buffer, 7, num_batches=9, seed=1) as batches:
        for batch, other in zip(ours, batches, strict=True):
            assert batch.keys() == other.keys()
            for key, value in other.items():
                assert batch[key].dtype == value.dtype
                assert np.array_equal(batch[key].numpy(), value.numpy())


@pytest.mark.parametrize("device", ["cuda", "cuda:0", 0, torch.device("cuda", 0)])
@pytest.mark.parametrize("in_flight", [1, 2, 8])
def test_batches_are_there(make_real: MakeBuffer, device: Any, in_flight: int) -> None:
    buffer = filled(make_real, 100)
    with BatchDataset(
        buffer,
        64,
        device=device,
        in_flight=in_flight,
        num_batches=200,
        delta_indices={"state": [0]},
    ) as batches:
        for batch in batches:
            assert all(value.device == torch.device("cuda", 0) for value in batch.values())
            assert batch["action"].equal(-batch["index"].double())
            assert batch["state"][:, 0, 0, 0].equal(batch["index"].float())


def test_several_threads_take_from_one_iteration(make_real: MakeBuffer) -> None:
    buffer = filled(make_real, 100)
    wrong = []

    def learn(batches: Iterator[Any]) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(50):
                batch = next(batches)
                if not batch["action"].equal(-batch["index"].double()):
                    wrong.append(batch)

    with BatchDataset(buffer, 64, device="cuda") as dataset:
        batches = iter(dataset)
        threads = [threading.Thread(target=learn, args=(batches,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong


def test_a_device_that_is_full_is_told_of_and_the_iteration_goes_on() -> None:
    stages = staged(Numbered(50, 64 * WORDS), CudaLink(GPU))
    kept = [stages.take()]
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()

    def fill_up() -> None:
        while True:
            kept.append(stages.take())

    torch.cuda.set_per_process_memory_fraction((total - free) / total + 0.001)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            fill_up()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    kept.clear()
    while len(kept) < 3:
        with suppress(torch.OutOfMemoryError):  # the next one may have run into it as well
            kept.append(stages.take())
            first, last = kept[-1][0]["x"].aminmax()
            assert first == last
    stages.close()


@pytest.mark.parametrize("mode", ["thread_local", "relaxed", "global"])
def test_a_graph_is_captured_meanwhile(make_real: MakeBuffer, mode: str) -> None:
    """What receives batches in our thread must not end what another thread is capturing."""
    buffer = filled(make_real, 100)
    with BatchDataset(buffer, 64, device="cuda") as dataset:
        batches = iter(dataset)
        fixed = {key: value.clone() for key, value in next(batches).items()}
        for _ in range(20):
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode=mode):
                for _ in range(50):
                    found = fixed["action"] + fixed["index"]
            for _ in range(5):
                for key, value in next(batches).items():
                    fixed[key].copy_(value)
                graph.replay()
                assert found.eq(0).all()


# In page-locked memory


def test_pinned_batches(make_real: MakeBuffer) -> None:
    with BatchDataset(filled(make_real, 9), 4, pin_memory=True) as dataset:
        batch = next(iter(dataset))
    assert all(value.is_pinned() for value in batch.values())
    there = {key: value.to(GPU, non_blocking=True) for key, value in batch.items()}
    assert there["action"].equal(-there["index"].double())


@pytest.mark.parametrize("kind", ["frames", "batches"])
def test_a_loader_that_pins(make_real: MakeBuffer, kind: str) -> None:
    """Its workers are forked from a process that uses CUDA, and must not touch it."""
    torch.zeros(1, device=GPU)
    buffer = filled(make_real, 90)
    options: dict[str, Any] = {"num_workers": 2, "pin_memory": True, "timeout": 60}
    loader: DataLoader[Any]
    if kind == "frames":
        collate = replayring.collate
        loader = DataLoader(RemoteDataset(buffer), batch_size=9, collate_fn=collate, **options)
    else:
        batches = BatchDataset(buffer, 9, num_batches=10, pin_memory=True)
        loader = DataLoader(batches, batch_size=None, **options)
    count = 0
    for batch in loader:
        assert all(value.is_pinned() for value in batch.values())
        there = batch["action"].to(GPU, non_blocking=True)
        assert there.equal(-batch["index"].to(GPU).double())
        count += 1
    assert count == 10


# The process around it


ENDS = {
    "break": "break",
    "exit": "sys.exit()",
    "raise": "raise KeyError('the learner broke')",
    "closed": "dataset.close()",
}
PROGRAM = """
import sys
import torch
import replayring

client = replayring.connect({address!r})
dataset = replayring.BatchDataset(client.buffer({name!r}), 64, device="cuda")
for number, batch in enumerate(dataset):
    torch.cuda._sleep(1_000_000)
    if number == 20:
        {end}
"""


@pytest.mark.parametrize("end", ENDS)
def test_a_program_ends_in_the_middle_of_it(
    make_real: MakeBuffer, dataset_server: str, end: str
) -> None:
    buffer = filled(make_real, 100)
    program = PROGRAM.format(address=dataset_server, name=buffer.name, end=ENDS[end])
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=EXIT_SECONDS
    )
    if end == "raise":
        assert done.returncode == 1
        assert done.stderr.rstrip().endswith("KeyError: 'the learner broke'")
        assert done.stderr.count("Traceback") == 1
    else:
        assert (done.returncode, done.stderr) == (0, "")


def test_a_fork_leaves_the_parents_iteration_alone(make_real: MakeBuffer) -> None:
    buffer = make_real()
    buffer.add_data(rollout(90))
    with BatchDataset(buffer, 8, device="cuda") as dataset:
        batches = iter(dataset)
        next(batches)
        child = os.fork()
        if child == 0:
            try:
                next(batches)
            except ClosedError:
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        for _ in range(50):
            batch = next(batches)
            assert batch["action"].equal(-batch["index"].double())


@pytest.mark.timeout(300)
def test_the_demo_learns_on_it(tmp_path: Path) -> None:
    for module in ("gymnasium", "matplotlib", "rich"):
        pytest.importorskip(module)
    program = "from replayring_proto.cli import main; raise SystemExit(main())"
    command = [sys.executable, "-c", program, "demo", "--device", "cuda"]
    folders = ["--data-dir", str(tmp_path / "data"), "--output", str(tmp_path / "output")]
    done = subprocess.run(
        [*command, "--steps", "1500", "--actors", "2", *folders],
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert (tmp_path / "output" / "learning-curve.png").exists()
