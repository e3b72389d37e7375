"""Whether frames fit a spec: every rule, and that nothing of the caller's is changed or kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replayring_proto.arrays import as_array
from replayring_proto.episode import check_episode, split_episodes
from replayring_proto.errors import InvalidEpisodeError
from replayring_proto.spec import DTYPES, BufferSpec

SPEC = BufferSpec.from_data_spec(
    {
        "state": {"shape": (2,), "dtype": "float32"},
        "image": {"shape": (2, 2), "dtype": "uint8"},
        "done": {"shape": (), "dtype": "bool"},
    },
    capacity=10,
    fps=10,
)


def episode(frames: int = 3, **changes: Any) -> dict[str, Any]:
    """A valid episode, with columns replaced or (by ...) left out."""
    data: dict[str, Any] = {
        "state": np.ones((frames, 2), np.float32),
        "image": np.zeros((frames, 2, 2), np.uint8),
        "done": np.zeros(frames, np.bool_),
        **changes,
    }
    return {name: value for name, value in data.items() if value is not ...}


def flat(*lengths: int, **changes: Any) -> dict[str, Any]:
    """Valid data of whole episodes, as `add_data` takes it."""
    frames = sum(lengths)
    data = {
        **episode(frames),
        "index": np.arange(frames),
        "episode_index": np.repeat(np.arange(len(lengths)), lengths),
        "frame_index": np.concatenate([np.arange(n) for n in lengths]),
        "timestamp": np.concatenate([np.arange(n) / 10 for n in lengths]),
        **changes,
    }
    return {name: value for name, value in data.items() if value is not ...}


# One episode


def test_a_valid_episode_is_returned_uncopied() -> None:
    data = episode(timestamp=np.array([0.0, 0.5, 0.5]), frame_index=np.arange(3))
    arrays = check_episode(SPEC, data)
    assert set(arrays) == set(data)
    assert all(arrays[name] is data[name] for name in data)


def test_columns_that_the_server_fills_in_are_left_to_it() -> None:
    assert set(check_episode(SPEC, episode())) == {"state", "image", "done"}


@pytest.mark.parametrize("key", ["state", "image", "done"])
def test_a_missing_column_is_named(key: str) -> None:
    with pytest.raises(InvalidEpisodeError, match=f"lacks '{key}'"):
        check_episode(SPEC, episode(**{key: ...}))


@pytest.mark.parametrize("key", ["task", "_bounds", "../x", 5])
def test_an_unknown_column_is_named(key: Any) -> None:
    with pytest.raises(InvalidEpisodeError, match="does not hold"):
        check_episode(SPEC, {**episode(), key: np.arange(3)})


@pytest.mark.parametrize("key", ["index", "episode_index"])
def test_a_column_that_the_buffer_counts_is_named(key: str) -> None:
    with pytest.raises(InvalidEpisodeError, match=f"has '{key}', which the buffer counts itself"):
        check_episode(SPEC, {**episode(), key: np.arange(3)})


@pytest.mark.parametrize(
    ("frames", "text"),
    [(0, "has no frames; it needs at least 1"), (11, "has 11 frames; this buffer takes 1 to 10")],
)
def test_an_episode_has_1_frame_to_as_many_as_the_capacity(frames: int, text: str) -> None:
    assert check_episode(SPEC, episode(1))
    assert check_episode(SPEC, episode(10))
    with pytest.raises(InvalidEpisodeError, match=text):
        check_episode(SPEC, episode(frames))


@pytest.mark.parametrize("key", ["state", "done", "timestamp", "frame_index"])
def test_unequal_lengths_are_refused(key: str) -> None:
    with pytest.raises(InvalidEpisodeError, match="equal length"):
        check_episode(
            SPEC, episode(3, **{key: episode(4, timestamp=np.arange(4.0)).get(key, np.arange(4))})
        )


@pytest.mark.parametrize(
    "state",
    [
        np.ones((3, 1), np.float32),  # would broadcast
        np.ones((1, 2), np.float32)[0],
        np.ones(3, np.float32),
        np.ones((3, 2, 1), np.float32),
        np.ones((3, 3), np.float32),
        np.float32(1),
        5,
        None,
        "abc",
        [[1.0, 2.0], [1.0], [1.0, 2.0]],  # ragged
    ],
    ids=repr,
)
def test_a_shape_is_taken_exactly_and_nothing_broadcasts(state: Any) -> None:
    with pytest.raises(InvalidEpisodeError, match="'state'"):
        check_episode(SPEC, episode(state=state))


# Casts


@pytest.mark.parametrize(
    ("key", "dtype"),
    [
        ("state", "float64"),
        ("state", "float16"),
        ("state", "int64"),
        ("state", "bool"),
        ("state", ">f4"),
        ("image", "bool"),
        ("image", "uint64"),
        ("image", ">u2"),
    ],
)
def test_values_are_cast_where_numpy_calls_it_same_kind(key: str, dtype: str) -> None:
    values = (np.arange(episode()[key].size) % 2).reshape(episode()[key].shape)
    arrays = check_episode(SPEC, episode(**{key: values.astype(dtype)}))
    assert arrays[key].dtype == SPEC.column(key).dtype
    np.testing.assert_array_equal(arrays[key], values)


@pytest.mark.parametrize(
    ("key", "dtype"),
    [
        ("image", "float32"),
        ("image", "int64"),
        ("done", "uint8"),
        ("done", "float32"),
        ("state", "complex64"),
        ("state", "O"),
        ("state", "S4"),
        ("state", "M8[s]"),
        ("timestamp", "complex128"),
        ("frame_index", "float64"),
    ],
)
def test_values_of_another_kind_are_refused(key: str, dtype: str) -> None:
    values = np.zeros(episode(timestamp=np.zeros(3), frame_index=np.zeros(3))[key].shape)
    with pytest.raises(InvalidEpisodeError, match="convert it to"):
        check_episode(SPEC, episode(**{key: values.astype(dtype)}))


@settings(max_examples=200)
@given(st.sampled_from(list(DTYPES)), st.sampled_from(list(DTYPES)), st.integers(0, 1000))
def test_an_integer_is_stored_as_it_was_or_refused(source: str, target: str, seed: int) -> None:
    """Never wrapped, as 300 becomes 44 in a byte."""
    spec = BufferSpec.from_data_spec({"a": {"shape": (), "dtype": target}}, 10)
    raw = np.random.default_rng(seed).integers(0, 256, 4 * 16, np.uint8)
    values = raw.view(source)[:4] if source != "bool" else raw[:4] < 128
    try:
        stored = check_episode(spec, {"a": values})["a"]
    except InvalidEpisodeError:
        return
    assert stored.dtype == target
    if values.dtype.kind in "biu" and stored.dtype.kind in "biu":
        assert stored.tolist() == values.tolist()


def test_the_error_about_a_range_names_it() -> None:
    image = np.full((3, 2, 2), 300, np.uint16)
    with pytest.raises(InvalidEpisodeError, match="from 300 to 300; uint8 takes 0 to 255"):
        check_episode(SPEC, episode(image=image))


def test_a_float_that_would_become_infinite_is_refused_and_one_that_is_so_is_kept() -> None:
    with pytest.raises(InvalidEpisodeError, match=r"finite values .* ends at 3.40282e\+38"):
        check_episode(SPEC, episode(state=np.full((3, 2), -1e300)))
    state = np.array([[np.inf, -np.inf], [np.nan, 3e38], [1e-300, 0.0]])
    expected = np.array([[np.inf, -np.inf], [np.nan, 3e38], [0, 0]], np.float32)
    np.testing.assert_array_equal(check_episode(SPEC, episode(state=state))["state"], expected)


# Timestamps


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_timestamps_are_finite(bad: float, at: int) -> None:
    times = np.arange(3.0)
    times[at] = bad
    with pytest.raises(InvalidEpisodeError, match="finite"):
        check_episode(SPEC, episode(timestamp=times))


def test_timestamps_do_not_decrease_but_may_repeat() -> None:
    """Rollouts in the wild repeat their last frame, timestamp included."""
    assert check_episode(SPEC, episode(timestamp=np.array([-1.0, 0.5, 0.5])))
    with pytest.raises(InvalidEpisodeError, match=r"received 0\.6 then 0\.5 at frame 2"):
        check_episode(SPEC, episode(timestamp=np.array([0.1, 0.6, 0.5])))


# What callers hand in


def test_nothing_handed_in_is_changed() -> None:
    data = episode(state=np.ones((3, 2), np.float64), timestamp=[0, 1, 2])
    before = {name: np.array(value) for name, value in data.items()}
    check_episode(SPEC, data)
    for name, value in data.items():
        np.testing.assert_array_equal(value, before[name])


def test_nested_lists_are_taken() -> None:
    arrays = check_episode(SPEC, episode(state=[[1, 2], [3, 4], [5, 6]], done=[True, False, True]))
    assert arrays["state"].dtype == np.float32
    assert arrays["done"].tolist() == [True, False, True]


class Tensor:
    """What the proto package knows of a torch tensor, which it does not import."""

    is_meta = is_nested = is_quantized = False
    layout = "torch.strided"

    def __init__(self, values: Any, dtype: str = "torch.float32", trouble: str = "") -> None:
        self.values, self.dtype, self.trouble = values, dtype, trouble

    def detach(self) -> Tensor:
        return self

    def numpy(self, *, force: bool) -> np.ndarray[Any, Any]:
        assert force, "it may lie on a GPU"
        if self.trouble:
            raise TypeError(self.trouble)
        return np.asarray(self.values)


def test_tensors_are_taken_from_any_device() -> None:
    values = np.ones((3, 2), np.float32)
    assert as_array(Tensor(values)) is values


def test_a_tensor_that_numpy_has_no_dtype_for_is_refused() -> None:
    tensor = Tensor([[1, 2]] * 3, "torch.bfloat16", "Got unsupported ScalarType BFloat16")
    with pytest.raises(InvalidEpisodeError, match=r"tensor of torch.bfloat16, .*float\(\)"):
        check_episode(SPEC, episode(state=tensor))


def test_what_else_is_wrong_with_a_tensor_is_told_in_torchs_words() -> None:
    with pytest.raises(InvalidEpisodeError, match="column 'state': of another kind"):
        check_episode(SPEC, episode(state=Tensor([[1, 2]] * 3, trouble="of another kind")))


# Many episodes at once


@settings(max_examples=50)
@given(st.lists(st.integers(1, 10), min_size=1, max_size=6))
def test_data_is_split_where_episodes_change(lengths: list[int]) -> None:
    data = flat(*lengths)
    data["state"] = np.arange(2 * sum(lengths), dtype=np.float32).reshape(-1, 2)
    episodes = list(split_episodes(SPEC, data))
    assert [len(each["state"]) for each in episodes] == lengths
    for name in ("state", "image", "done", "timestamp", "frame_index"):
        joined = np.concatenate([each[name] for each in episodes])
        np.testing.assert_array_equal(joined, data[name])
    assert all("index" not in each and "episode_index" not in each for each in episodes)


def test_keys_outside_the_spec_are_ignored() -> None:
    (only,) = split_episodes(SPEC, flat(3, task=["pick", "pick", "pick"], other=None))
    assert "task" not in only


@pytest.mark.parametrize(
    "key", ["state", "done", "index", "episode_index", "frame_index", "timestamp"]
)
def test_every_column_is_needed_and_of_one_length(key: str) -> None:
    with pytest.raises(InvalidEpisodeError, match=f"lacks '{key}'"):
        list(split_episodes(SPEC, flat(3, **{key: ...})))
    with pytest.raises(InvalidEpisodeError, match="equal length"):
        list(split_episodes(SPEC, flat(3, **{key: flat(4)[key]})))
    with pytest.raises(InvalidEpisodeError, match="equal length"):
        list(split_episodes(SPEC, flat(3, **{key: np.float32(0)})))


def test_data_of_no_frames_is_refused() -> None:
    empty = {name: value[:0] for name, value in flat(1).items()}
    with pytest.raises(InvalidEpisodeError, match="at least 1"):
        list(split_episodes(SPEC, empty))


@pytest.mark.parametrize("index", [[1, 2, 3], [0, 2, 3], [0, 1, 1], [2, 1, 0], [-1, 0, 1]])
def test_index_counts_from_0(index: list[int]) -> None:
    with pytest.raises(InvalidEpisodeError, match="'index' must count 0, 1, 2"):
        list(split_episodes(SPEC, flat(3, index=np.array(index))))


@pytest.mark.parametrize("numbers", [[1, 1, 1], [0, 2, 2], [0, 1, 0], [0, -1, -1]])
def test_episode_index_starts_at_0_and_grows_by_1(numbers: list[int]) -> None:
    with pytest.raises(InvalidEpisodeError, match="'episode_index' must start at 0"):
        list(split_episodes(SPEC, flat(3, episode_index=np.array(numbers))))


@pytest.mark.parametrize("key", ["index", "episode_index"])
def test_numbers_are_whole(key: str) -> None:
    with pytest.raises(InvalidEpisodeError, match="cast"):
        list(split_episodes(SPEC, flat(3, **{key: np.zeros(3)})))


def test_each_episode_must_fit_the_capacity_not_their_sum() -> None:
    assert len(list(split_episodes(SPEC, flat(10, 10, 10)))) == 3
    with pytest.raises(InvalidEpisodeError, match="11 frames"):
        list(split_episodes(SPEC, flat(10, 11)))


def test_timestamps_may_start_anew_with_each_episode() -> None:
    """They decrease in the flat data, at each episode's beginning, and nowhere else."""
    assert len(list(split_episodes(SPEC, flat(3, 3)))) == 2
    with pytest.raises(InvalidEpisodeError, match="must not decrease"):
        list(split_episodes(SPEC, flat(3, 3, timestamp=np.array([0, 1, 2, 0, 2, 1.0]))))
