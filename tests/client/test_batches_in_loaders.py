"""BatchDataset in a DataLoader: workers, pickling, and who stacks batches."""

from __future__ import annotations

import pickle
import weakref
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

import replayring
from replayring import collation
from replayring.batches import BatchDataset
from tests.client.scripted_streams import ScriptedBuffer, ScriptedStream
from tests.client.torch_buffers import (
    COLUMNS,
    MakeBuffer,
    filled,
)

pytest_plugins = ["tests.client.torch_fixtures"]
pytestmark = pytest.mark.usefixtures("no_threads_stay")


def test_pickling(make_buffer: MakeBuffer) -> None:
    buffer = filled(make_buffer, 9)
    batches = BatchDataset(buffer, 4, delta_indices={"state": [0, 1]}, num_batches=2, seed=1)
    iterator = iter(batches)
    expected = next(iterator)
    copy = pickle.loads(pickle.dumps(batches))
    first, _ = list(copy)
    assert first.keys() == expected.keys()
    assert all(first[key].equal(expected[key]) for key in expected)
    copy.close()
    assert len(list(iterator)) == 1


@pytest.mark.parametrize(
    ("workers", "method", "seed"),
    [
        (0, None, None),
        (0, None, 5),
        (1, "fork", 5),
        (2, "fork", None),
        (2, "fork", 5),
        (2, "spawn", 5),
    ],
)
def test_in_a_loader(
    make_real: MakeBuffer, workers: int, method: str | None, seed: int | None
) -> None:
    buffer = filled(make_real, 500, 400, capacity=1000)
    batches = BatchDataset(buffer, 32, num_batches=7, seed=seed, drop_n_last_frames=1)
    loader = DataLoader(
        batches,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=method,
        timeout=100 if workers else 0,
    )
    assert len(loader) == 7
    received = list(loader)
    assert len(received) == 7  # all workers together
    drawn = [tuple(batch["index"].tolist()) for batch in received]
    assert len(set(drawn)) == 7  # no two workers draw the same
    for batch in received:
        assert batch.keys() == COLUMNS
        assert batch["state"].shape == (32, 2, 3)
        assert batch["action"].equal(-batch["index"].double())
    again = [tuple(batch["index"].tolist()) for batch in loader] if method == "fork" else None
    if again is not None:
        assert (sorted(drawn) == sorted(again)) == (seed is not None)


WITH_A_WORKER: dict[str, Any] = {"num_workers": 1, "multiprocessing_context": "fork", "timeout": 60}


@pytest.mark.parametrize("in_loader", [{}, {"collate_fn": replayring.collate}, WITH_A_WORKER])
def test_a_loader_that_makes_batches_of_one_batch_is_told_of(
    make_real: MakeBuffer, in_loader: dict[str, Any]
) -> None:
    """It is what a loader does unasked; each tensor would have one axis more than was meant."""
    batches = BatchDataset(filled(make_real, 90), 8, num_batches=4)
    loader = DataLoader(batches, **in_loader)
    with pytest.raises(UserWarning, match="give it batch_size=None"):  # an error in tests
        next(iter(loader))


def test_who_begins_an_iteration_keeps_nothing_by_that() -> None:
    """Python before 3.13 keeps variables of a frame that somebody looked at."""
    kept = np.zeros(3)
    alive = weakref.ref(kept)
    with BatchDataset(ScriptedBuffer(ScriptedStream()), 1) as batches:
        iterator = iter(batches)
        del kept
        assert alive() is None
        iterator.close()


@pytest.mark.parametrize("in_loader", [{}, WITH_A_WORKER])
def test_a_loader_that_is_asked_to_stacks_batches(
    make_real: MakeBuffer, in_loader: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last list may have one; that is no mistake."""
    batches = BatchDataset(filled(make_real, 90), 8, num_batches=5)
    monkeypatch.setattr(collation, "_stacks_several", False)
    loader = DataLoader(batches, batch_size=2, **in_loader)
    sizes = []
    for batch in loader:
        sizes.append(len(batch["state"]))
        assert batch["state"].shape[1:] == (8, 2, 3)
        assert batch["action"].equal(-batch["index"].double())
    assert sizes == [2, 2, 1]


def test_loading_while_the_parent_samples(make_real: MakeBuffer) -> None:
    """Forks while a stream of the parent's is open; both go on."""
    buffer = filled(make_real, 90)
    with BatchDataset(buffer, 8, timeout=60) as batches:
        parent = iter(batches)
        next(parent)
        loader = DataLoader(
            BatchDataset(buffer, 8, num_batches=6),
            batch_size=None,
            num_workers=2,
            multiprocessing_context="fork",
            timeout=60,
        )
        for batch in loader:
            assert len(batch["index"]) == len(next(parent)["index"]) == 8
