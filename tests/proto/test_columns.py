"""Gathering frames: what comes is what numpy's own indexing gives, whichever way it is fetched."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from replayring_proto import layout
from replayring_proto.pack import Pack, PackLayout, TensorSpec
from replayring_proto.ring import FrameColumns
from replayring_proto.ring import columns as columns_module
from replayring_proto.ring.columns import Fetch
from replayring_proto.spec import BufferSpec

SPEC = BufferSpec.from_data_spec(
    {
        "a.flag": {"shape": (), "dtype": "bool"},
        "b.half": {"shape": (3, 5), "dtype": "float16"},
        "c.state": {"shape": (17,), "dtype": "float32"},
        "d.edge": {"shape": (2, 64), "dtype": "int16"},
        "e.image": {"shape": (3, 10, 10), "dtype": "uint8"},
        "f.long": {"shape": (33,), "dtype": "int64"},
    },
    100,
)
KEYS = [*SPEC.by_name]
ROWS = layout.physical_rows(SPEC.capacity)


def noise() -> FrameColumns:
    rng = np.random.default_rng(1)
    sizes = layout.file_sizes(SPEC)
    return FrameColumns(SPEC, lambda name: rng.integers(0, 2, sizes[name], np.uint8))


FILES = layout.frame_files(SPEC)
COLUMNS = noise()


@given(
    st.lists(st.sampled_from(KEYS), min_size=1, unique=True),
    st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=12),
    st.sampled_from([(-1,), (-1, 1), (1, -1)]),
    st.sampled_from([1, 1_000, 1 << 17]),
)
def test_it_gives_what_indexing_gives(
    keys: list[str], rows: list[int], shape: Any, at_once: int
) -> None:
    wanted = np.array(rows).reshape(shape)
    specs = [(key, SPEC.by_name[key]) for key in sorted(keys)]
    pack = Pack(PackLayout(TensorSpec(key, c.dtype, (*wanted.shape, *c.shape)) for key, c in specs))
    with patch.object(columns_module, "_AT_ONCE_BYTES", at_once):
        COLUMNS.gather(Fetch.of(SPEC, keys), wanted, pack.arrays)
    for key in keys:
        np.testing.assert_array_equal(
            pack.arrays[key].view(np.uint8), COLUMNS[key][wanted].view(np.uint8), key
        )


def test_all_of_a_frame_is_fetched_together_and_large_columns_alone() -> None:
    fetch = Fetch.of(SPEC, KEYS)
    assert fetch.large == ("e.image", "f.long")
    assert fetch.apart == ()
    assert sorted((*fetch.together, *fetch.large)) == KEYS


def test_little_of_a_frame_is_fetched_for_itself() -> None:
    """Whole records would be many times what is wanted."""
    assert Fetch.of(SPEC, ["a.flag", "timestamp"]).apart == ("a.flag", "timestamp")
    assert Fetch.of(SPEC, ["d.edge"]).apart == ("d.edge",)


def test_what_is_held_is_seen_as_it_changes() -> None:
    """The arrays are the files, not copies of them."""
    content = {file.name: np.zeros(ROWS * file.record_bytes, np.uint8) for file in FILES}
    columns = FrameColumns(SPEC, content.__getitem__)
    for file in FILES:
        content[file.name][:] = 1
    assert all(np.all(column != 0) for column in columns.values())
    assert [*columns] == [key for file in FILES for key in file.columns]
