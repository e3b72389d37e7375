"""Appending at the engine's own interface: whole or not at all, and nothing shared with anybody."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from replayring_proto.errors import InvalidEpisodeError, ToleranceError
from replayring_proto.query import View
from replayring_proto.ring import Plan
from replayring_proto.spec import BufferSpec
from replayring_server.engine import Buffer, Origin, Store, Stored
from replayring_server.engine.ring import RingWriter
from tests.engine.folders import fingerprint
from tests.engine.frames import (
    Arrays,
    assert_contiguous,
    assert_whole,
    checked_episode,
    checked_spec,
)

SPEC = checked_spec(20)


@pytest.fixture
def buffer(store: Store) -> Buffer:
    return store.create("ring", SPEC)[0]


def frames_of(buffer: Buffer, view: View | None = None) -> Arrays:
    live = buffer.reader.live
    plan = Plan(buffer.spec, view or View())
    return buffer.reader.at_indices(plan, np.arange(live.start, live.end)).arrays


def test_an_acknowledgement_says_where_the_episode_went(buffer: Buffer) -> None:
    assert buffer.append(checked_episode(SPEC, 1, 3)) == Stored(0, 0, 3)
    assert buffer.append(checked_episode(SPEC, 2, 20)) == Stored(1, 3, 20)
    assert buffer.append(checked_episode(SPEC, 3, 1)) == Stored(2, 23, 1)


def test_the_preset_columns_are_filled_in(buffer: Buffer) -> None:
    buffer.append(checked_episode(SPEC, 1, 3))
    buffer.append(checked_episode(SPEC, 2, 2))
    arrays = frames_of(buffer)
    assert arrays["index"].tolist() == [0, 1, 2, 3, 4]
    assert arrays["episode_index"].tolist() == [0, 0, 0, 1, 1]
    assert arrays["frame_index"].tolist() == [0, 1, 2, 0, 1]
    assert arrays["timestamp"].tolist() == [0.0, 0.1, 0.2, 0.0, 0.1]


GAPS: dict[str, tuple[list[float], str]] = {
    "in step": ([0.0, 0.1, 0.2, 0.3], ""),
    "jitter": ([0.0, 0.15, 0.16, 0.34], ""),
    "a final observation": ([0.0, 0.1, 0.1], ""),
    "one frame": ([5.0], ""),
    "slow but steady": ([0.0, 0.19, 0.38, 0.57], ""),
    "a frame is missing": ([0.0, 0.1, 0.3], "0.2 s apart"),
    "milliseconds": ([0.0, 100.0, 200.0], "100 s apart"),
}


@pytest.mark.parametrize(("timestamps", "told"), GAPS.values(), ids=GAPS)
def test_a_gap_that_windows_will_miss_is_warned_of_once(
    timestamps: list[float], told: str, buffer: Buffer, caplog: pytest.LogCaptureFixture
) -> None:
    for sequence in (1, 2):
        episode = checked_episode(SPEC, sequence, len(timestamps))
        buffer.append({**episode, "timestamp": np.array(timestamps)}, Origin("arm", sequence))
    if told:
        (warning,) = caplog.messages
        assert warning.startswith(f"buffer 'ring': an episode of writer 'arm' has frames {told}")
        with pytest.raises(ToleranceError):
            frames_of(buffer, View.of(delta_timestamps={"timestamp": [0.1]}))
    else:
        assert not caplog.messages
        frames_of(buffer, View.of(delta_timestamps={"timestamp": [-0.1, 0.1, 0.2]}))


def test_without_a_frame_rate_timestamps_are_frame_numbers(store: Store) -> None:
    buffer, _ = store.create("slow", checked_spec(20, fps=None))
    buffer.append(checked_episode(buffer.spec, 1, 3))
    assert frames_of(buffer)["timestamp"].tolist() == [0.0, 1.0, 2.0]


def test_timestamps_and_frame_numbers_may_be_given(buffer: Buffer) -> None:
    own = {"timestamp": np.array([0.5, 0.5, 9.0]), "frame_index": np.array([4, 6, 7])}
    buffer.append({**checked_episode(SPEC, 1, 3), **own})
    arrays = frames_of(buffer)
    assert arrays["timestamp"].tolist() == [0.5, 0.5, 9.0]
    assert arrays["frame_index"].tolist() == [4, 6, 7]


BAD: dict[str, dict[str, Any]] = {
    "a missing column": {"z.tag": ...},
    "an unknown column": {"other": np.zeros(3)},
    "a column of another length": {"z.tag": np.zeros(4, np.int64)},
    "a column of another shape": {"c.words": np.zeros((3, 1), np.int32)},
    "a column of another kind": {"z.tag": np.zeros(3)},
    "values out of range": {"c.words": np.full((3, 4), 1 << 40)},
    "decreasing timestamps": {"timestamp": np.array([0, 1, 0.5])},
    "timestamps that are not finite": {"timestamp": np.array([0, np.nan, 1])},
}


@pytest.mark.parametrize("mistake", BAD)
def test_an_episode_with_a_mistake_is_refused_whole_and_no_byte_is_written(
    store: Store, buffer: Buffer, mistake: str
) -> None:
    """Also where the mistake is in the last column, or comes with a good origin."""
    buffer.append(checked_episode(SPEC, 1, 3))
    before = fingerprint(store.data_dir)
    episode = {**checked_episode(SPEC, 2, 3), **BAD[mistake]}
    with pytest.raises(InvalidEpisodeError):
        buffer.append({name: value for name, value in episode.items() if value is not ...})
    assert fingerprint(store.data_dir) == before
    assert buffer.append(checked_episode(SPEC, 2, 3)) == Stored(1, 3, 3)


@pytest.mark.parametrize(
    ("frames", "words"), [(0, "at least 1"), (21, "takes 1 to 20"), (1000, "takes 1 to 20")]
)
def test_an_episode_of_no_frames_or_too_many_is_refused(
    store: Store, buffer: Buffer, frames: int, words: str
) -> None:
    before = fingerprint(store.data_dir)
    with pytest.raises(InvalidEpisodeError, match=words):
        buffer.append(checked_episode(SPEC, 1, frames))
    assert fingerprint(store.data_dir) == before


def test_nothing_handed_in_is_changed_or_kept(buffer: Buffer) -> None:
    episode = checked_episode(SPEC, 1, 3)
    episode["timestamp"] = np.array([0.0, 1.0, 2.0])
    before = {name: array.copy() for name, array in episode.items()}
    buffer.append(episode)
    for name, array in episode.items():
        np.testing.assert_array_equal(array, before[name])
        array[...] = 0
    assert_whole(SPEC, frames_of(buffer))


def test_read_only_arrays_are_taken(buffer: Buffer) -> None:
    episode = checked_episode(SPEC, 1, 3)
    for array in episode.values():
        array.flags.writeable = False
    buffer.append(episode)
    assert_whole(SPEC, frames_of(buffer))


def test_nothing_handed_out_aliases_the_ring(buffer: Buffer) -> None:
    buffer.append(checked_episode(SPEC, 1, 20))
    view = View.of(delta_indices={"a.tag": [0, 1]})
    handed_out = list(frames_of(buffer).values()) + list(frames_of(buffer, view).values())
    handed_out += list(buffer.reader.read_columns(tuple(SPEC.by_name))[1])
    for array in handed_out:
        for column in buffer.reader.columns.values():
            assert not np.shares_memory(array, column)
        array[...] = 0
    assert_whole(SPEC, frames_of(buffer))


def test_counts_are_of_one_moment(buffer: Buffer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks while an episode has just become visible sees it counted everywhere."""
    whole = RingWriter.append
    seen = []

    def append(self: RingWriter, *args: Any) -> int:
        start = whole(self, *args)
        info = buffer.info()
        seen.append((info.next_index, info.num_episodes, info.next_episode_index))
        return start

    monkeypatch.setattr(RingWriter, "append", append)
    for tag in (1, 2, 3):
        buffer.append(checked_episode(SPEC, tag, 4))
    assert seen == [(4, 1, 1), (8, 2, 2), (12, 3, 3)]


