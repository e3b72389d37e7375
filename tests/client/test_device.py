"""Batches for a device: which devices there are, a dataset that brings batches to one, and CUDA."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from replayring import _device
from replayring._device import CudaLink, as_device
from replayring._page_locked import ordinary
from replayring.batches import BatchDataset
from replayring_proto.errors import InvalidRequestError
from tests.client.torch_buffers import MakeBuffer, make_naive, rollout
from tests.support import eventually

pytest_plugins = ["tests.client.torch_fixtures"]


@pytest.mark.parametrize("device", ["cuda", "cuda:0", torch.device("cuda"), "cuda:7"])
def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch, device: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InvalidRequestError, match="finds 0 CUDA devices"):
        BatchDataset(make_naive(), 4, device=device)


def test_a_number_that_is_too_high(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert as_device("cuda:1").index == 1
    with pytest.raises(InvalidRequestError, match=r"cuda:2.*finds 2"):
        as_device("cuda:2")


@pytest.mark.parametrize("device", ["gpu", "meta", "mps", 3.5, ""])
def test_a_device_of_no_use(device: Any) -> None:
    with pytest.raises(InvalidRequestError, match=r"device is .*; (give|leave)"):
        as_device(device)


# In a dataset


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
@pytest.mark.parametrize("in_flight", [1, 2, 8])
def test_a_dataset_on_a_device(make_real: MakeBuffer, device: Any, in_flight: int) -> None:
    buffer = make_real(capacity=100)
    buffer.add_data(rollout(50, 40))
    plain = BatchDataset(buffer, 16, seed=5, num_batches=20, delta_indices={"state": [-1, 0]})
    staged = BatchDataset(
        buffer,
        16,
        seed=5,
        num_batches=20,
        delta_indices={"state": [-1, 0]},
        device=device,
        in_flight=in_flight,
    )
    pairs = list(zip(plain, staged, strict=True))
    assert len(pairs) == 20
    for one, other in pairs:
        assert one.keys() == other.keys()
        assert all(one[key].equal(other[key]) for key in one)
        assert all(value.device.type == "cpu" for value in other.values())


def test_waiting_and_time_running_out(make_real: MakeBuffer) -> None:
    with BatchDataset(make_real(), 4, device="cpu", timeout=0.3) as batches:
        iterator = iter(batches)
        with pytest.raises(TimeoutError, match="min_frames"):
            next(iterator)
        batches.buffer.add_data(rollout(9))
        batch = eventually(lambda: _next(iterator), "a batch")
        assert len(batch["index"]) == 4
    assert list(iterator) == []


def _next(iterator: Any) -> Any:
    try:
        return next(iterator)
    except TimeoutError:
        return None


@pytest.mark.parametrize("workers", [0, 2])
def test_a_cpu_device_in_a_loader(make_real: MakeBuffer, workers: int) -> None:
    buffer = make_real()
    buffer.add_data(rollout(90))
    loader = DataLoader(
        BatchDataset(buffer, 8, device="cpu", num_batches=6),
        batch_size=None,
        num_workers=workers,
        timeout=60 if workers else 0,
    )
    for batch in loader:
        assert batch["action"].equal(-batch["index"].double())


def test_workers_do_not_touch_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    batches = BatchDataset(make_naive(), 4, device="cuda")
    monkeypatch.setattr("replayring.batches.get_worker_info", lambda: object())
    with pytest.raises(InvalidRequestError, match="iterate the BatchDataset itself"):
        iter(batches)


class _Cuda:
    """Enough of torch.cuda to see what is called, in which order."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.streams = {name: _Stream(self.calls, name) for name in ("side", "learner", "other")}
        self.current = self.streams["learner"]

    def Stream(self, device: Any) -> Any:
        return self.streams["side"]

    def Event(self, blocking: bool) -> Any:
        assert blocking
        return "event"

    def current_stream(self, device: Any) -> Any:
        return self.current

    def stream(self, stream: Any) -> Any:
        return stream


class _Stream:
    def __init__(self, calls: list[str], name: str) -> None:
        self.calls, self.name = calls, name
        self.device = torch.device("cuda", 0)

    def __enter__(self) -> None:
        self.calls.append(f"{self.name} begins")

    def __exit__(self, *_: Any) -> None:
        self.calls.append(f"{self.name} ends")

    def record_event(self, event: Any) -> None:
        self.calls.append(f"{self.name} records {event}")

    def wait_event(self, event: Any) -> None:
        self.calls.append(f"{self.name} waits for {event}")

    def wait_stream(self, stream: Any) -> None:
        self.calls.append(f"{self.name} waits for {stream.name}")

    def synchronize(self) -> None:
        self.calls.append(f"{self.name} is waited for")


class _Block:
    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def copy_(self, source: Any, non_blocking: bool) -> None:
        self.calls.append(f"copy {non_blocking}")

    def record_stream(self, stream: Any) -> None:
        self.calls.append(f"block is used by {stream.name}")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> _Cuda:
    made = _Cuda()

    def empty_like(block: Any, device: Any) -> Any:
        assert device.index == 0
        made.calls.append("memory")
        return _Block(made.calls)

    monkeypatch.setattr(_device.torch, "cuda", made)
    monkeypatch.setattr(_device.torch, "empty_like", empty_like)
    return made


SENT = [
    *("memory", "side waits for learner"),  # whose memory it is
    *("side begins", "copy True", "side records event", "side ends"),
]
"""No proof that it works; `test_cuda` is that, where there is a GPU."""


def test_what_is_asked_of_cuda(cuda: _Cuda) -> None:
    link = CudaLink(torch.device("cuda"))
    link.receive(link.send(ordinary(64)))
    assert cuda.calls == [*SENT, "learner waits for event"]


def test_what_is_received_for_another_stream_is_not_used_again_before_that_is_done(
    cuda: _Cuda,
) -> None:
    link = CudaLink(torch.device("cuda"))
    sent = link.send(ordinary(64))
    cuda.current = cuda.streams["other"]
    link.receive(sent)
    assert cuda.calls == [*SENT, "other waits for event", "block is used by other"]


def test_what_ctrl_c_ends_is_not_still_copied_to_memory_that_was_let_go(
    cuda: _Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    link = CudaLink(torch.device("cuda"))
    monkeypatch.setattr(_Stream, "record_event", interrupted)
    with pytest.raises(KeyboardInterrupt):
        link.send(ordinary(64))
    assert cuda.calls[-2:] == ["side ends", "side is waited for"]
