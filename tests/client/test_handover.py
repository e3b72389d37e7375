"""Batches from DataLoader workers: through slabs of shared memory, or torch's way."""

from __future__ import annotations

import errno
import gc
import os
import pickle
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset

from replayring import _handover
from replayring._handover import WholeBatch, _Slabs
from replayring.batches import BatchDataset
from replayring.collation import collate
from replayring.concat import ConcatDataset
from replayring.dataset import RemoteDataset
from tests.client.torch_buffers import MakeBuffer, rollout

pytest_plugins = ["tests.client.torch_fixtures"]

Batch = dict[str, torch.Tensor]


@pytest.fixture
def slabs(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Slabs]:
    """Slabs that were not used before; their receiver is this process as well."""
    slabs = _Slabs()
    monkeypatch.setitem(ForkingPickler._extra_reducers, WholeBatch, slabs.reduce)
    monkeypatch.setattr(_handover, "_MAPPINGS", _handover._Mappings())
    yield slabs
    gc.collect()


def batch(number: int, rows: int = 8, **more: Any) -> Batch:
    values = torch.arange(rows * 3, dtype=torch.float32).reshape(rows, 3) + number
    flags = torch.arange(rows) % 2 == number % 2
    return WholeBatch({"x": values, "flag": flags, "number": torch.full((rows,), number)} | more)


def sent(one: Batch) -> Batch:
    """What comes out of another process's queue, or out of ours."""
    received: Batch = pickle.loads(bytes(ForkingPickler.dumps(one)))
    return received


def equal(a: Batch, b: Batch) -> bool:
    return a.keys() == b.keys() and all(
        a[key].dtype == b[key].dtype and a[key].equal(b[key]) for key in a
    )


def through_slab(received: Batch) -> bool:
    """Whether its tensors lie in one piece of memory, as a pack does."""
    places = sorted(tensor.data_ptr() for tensor in received.values())
    return places[-1] - places[0] < 4096 and all(place % 64 == 0 for place in places)


def acquaint() -> None:
    """Sends the batch whose offer shows that slabs are within reach."""
    sent(batch(0))


def test_what_is_sent_is_received(slabs: _Slabs) -> None:
    for number in range(10):
        received = sent(batch(number))
        assert type(received) is dict
        assert equal(received, batch(number))
        assert through_slab(received) == (number > 0)
        received["x"].fill_(-1)  # and it belongs to the receiver
        del received
    assert len(slabs._all) == 1


def test_a_batch_that_is_held_is_not_written_over(slabs: _Slabs) -> None:
    acquaint()
    held = [sent(batch(number)) for number in range(9)]
    assert all(equal(held[number], batch(number)) for number in range(9))
    one_tensor = held.pop(4)["flag"][2:4].numpy()
    held.clear()
    for number in range(20, 40):
        assert equal(sent(batch(number)), batch(number))
    assert one_tensor.tolist() == batch(4)["flag"][2:4].tolist()
    assert len(slabs._all) == 9


def test_a_batch_that_is_let_go_leaves_its_slab(slabs: _Slabs) -> None:
    acquaint()
    received = sent(batch(1))
    place = received["flag"].data_ptr()
    del received
    assert sent(batch(2))["flag"].data_ptr() == place


def test_more_batches_than_there_may_be_slabs(
    slabs: _Slabs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_handover, "_MAX_SLABS", 3)
    acquaint()
    held = [sent(batch(number)) for number in range(6)]
    assert [through_slab(one) for one in held] == [True] * 3 + [False] * 3
    assert all(equal(one, batch(number)) for number, one in enumerate(held))


@pytest.mark.parametrize("sizes", [(1, 1000, 100_000), (100_000, 1000, 1)])
def test_sizes_change(slabs: _Slabs, sizes: tuple[int, ...]) -> None:
    acquaint()
    for size in sizes * 2:
        assert equal(sent(batch(size, size)), batch(size, size))
    assert len(slabs._all) == 1
    assert through_slab(sent(batch(1)))


@pytest.mark.parametrize(
    "more",
    [
        {"x": torch.zeros(3, dtype=torch.bfloat16)},
        {"x": torch.zeros(3, requires_grad=True)},
        {"x": "no tensor"},
        {7: torch.zeros(3)},
        {"x" * 5000: torch.zeros(3)},
    ],
)
def test_what_does_not_fit_goes_as_ever(slabs: _Slabs, more: dict[Any, Any]) -> None:
    acquaint()
    received = sent(WholeBatch({"y": torch.ones(2)} | more))
    assert received["y"].tolist() == [1, 1]
    assert received.keys() == {"y", *more}


