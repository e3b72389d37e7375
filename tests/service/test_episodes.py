"""How an episode is made of the messages that carried it: whole, and without a needless copy."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replayring_proto.errors import MalformedMessageError
from replayring_proto.pack import Pack
from replayring_proto.spec import BufferSpec
from replayring_server.engine import Origin, Rows, Store
from replayring_server.service import episodes
from replayring_server.service.adding import bytes_to_store
from replayring_server.service.episodes import EpisodeAssembler, ReceivedEpisode
from tests.proto.arrays import packs

MIB = 1 << 20

Arrays = dict[str, np.ndarray[Any, Any]]


def in_message(payload: bytes, besides: int = 0) -> memoryview:
    """Returns a field of a message that has so many bytes besides."""
    return memoryview(payload + bytes(besides))[: len(payload)]


def joined(episode: ReceivedEpisode) -> Arrays:
    return {
        name: value.joined() if isinstance(value, Rows) else value
        for name, value in episode.arrays.items()
    }


@settings(max_examples=300)
@given(packs, st.lists(st.floats(0, 1), max_size=6), st.sampled_from([1, 8, 100]), st.integers(0))
def test_an_episode_comes_out_as_it_went_in(
    arrays: Arrays, cuts: list[float], worth_leaving: int, besides: int
) -> None:
    """Wherever it is cut, and whatever else the messages hold."""
    pack = Pack.of(arrays)
    body = pack.body.tobytes()
    ends = sorted({0, len(body), *(int(cut * len(body)) for cut in cuts)})
    assembler = EpisodeAssembler(pack.layout)
    with mock.patch.object(episodes, "_WORTH_LEAVING", worth_leaving):
        for number, (start, end) in enumerate(pairwise(ends)):
            assert not assembler.complete
            assembler.add(in_message(body[start:end], 1000 * (besides >> number & 1)))
        assert assembler.complete
        episode = assembler.pack
    assert episode.layout is pack.layout
    found = joined(episode)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


def test_a_large_column_stays_in_the_messages_but_for_rows_that_lie_in_two() -> None:
    images = np.random.default_rng(0).integers(0, 255, (80, 100_000), dtype=np.uint8)
    pack = Pack.of({"done": np.zeros(80, np.bool_), "image": images})
    messages = [bytes(piece) for piece in pack.pieces()]
    assert len(messages) == 4
    assembler = EpisodeAssembler(pack.layout)
    for message in messages:
        assembler.add(memoryview(message))
    rows = assembler.pack.arrays["image"]
    assert isinstance(rows, Rows)
    assert rows.shape == images.shape
    assert np.array_equal(rows.joined(), images)
    places = [np.frombuffer(message, np.uint8) for message in messages]
    copied = [run for run in rows.runs if not any(np.shares_memory(run, at) for at in places)]
    assert [len(run) for run in copied] == [1, 1, 1]


def test_a_bool_column_is_one_array_since_each_of_its_bytes_is_looked_at() -> None:
    pack = Pack.of({"mask": np.ones((3, MIB), np.bool_)})
    assembler = EpisodeAssembler(pack.layout)
    for piece in pack.pieces():
        assembler.add(piece)
    assert isinstance(assembler.pack.arrays["mask"], np.ndarray)


@pytest.mark.parametrize(
    ("size", "besides"),
    [(1, 0), (1, MIB), (100_000, 0), (100_000, 50_000)],
    ids=["tiny", "padded", "large", "large, padded"],
)
def test_what_is_kept_is_hardly_more_than_what_came(size: int, besides: int) -> None:
    """Peers may cut an episode into single bytes, each in a message full of other things."""
    count = min(200, 2 * MIB // size)
    pack = Pack.of({"x": np.zeros((count, size), np.uint8)})
    assembler = EpisodeAssembler(pack.layout)
    tracemalloc.start()
    try:
        for _ in range(count):
            assembler.add(in_message(bytes(size), besides))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert assembler.complete
    assert kept <= 1.25 * count * size + 10_000


@pytest.mark.parametrize(
    ("sent", "kept"), [("uint8", "uint8"), ("uint8", "int16"), ("float64", "float32")]
)
def test_to_store_it_takes_no_more_memory_than_it_is_charged_for(
    tmp_path: Path, sent: str, kept: str
) -> None:
    """In whatever dtype it comes: what peers can make a server hold is bounded by that."""
    spec = BufferSpec.from_data_spec({"x": {"shape": (MIB,), "dtype": kept}}, 4)
    pack = Pack.of({"x": np.ones((4, MIB), sent)})
    with Store(tmp_path) as store:
        buffer, _ = store.create("b", spec)
        tracemalloc.start()
        try:
            assembler = EpisodeAssembler(pack.layout)
            for piece in pack.pieces():
                assembler.add(memoryview(bytes(piece)))
            arrays = assembler.pack.arrays
            del assembler
            buffer.append(arrays, Origin("w", 1))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak <= bytes_to_store(spec, pack.layout) + MIB


def test_more_bytes_than_announced_are_refused() -> None:
    assembler = EpisodeAssembler(Pack.of({"x": np.zeros(10, np.uint8)}).layout)
    assembler.add(in_message(bytes(9)))
    with pytest.raises(MalformedMessageError, match="10 bytes by its header, but 11 came"):
        assembler.add(in_message(bytes(2)))