def test_threads_that_append_at_once_lose_nothing(buffer: Buffer) -> None:
    """Each acknowledgement is true, no two are the same, and all frames are whole."""
    found: list[Stored] = []

    def append(first: int) -> None:
        for tag in range(first, first + 25):
            found.append(buffer.append(checked_episode(SPEC, tag, 1 + tag % 3)))

    threads = [threading.Thread(target=append, args=(1 + 25 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.sort(key=lambda stored: stored.index)
    assert [stored.episode_index for stored in found] == list(range(100))
    end = 0
    for stored in found:
        assert stored.index == end
        end += stored.num_frames
    assert buffer.info().next_index == end
    arrays = frames_of(buffer)
    assert_whole(SPEC, arrays)
    assert_contiguous(arrays)


def test_two_threads_with_the_same_retry_store_it_once(buffer: Buffer) -> None:
    episode = checked_episode(SPEC, 1, 3)
    found: list[Stored] = []
    threads = [
        threading.Thread(target=lambda: found.append(buffer.append(episode, Origin("w", 1))))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(stored.duplicate for stored in found) == [False] + [True] * 7
    assert buffer.info().next_index == 3


def test_a_capacity_of_one_frame_works(store: Store) -> None:
    spec = checked_spec(1)
    buffer, _ = store.create("one", spec)
    for tag in range(1, 200):
        buffer.append(checked_episode(spec, tag, 1))
        assert frames_of(buffer)["a.tag"].tolist() == [tag]
    assert buffer.info().num_episodes == 1


@pytest.mark.parametrize("dtype", ["bool", "float16", "complex128", "uint64", "int8"])
def test_every_kind_of_value_comes_back_to_the_byte(store: Store, dtype: str) -> None:
    spec = BufferSpec.from_data_spec({"a": {"shape": (2, 3), "dtype": dtype}}, 10)
    buffer, _ = store.create("kind", spec)
    raw = np.random.default_rng(0).integers(0, 256, 5 * 6 * 16, np.uint8)
    values = (raw[:30] > 128) if dtype == "bool" else raw.view(dtype)[:30]
    buffer.append({"a": values.reshape(5, 2, 3)})
    assert frames_of(buffer)["a"].tobytes() == values.tobytes()
