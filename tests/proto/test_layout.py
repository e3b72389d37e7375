"""Where bytes lie on disk: sizes, record forms, and buffer.json."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replayring_proto import layout
from replayring_proto.errors import StorageError
from replayring_proto.spec import DTYPES, DURABILITIES, BufferSpec

SPEC = BufferSpec.from_data_spec(
    {
        "state": {"shape": (3,), "dtype": "float32"},
        "image": {"shape": (10, 10, 3), "dtype": "uint8"},
        "done": {"shape": (), "dtype": "bool"},
    },
    1000,
    30,
)


@pytest.mark.parametrize(
    ("capacity", "rows"),
    [
        (1, 65),
        (64, 128),
        (1000, 1064),
        (1024, 1088),
        (1600, 1700),
        (1 << 40, (1 << 40) + (1 << 36)),
    ],
)
def test_physical_rows_are_the_capacity_and_its_slack(capacity: int, rows: int) -> None:
    """About a sixteenth, at least 64."""
    assert layout.physical_rows(capacity) == rows


def test_every_file_of_a_buffer_has_its_exact_size() -> None:
    rows = 1064
    assert layout.file_sizes(SPEC) == {
        "cursor": layout.CURSOR_BYTES,
        "episodes": rows * 128,
        "writers": rows * 128,
        "columns/image": rows * 300,
        "columns/_small": rows * (16 + 4 * 8 + 12 + 1 + 3),
    }


def test_records_are_two_cache_lines_and_limited_in_number() -> None:
    assert layout.EPISODE_RECORD.itemsize == 128
    assert layout.episode_records(1 << 40) == layout.MAX_EPISODE_RECORDS
    assert layout.writer_records(1 << 40) == layout.MAX_WRITERS


def test_sizes_do_not_wrap_however_large_the_buffer() -> None:
    spec = BufferSpec.from_data_spec({"a": {"shape": (1 << 36,), "dtype": "float64"}}, 1 << 40)
    rows = (1 << 40) + (1 << 36)
    assert layout.file_sizes(spec)["columns/a"] == rows << 39


def test_the_counters_lie_on_cache_lines_of_their_own() -> None:
    """And so do the other parts of the cursor; the durable slots in disk sectors of their own."""
    words = (layout.LOW_WORD, layout.HEAD_WORD, layout.INTENT_WORD)
    offsets = [*(word * 8 for word in words), layout.BOOT_ID_OFFSET, *layout.SLOT_OFFSETS]
    assert len({offset // 64 for offset in offsets}) == 6
    assert len({offset // 512 for offset in (0, *layout.SLOT_OFFSETS)}) == 3
    assert max(offsets) + 512 <= layout.CURSOR_BYTES


def test_a_description_round_trips() -> None:
    assert layout.decode_meta(layout.encode_meta("an-id", SPEC), "here") == ("an-id", SPEC)


@settings(max_examples=50)
@given(
    st.lists(st.integers(1, 9), max_size=3),
    st.sampled_from(list(DTYPES)),
    st.integers(1, 1 << 40),
    st.none() | st.floats(1e-3, 1e6),
    st.sampled_from(DURABILITIES),
)
def test_any_spec_round_trips(
    shape: list[int], dtype: str, capacity: int, fps: float, durability: str
) -> None:
    columns = {"a": {"shape": shape, "dtype": dtype}}
    spec = BufferSpec.from_data_spec(columns, capacity, fps, durability)
    assert layout.decode_meta(layout.encode_meta("id", spec), "") == ("id", spec)


def changed(**fields: Any) -> bytes:
    """A description with other fields, and a checksum that fits."""
    document = {**json.loads(layout.encode_meta("id", SPEC)), **fields}
    document = {k: v for k, v in document.items() if v is not ...}
    document.setdefault("checksum", 0)
    if "checksum" not in fields:
        document["checksum"] = layout.meta_checksum(document)
    return json.dumps(document).encode()


def test_another_format_version_is_refused_and_named() -> None:
    with pytest.raises(StorageError, match=r"here has format version 99; .* reads 2"):
        layout.decode_meta(changed(format=99), "here")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{}",
        b"[1, 2",
        b"[" * 100_000,
        changed(format=...),
        changed(id=...),
        changed(checksum=...),
        changed(checksum="0"),
        changed(columns=...),
        changed(columns=[]),
        changed(columns={}),
        changed(columns={"../x": {"shape": [], "dtype": "int8"}}),
        changed(columns={"a": {"shape": [], "dtype": "object"}}),
        changed(columns={f"c{i}": {"shape": [], "dtype": "int8"} for i in range(300)}),
        changed(capacity=...),
        changed(capacity=0),
        changed(capacity="100"),
        changed(capacity=10**400),
        changed(fps="fast"),
        changed(fps=-1),
        changed(durability=...),
        changed(durability="always"),
    ],
    ids=lambda content: repr(content[:60]),
)
def test_a_description_of_no_valid_buffer_is_refused_by_name(content: bytes) -> None:
    with pytest.raises(StorageError, match="here"):
        layout.decode_meta(content, "here")


@settings(max_examples=200)
@given(st.data())
def test_a_damaged_description_is_refused_or_says_the_same(data: st.DataObject) -> None:
    content = bytearray(layout.encode_meta("id", SPEC))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = layout.decode_meta(bytes(content), "here")
    except StorageError:
        return
    assert found == ("id", SPEC)


@pytest.mark.parametrize(
    "fields", [{"fps": 31}, {"durability": "none"}, {"id": "xd"}], ids=lambda fields: str(fields)
)
def test_an_edited_description_is_refused_although_it_is_valid(fields: dict[str, Any]) -> None:
    """No file size would tell."""
    document = {**json.loads(layout.encode_meta("id", SPEC)), **fields}
    with pytest.raises(StorageError, match=r"here is not what was written .* restore the file"):
        layout.decode_meta(json.dumps(document).encode(), "here")


def test_a_description_may_be_spelled_otherwise() -> None:
    document = json.loads(layout.encode_meta("id", SPEC))
    content = json.dumps(dict(reversed(document.items()))).encode()
    assert layout.decode_meta(content, "here") == ("id", SPEC)


def test_any_program_can_find_a_row() -> None:
    """The documented recipe: a C-order array of shape (physical_rows, *shape)."""
    column = SPEC.column("image")
    shape = (layout.physical_rows(SPEC.capacity), *column.shape)
    assert np.zeros(shape, column.dtype).nbytes == layout.file_sizes(SPEC)["columns/image"]


columns_of_any_size = st.dictionaries(
    st.text("abc.", min_size=1, max_size=3).filter(lambda name: name[0] != "."),
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(list(DTYPES)),
            "shape": st.lists(st.integers(1, 20), max_size=3),
        }
    ),
    min_size=1,
    max_size=6,
)


@given(columns_of_any_size)
def test_each_column_lies_in_one_file_and_apart_from_all_others(data_spec: dict[str, Any]) -> None:
    """What is written to one is read from it again, and from no other."""
    spec = BufferSpec.from_data_spec(data_spec, 1)
    columns = layout.stored_columns(spec)
    files = layout.frame_files(spec)
    assert sorted(key for file in files for key in file.columns) == sorted(columns)
    content = {file.name: np.zeros(3 * file.record_bytes, np.uint8) for file in files}
    views = {key: file.view(content[file.name], key) for file in files for key in file.columns}
    written = {}
    for number, (key, view) in enumerate(views.items()):
        assert (view.shape, view.dtype) == ((3, *columns[key].shape), columns[key].dtype)
        assert view.flags.aligned
        view[...] = written[key] = np.full(view.shape, number % 2, view.dtype)
        written[key][1] = view[1] = 1
    for key, view in views.items():
        np.testing.assert_array_equal(view, written[key])


def test_what_is_small_is_a_matter_of_bytes() -> None:
    spec = BufferSpec.from_data_spec(
        {
            "at-most": {"shape": (layout.SMALL_BYTES // 8,), "dtype": "float64"},
            "too-much": {"shape": (layout.SMALL_BYTES + 1,), "dtype": "uint8"},
        },
        100,
    )
    assert layout.frame_file(spec, "at-most").name == "columns/_small"
    assert layout.frame_file(spec, "too-much").name == "columns/too-much"
    assert [file.name for file in layout.frame_files(spec)] == [
        "columns/_small",
        "columns/too-much",
    ]


def test_small_columns_leave_no_gap_but_at_the_end() -> None:
    """Whose dtypes need the largest alignment come first."""
    record = layout.small_record(SPEC)
    used = sum(layout.stored_columns(SPEC)[name].frame_bytes for name in record.names or ())
    assert 0 <= record.itemsize - used < 8
