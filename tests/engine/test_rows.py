"""Episodes whose columns come in runs of rows: stored, known again and refused like any other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from replayring_proto.errors import InvalidEpisodeError
from replayring_proto.query import View
from replayring_proto.ring import Plan
from replayring_proto.spec import BufferSpec
from replayring_server.engine import Buffer, Origin, Rows, Store

SPEC = BufferSpec.from_data_spec(
    {
        "image": {"shape": (3, 5), "dtype": "uint8"},
        "wide": {"shape": (100,), "dtype": "float32"},
        "x": {"shape": (), "dtype": "int64"},
    },
    capacity=40,
)

Arrays = dict[str, np.ndarray[Any, Any]]


def episode(seed: int, frames: int = 13) -> Arrays:
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 255, (frames, 3, 5), dtype=np.uint8),
        "wide": rng.random((frames, 100), dtype=np.float32),
        "x": rng.integers(0, 1 << 60, frames),
    }


def in_runs(array: np.ndarray[Any, Any], *cuts: int) -> Rows:
    """Returns an array cut in runs, none of them aligned."""
    runs = []
    for run in np.split(array, cuts):
        raw = np.empty(run.nbytes + 1, np.uint8)
        raw[1:] = run.reshape(-1).view(np.uint8)
        runs.append(np.ndarray(run.shape, run.dtype, raw.data, 1))
    return Rows(runs)


@pytest.fixture
def buffer(store: Store) -> Buffer:
    return store.create("b", SPEC)[0]


def test_they_are_stored_as_their_rows_follow_each_other(buffer: Buffer) -> None:
    sent = [episode(seed) for seed in range(20)]  # round the ring several times
    for whole in sent:
        buffer.append(
            {**whole, "image": in_runs(whole["image"], 1, 6), "wide": in_runs(whole["wide"], 4)}
        )
        live = buffer.reader.live
        newest = np.arange(live.end - 13, live.end)
        found = buffer.reader.at_indices(Plan(SPEC, View()), newest).arrays
        for name, array in whole.items():
            assert np.array_equal(found[name], array)


def test_a_retry_is_known_however_it_was_cut(buffer: Buffer) -> None:
    whole = episode(1)
    buffer.append(whole, Origin("w", 1))
    for cuts in ([], [1], [3, 4, 12]):
        again = {**whole, "image": in_runs(whole["image"], *cuts)}
        assert buffer.append(again, Origin("w", 1)).duplicate
    other = {**whole, "image": in_runs(episode(2)["image"], 5)}
    with pytest.raises(Exception, match="another episode"):
        buffer.append(other, Origin("w", 1))


def test_several_that_share_an_append(buffer: Buffer) -> None:
    sent = [episode(seed, 2) for seed in range(3)]
    cut = [({**one, "wide": in_runs(one["wide"], 1)}, None) for one in sent]
    stored, refusal = buffer.store_all(cut)
    assert refusal is None
    assert [one.index for one in stored] == [0, 2, 4]
    found = buffer.reader.at_indices(Plan(SPEC, View()), np.arange(6)).arrays
    for name in SPEC.declared:
        assert np.array_equal(found[name], np.concatenate([one[name] for one in sent]))


def test_another_dtype_is_converted_and_checked(buffer: Buffer) -> None:
    whole = episode(1)
    small = {**whole, "x": in_runs(np.arange(13, dtype=np.int16), 5)}
    buffer.append(small)
    found = buffer.reader.at_indices(Plan(SPEC, View()), np.arange(13)).arrays
    assert found["x"].tolist() == list(range(13))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda whole: whole | {"image": in_runs(whole["image"].astype(np.int16) + 300, 2)},
        lambda whole: whole | {"image": in_runs(whole["image"][:12], 2)},
        lambda whole: whole | {"image": in_runs(whole["image"][:, :2].copy(), 2)},
        lambda whole: whole | {"unknown": in_runs(whole["x"], 2)},
        lambda whole: whole | {"timestamp": in_runs(np.linspace(9.0, 1.0, 13), 2)},
        lambda whole: whole | {"frame_index": in_runs(np.full(13, 1e300), 2)},
    ],
    ids=["out of range", "short", "shape", "unknown", "time runs back", "dtype of a preset"],
)
def test_what_would_be_refused_in_one_piece_is_refused_alike(
    buffer: Buffer, spoil: Callable[[Arrays], dict[str, Any]]
) -> None:
    spoilt = spoil(episode(1))
    joined = {k: v.joined() if isinstance(v, Rows) else v for k, v in spoilt.items()}
    with pytest.raises(InvalidEpisodeError) as in_one_piece:
        buffer.append(joined)
    with pytest.raises(InvalidEpisodeError) as in_pieces:
        buffer.append(spoilt)
    assert str(in_pieces.value) == str(in_one_piece.value)
    assert buffer.reader.live.end == 0


def test_what_is_no_mapping_is_refused(buffer: Buffer) -> None:
    with pytest.raises(InvalidEpisodeError, match="must be a mapping"):
        buffer.append([in_runs(np.arange(13), 2)])  # type: ignore[arg-type]
