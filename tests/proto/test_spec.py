"""The rules that a buffer's spec obeys, and what breaking each of them answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import replayring_proto
from replayring_proto import limits
from replayring_proto.errors import InvalidRequestError, InvalidSpecError, LimitExceededError
from replayring_proto.spec import (
    DTYPES,
    PRESET_NAMES,
    BufferSpec,
    Column,
    check_name,
    dtype_of,
)

GOOD = {"shape": (2,), "dtype": np.dtype("float32")}

BAD_NAMES = [
    "",
    ".",
    "..",
    "../x",
    "a/../b",
    "/etc/passwd",
    "a/b",
    "a\\b",
    ".hidden",
    "-flag",
    "a b",
    "a\n",
    "a\0b",
    "ünïcode",
    "a" * (limits.MAX_COLUMN_NAME + 1),
]


def spec_of(**columns: Any) -> BufferSpec:
    return BufferSpec.from_data_spec(columns, 10)


# Names


@pytest.mark.parametrize("name", [*BAD_NAMES, "_x", "_next_index"])
def test_a_name_that_could_leave_its_folder_or_meet_a_reserved_one_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequestError):
        check_name(name, "buffer name")
    with pytest.raises(InvalidSpecError):
        BufferSpec.from_data_spec({name: GOOD}, 10)


@pytest.mark.parametrize("name", [None, 5, b"bytes", ("a",)])
def test_a_name_that_is_no_string_is_refused(name: Any) -> None:
    with pytest.raises(InvalidRequestError, match=type(name).__name__):
        check_name(name, "buffer name")
    with pytest.raises(InvalidSpecError):
        BufferSpec.from_data_spec({name: GOOD, "other": GOOD}, 10)


@pytest.mark.parametrize("name", ["a", "0", "observation.state", "A-1_b.c", "x" * limits.MAX_NAME])
def test_an_ordinary_name_is_taken_as_it_is(name: str) -> None:
    assert check_name(name, "buffer name") == name
    assert name in BufferSpec.from_data_spec({name: GOOD}, 10).by_name


@given(st.text(max_size=20))
def test_whatever_name_is_accepted_names_a_file_directly_in_its_folder(name: str) -> None:
    try:
        check_name(name, "buffer name")
    except InvalidRequestError:
        return
    path = Path("/data") / name
    assert path.parent == Path("/data")
    assert path.name == name
    assert not name.startswith(".")


@given(st.text(alphabet="abz019._-/\\ \n\0", max_size=6))
def test_the_alphabet_of_names_is_the_documented_one(name: str) -> None:
    documented = re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name) is not None and "\n" not in name
    try:
        check_name(name, "column")
    except InvalidRequestError:
        assert not documented
    else:
        assert documented


@pytest.mark.parametrize("name", sorted(PRESET_NAMES))
def test_preset_columns_exist_in_every_buffer_and_cannot_be_declared(name: str) -> None:
    assert name in spec_of(state=GOOD).by_name
    with pytest.raises(InvalidSpecError, match="exists in every buffer"):
        BufferSpec.from_data_spec({name: GOOD}, 10)


@pytest.mark.parametrize("base", ["state", "index", "timestamp"])
def test_a_column_cannot_take_the_name_of_a_padding_mask(base: str) -> None:
    with pytest.raises(InvalidSpecError, match="padding mask"):
        BufferSpec.from_data_spec({"state": GOOD, f"{base}_is_pad": GOOD}, 10)
    assert spec_of(lonely_is_pad=GOOD)  # nothing to collide with


# Dtypes


def test_the_dtype_allowlist_is_the_one_that_pack_proto_documents() -> None:
    """Every name documented there works, and nothing else does."""
    proto = Path(replayring_proto.__file__).parent / "v1" / "pack.proto"
    lines = proto.read_text().splitlines()
    text = " ".join(line.strip().removeprefix("//").strip() for line in lines)
    listed = re.search(r"`dtype` is one of ([^.]*)\.", text)
    assert listed
    assert set(re.split(r",\s*", listed[1])) == set(DTYPES)


@pytest.mark.parametrize("name", list(DTYPES))
def test_every_dtype_is_stored_little_endian(name: str) -> None:
    dtype = dtype_of(name)
    assert dtype.name == name
    assert dtype.str[0] in "<|"
    swapped = np.dtype(name).newbyteorder(">")
    assert spec_of(a={"shape": (), "dtype": swapped}).column("a").dtype == dtype


@pytest.mark.parametrize(
    "dtype", ["object", "O", "str", "S8", "U3", "V4", "datetime64[s]", "m8", "longdouble", "f4,f4"]
)
def test_a_dtype_off_the_allowlist_is_refused(dtype: str) -> None:
    with pytest.raises(InvalidSpecError, match="not supported"):
        spec_of(a={"shape": (), "dtype": np.dtype(dtype)})


@pytest.mark.parametrize("dtype", [None, "nonsense", 7, [], "float32 "])
def test_what_is_no_dtype_is_refused_and_never_guessed(dtype: Any) -> None:
    """None, say, is float64 to numpy."""
    with pytest.raises(InvalidSpecError):
        spec_of(a={"shape": (), "dtype": dtype})


@pytest.mark.skipif(np.little_endian is False, reason="about little-endian machines")
def test_a_column_made_by_hand_cannot_smuggle_in_another_byte_order() -> None:
    """It would be stored big-endian, and read back as little-endian after reopening."""
    with pytest.raises(InvalidSpecError, match="little-endian"):
        BufferSpec((Column("a", np.dtype(">f4")),), 10)


# Shapes


@pytest.mark.parametrize(
    "shape",
    [
        5,
        None,
        "12",
        (2.0,),
        ("2",),
        (None,),
        (0,),
        (3, 0),
        (-1,),
        (1,) * (limits.MAX_AXES - 1),
        (1 << 38,),
        (1 << 32, 1 << 32),
        (1 << 64, 1 << 64),
    ],
)
def test_a_shape_that_is_not_valid_is_refused(shape: Any) -> None:
    with pytest.raises(InvalidSpecError):
        spec_of(a={"shape": shape, "dtype": "float32"})


@pytest.mark.parametrize("shape", [(), (1,), (3, 4), (1,) * (limits.MAX_AXES - 2)])
def test_a_valid_shape_is_kept(shape: tuple[int, ...]) -> None:
    assert spec_of(a={"shape": shape, "dtype": "int8"}).column("a").shape == shape


@pytest.mark.parametrize("entry", [None, 3, (2,), "float32", {"shape": (1,)}, {"dtype": "int8"}])
def test_an_entry_without_shape_and_dtype_is_refused(entry: Any) -> None:
    with pytest.raises(InvalidSpecError, match="'shape'"):
        spec_of(a=entry)


def test_further_keys_of_an_entry_are_ignored() -> None:
    """Feature descriptions in the wild carry names of the axes, too."""
    assert spec_of(a={**GOOD, "names": ["x", "y"]}) == spec_of(a=GOOD)


# Columns as a whole


@pytest.mark.parametrize("data_spec", [None, 5, "abc", [("a", GOOD)]])
def test_a_data_spec_that_is_no_mapping_is_refused(data_spec: Any) -> None:
    with pytest.raises(InvalidSpecError, match="mapping"):
        BufferSpec.from_data_spec(data_spec, 10)


def test_a_spec_needs_a_column_of_its_own() -> None:
    with pytest.raises(InvalidSpecError, match="at least one column"):
        BufferSpec.from_data_spec({}, 10)


def test_a_column_declared_twice_is_refused() -> None:
    column = Column("a", DTYPES["int8"])
    with pytest.raises(InvalidSpecError, match="twice"):
        BufferSpec((column, column), 10)


def test_columns_are_limited_in_number() -> None:
    columns = {f"c{i}": GOOD for i in range(limits.MAX_COLUMNS)}
    assert len(spec_of(**columns).columns) == limits.MAX_COLUMNS
    with pytest.raises(LimitExceededError, match=r"received 257, the limit is 256"):
        spec_of(**columns, one_more=GOOD)


def test_an_unknown_column_is_answered_with_those_there_are() -> None:
    with pytest.raises(InvalidSpecError, match="state"):
        spec_of(state=GOOD).column("stat")


# Capacity and frame rate


@pytest.mark.parametrize("capacity", [0, -1, limits.MAX_CAPACITY + 1, 1 << 70, 1.5, "10", None])
def test_a_capacity_that_is_not_valid_is_refused(capacity: Any) -> None:
    with pytest.raises(InvalidSpecError, match="capacity"):
        BufferSpec.from_data_spec({"a": GOOD}, capacity)


@pytest.mark.parametrize("capacity", [1, limits.MAX_CAPACITY, np.int64(7)])
def test_a_valid_capacity_is_kept(capacity: Any) -> None:
    spec = BufferSpec.from_data_spec({"a": GOOD}, capacity)
    assert spec.capacity == capacity
    assert type(spec.capacity) is int


@pytest.mark.parametrize(
    "fps", [0, -30, float("nan"), float("inf"), "x", "", [], 10**400, 1j], ids=repr
)
def test_a_frame_rate_that_is_not_valid_is_refused(fps: Any) -> None:
    with pytest.raises(InvalidSpecError, match="fps"):
        BufferSpec.from_data_spec({"a": GOOD}, 10, fps)


def test_the_default_tolerance_is_just_under_a_frame() -> None:
    assert BufferSpec.from_data_spec({"a": GOOD}, 10).tolerance_s is None
    assert BufferSpec.from_data_spec({"a": GOOD}, 10, 50).tolerance_s == 1 / 50 - 1e-4


@pytest.mark.parametrize("durability", ["", "Interval", "always", None, 1])
def test_a_durability_is_one_of_three(durability: Any) -> None:
    for known in ("none", "interval", "commit"):
        assert BufferSpec.from_data_spec({"a": GOOD}, 10, durability=known).durability == known
    assert BufferSpec.from_data_spec({"a": GOOD}, 10).durability == "interval"
    with pytest.raises(InvalidSpecError, match="durability"):
        BufferSpec.from_data_spec({"a": GOOD}, 10, durability=durability)


# Equality


@pytest.mark.parametrize(
    "spelling",
    [
        {"shape": [2], "dtype": "float32"},
        {"shape": np.array([2]), "dtype": np.float32},
        {"shape": (np.int64(2),), "dtype": ">f4"},
        {"dtype": "f4", "shape": (2,)},
    ],
    ids=["list", "array", "byte order", "key order"],
)
def test_specs_that_mean_the_same_are_equal(spelling: dict[str, Any]) -> None:
    one = BufferSpec.from_data_spec({"a": GOOD, "b": GOOD}, 10, 30)
    other = BufferSpec.from_data_spec({"b": spelling, "a": spelling}, 10, np.float32(30))
    assert one == other
    assert hash(one) == hash(other)


@pytest.mark.parametrize(
    ("columns", "capacity", "fps"),
    [
        ({"a": GOOD}, 11, 30),
        ({"a": GOOD}, 10, None),
        ({"a": GOOD}, 10, 30.5),
        ({"b": GOOD}, 10, 30),
        ({"a": GOOD, "b": GOOD}, 10, 30),
        ({"a": {"shape": (2,), "dtype": "float64"}}, 10, 30),
        ({"a": {"shape": (2, 1), "dtype": "float32"}}, 10, 30),
    ],
)
def test_specs_that_differ_in_anything_are_not_equal(
    columns: dict[str, Any], capacity: int, fps: float | None
) -> None:
    assert BufferSpec.from_data_spec(columns, capacity, fps) != BufferSpec.from_data_spec(
        {"a": GOOD}, 10, 30
    )


def test_specs_that_promise_different_durability_are_not_equal() -> None:
    promises = {
        BufferSpec.from_data_spec({"a": GOOD}, 10, None, durability)
        for durability in ("none", "interval", "commit")
    }
    assert len(promises) == 3


def test_differences_are_told_in_few_words_however_many_axes_there_are() -> None:
    one = BufferSpec.from_data_spec({"a": GOOD, "b": {"shape": (1,) * 30, "dtype": "bool"}}, 10)
    other = BufferSpec.from_data_spec({"a": GOOD, "c": GOOD}, 2000, 10, "commit")
    assert one.differences(one, "there") == ""
    assert one.differences(other, "there") == (
        "capacity 10 (there: 2,000), fps none (there: 10.0), durability interval (there: commit), "
        f"column 'b' {'bool ' + str((1,) * 30):.80} (there: none), "
        "column 'c' none (there: float32 (2,))"
    )


@pytest.mark.parametrize(("columns", "more"), [(6, ""), (7, ", and 1 more"), (40, ", and 34 more")])
def test_of_many_differences_the_first_are_told_and_how_many_more_there_are(
    columns: int, more: str
) -> None:
    names = [f"c{number:02}" for number in range(columns)]
    told = spec_of(a=GOOD, **dict.fromkeys(names, GOOD)).differences(spec_of(a=GOOD), "there")
    first = ", ".join(f"column {name!r} float32 (2,) (there: none)" for name in names[:6])
    assert told == first + more


@settings(max_examples=50)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{1,5}", fullmatch=True).filter(lambda name: name not in PRESET_NAMES),
        st.tuples(st.lists(st.integers(1, 5), max_size=3), st.sampled_from(sorted(DTYPES))),
        min_size=1,
        max_size=5,
    )
)
def test_bytes_of_a_frame_are_the_sum_of_its_columns_and_four_presets(
    columns: dict[str, tuple[list[int], str]],
) -> None:
    spec = BufferSpec.from_data_spec(
        {name: {"shape": shape, "dtype": dtype} for name, (shape, dtype) in columns.items()}, 10
    )
    own = sum(np.zeros(shape, dtype).nbytes for shape, dtype in columns.values())
    assert spec.frame_bytes == own + 4 * 8
    assert list(spec.by_name) == sorted([*columns, *PRESET_NAMES])