class Marked(torch.Tensor):
    """As torchvision's Image and Mask are: what a tensor is, told by its class."""


def test_subclasses_stay_what_they_are(slabs: _Slabs) -> None:
    """From the first batch to the last: only the first ones have no slab yet."""
    for number in range(4):
        received = sent(batch(number, x=torch.ones(2).as_subclass(Marked)))
        assert type(received["x"]) is Marked
        assert received["x"].tolist() == [1, 1]
        assert received["number"][0] == number


def test_strides_are_straightened(slabs: _Slabs) -> None:
    acquaint()
    turned = WholeBatch(
        {"x": torch.arange(12).reshape(3, 4).t()[::2], "nothing": torch.zeros(0, 3)}
    )
    assert equal(sent(turned), turned)


def test_a_receiver_that_may_not_look(slabs: _Slabs, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise PermissionError(errno.EACCES, "no")

    with monkeypatch.context() as patch:
        patch.setattr(_handover, "_map", refuse)
        for number in range(5):
            received = sent(batch(number))
            assert equal(received, batch(number))
            assert not through_slab(received)
    acquaint()
    assert through_slab(sent(batch(1)))


def test_no_memory_for_slabs(slabs: _Slabs, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "posix_fallocate", full)
    before = len(os.listdir("/proc/self/fd"))
    assert equal(sent(batch(3)), batch(3))
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_ended_worker_is_named(slabs: _Slabs) -> None:
    acquaint()
    pickled = bytes(ForkingPickler.dumps(batch(1)))
    _handover._MAPPINGS._kept.clear()
    slabs._all[0].words[_handover._NUMBER] += 1  # as if the descriptor were another's
    with pytest.raises(FileNotFoundError, match="has ended"):
        pickle.loads(pickled)


def test_a_batch_is_received_once(slabs: _Slabs) -> None:
    acquaint()
    pickled = bytes(ForkingPickler.dumps(batch(1)))
    assert equal(pickle.loads(pickled), batch(1))
    with pytest.raises(RuntimeError, match="again"):
        pickle.loads(pickled)


def test_what_a_fork_may_look_at_is_never_written_over(slabs: _Slabs) -> None:
    acquaint()
    received = sent(batch(1))
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if not child:  # looks at the parent's batch after that has let go of it
        try:
            os.read(go[0], 1)
            os._exit(0 if equal(received, batch(1)) else 1)
        finally:
            os._exit(2)
    del received
    for number in range(2, 6):
        assert equal(sent(batch(number)), batch(number))
    os.write(go[1], b"!")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(slabs._all) == 1  # the other one is the child's alone
    for end in (*ready, *go):
        os.close(end)


def test_a_forked_child_gives_nothing_back(slabs: _Slabs) -> None:
    acquaint()
    received = sent(batch(1))
    child = os.fork()
    if not child:
        try:
            del received
            gc.collect()
            os._exit(0)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not equal(sent(batch(2)), received)
    assert equal(received, batch(1))
    assert len(slabs._all) == 2  # the parent's batch still counts


def slab_descriptors(process: int | str = "self") -> int:
    """How many descriptors of slabs a process has; each slab has two."""
    folder = f"/proc/{process}/fd"
    links = []
    for name in os.listdir(folder):
        with suppress(FileNotFoundError):  # such as that of the listing itself
            links.append(os.readlink(f"{folder}/{name}"))
    return sum("replayring batch" in link for link in links)


def fork_and_end() -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_slabs_lost_to_forks_make_room_for_others(
    slabs: _Slabs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_handover, "_MAX_SLABS", 2)
    monkeypatch.setattr(_handover, "_KEPT_BYTES", 0)
    gc.collect()
    before = slab_descriptors()
    acquaint()
    for number in range(1, 8):
        received = sent(batch(number))
        assert equal(received, batch(number))
        assert through_slab(received)
        fork_and_end()
        del received
    assert through_slab(sent(batch(8)))
    assert len(slabs._all) == 1
    assert slab_descriptors() - before == 2


def test_a_batch_held_over_a_fork_counts_until_it_is_let_go(
    slabs: _Slabs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_handover, "_MAX_SLABS", 2)
    acquaint()
    held = [sent(batch(number)) for number in range(2)]
    fork_and_end()
    assert not through_slab(sent(batch(2)))
    assert all(equal(one, batch(number)) for number, one in enumerate(held))
    del held[0]
    assert through_slab(sent(batch(3)))
    assert equal(held[0], batch(1))


def test_a_forked_sender_has_slabs_of_its_own(slabs: _Slabs) -> None:
    acquaint()
    held = [sent(batch(number)) for number in range(3)]
    child = os.fork()
    if not child:
        try:
            how, _ = slabs.reduce(batch(1))  # starts anew, with an offer
            os._exit(0 if how is _handover._receive_offer and len(slabs._all) == 1 else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert all(equal(one, batch(number)) for number, one in enumerate(held))


def test_mappings_that_nobody_needs_are_bounded(
    slabs: _Slabs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_handover, "_KEPT_BYTES", 20_000)
    acquaint()
    held = [sent(batch(number)) for number in range(20)]
    held.clear()
    kept = _handover._MAPPINGS._kept
    assert 0 < sum(map(len, kept.values())) <= 20_000


def test_other_pickles_hold_the_tensors(slabs: _Slabs) -> None:
    acquaint()
    assert equal(pickle.loads(pickle.dumps(batch(5))), batch(5))


# In a loader


def test_a_loop_that_holds_a_batch_while_another_loader_starts(
    make_real: MakeBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop of most trainings: the last batch is still bound when validation forks."""
    monkeypatch.setattr(_handover, "_MAX_SLABS", 6)  # 2 on their way, 1 arriving, 1 bound: enough
    dataset = RemoteDataset(make_real())
    dataset.add_data(rollout(40))
    options: dict[str, Any] = {"collate_fn": collate, "num_workers": 1, "timeout": 100}
    options["multiprocessing_context"] = "fork"
    train = DataLoader(dataset, batch_size=8, persistent_workers=True, **options)
    for epoch in range(9):
        for one in train:
            assert through_slab(one) or not epoch
        for _ in DataLoader(Subset(dataset, [0, 1]), **options):
            pass
        assert one["action"].tolist() == list(range(-32, -40, -1))
    worker = train._iterator._workers[0].pid
    assert slab_descriptors(worker) <= 2 * 6


def test_joined_batches_in_a_loader(make_real: MakeBuffer) -> None:
    members = []
    for start in (0, 100):
        members.append(RemoteDataset(make_real()))
        members[-1].add_data(rollout(100, start=start))
    positions = torch.arange(200).reshape(2, 100).t().flatten().tolist()  # both in every batch
    loader = DataLoader(
        ConcatDataset(members),
        batch_size=10,
        sampler=positions,
        num_workers=1,
        collate_fn=collate,
        timeout=100,
    )
    slabs = []
    for number, one in enumerate(loader):
        slabs.append(through_slab(one))
        expected = [-position for position in positions[10 * number : 10 * number + 10]]
        assert one["action"].tolist() == expected
    assert slabs[-10:] == [True] * 10


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_batches_that_a_loop_keeps(make_real: MakeBuffer, method: str) -> None:
    """More than there may be slabs, from two workers, compared when all are there."""
    dataset = RemoteDataset(make_real(capacity=1000), {"state": [-0.1, 0.0]})
    dataset.add_data(rollout(500, 500))
    loader = DataLoader(
        dataset,
        batch_size=10,
        num_workers=2,
        collate_fn=collate,
        multiprocessing_context=method,
        timeout=100,
    )
    batches = list(loader)
    assert torch.cat([one["index"] for one in batches]).tolist() == list(range(1000))
    for one in batches:
        assert one["state"][:, 1, 0, 0].equal(one["index"].float())
        assert one["action"].equal(-one["index"].double())
    assert any(through_slab(one) for one in batches)
    assert not through_slab(batches[0])


@pytest.mark.parametrize("kept", [0, 3])
def test_a_window_of_batches(make_real: MakeBuffer, kept: int) -> None:
    buffer = make_real(capacity=1000)
    buffer.add_data(rollout(500, 500))
    loader = DataLoader(
        BatchDataset(buffer, 16, num_batches=200), batch_size=None, num_workers=2, timeout=100
    )
    window: list[tuple[Batch, list[int]]] = []
    slabs = 0
    for one in loader:
        assert type(one) is dict
        slabs += through_slab(one)
        window.append((one, one["index"].tolist()))
        for old, index in window:
            assert old["index"].tolist() == index
            assert np.array_equal(old["action"].numpy(), -np.array(index))
        del window[: len(window) - kept]
    assert slabs > 100
