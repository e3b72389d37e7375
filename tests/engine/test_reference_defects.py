"""The known defects of the reference (DESIGN section 4), each as a test that it would fail.

Those that show only in its torch `Dataset`, its weights or its pickling have theirs among the
client's tests. The reference is LeRobot's `OnlineBuffer`; comments say what it does.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replayring_proto.episode import split_episodes
from replayring_proto.errors import (
    AlreadyExistsError,
    DirectoryLockedError,
    DiskSpaceError,
    FrameNotFoundError,
    InvalidEpisodeError,
    InvalidSpecError,
    ToleranceError,
)
from replayring_proto.query import SampleQuery, View
from replayring_proto.ring import NothingEligible, Plan, UniformSampler
from replayring_proto.spec import BufferSpec
from replayring_server.engine import Buffer, Store, Stored
from tests.engine.folders import fingerprint
from tests.engine.frames import Arrays

CAPACITY = 10


def spec_of(**columns: Any) -> BufferSpec:
    return BufferSpec.from_data_spec(
        columns or {"state": {"shape": (2,), "dtype": "float32"}}, CAPACITY, fps=10
    )


def episode(value: float, frames: int) -> Arrays:
    return {"state": np.full((frames, 2), value, np.float32)}


@pytest.fixture
def buffer(store: Store) -> Buffer:
    return store.create("online", spec_of())[0]


def read(buffer: Buffer, *positions: int, **view: Any) -> Arrays:
    plan = Plan(buffer.spec, View.of(**view))
    return buffer.reader.at_positions(plan, np.array(positions)).arrays


def test_defect_reopened_buffer_overwrites_its_oldest_frames_and_reuses_episode_ids(
    tmp_path: Path,
) -> None:
    """Its write pointer lives in a memmap of shape () that is never assigned to.

    `self._data[NEXT_INDEX_KEY] = ...` replaces the dict's entry by a plain integer, so the file
    says 0 for ever: a reopened buffer writes over frame 0, and numbers episodes anew.
    """
    with Store(tmp_path) as store:
        buffer, _ = store.create("online", spec_of())
        buffer.append(episode(1, 4))
    with Store(tmp_path) as store:
        buffer = store.get("online")
        assert buffer.append(episode(2, 3)) == Stored(1, 4, 3)
        assert read(buffer, *range(7))["state"][:, 0].tolist() == [1, 1, 1, 1, 2, 2, 2]
        assert read(buffer, *range(7))["episode_index"].tolist() == [0, 0, 0, 0, 1, 1, 1]


def test_defect_data_longer_than_the_capacity_fails_half_written(
    store: Store, buffer: Buffer
) -> None:
    """It fills the first column up to its end, and fails on the rest, which is too long as well."""
    buffer.append(episode(1, 4))
    before = fingerprint(store.data_dir)
    for frames in (11, 25):
        with pytest.raises(
            InvalidEpisodeError, match=f"{frames} frames; this buffer takes 1 to 10"
        ):
            buffer.append(episode(2, frames))
    assert fingerprint(store.data_dir) == before


def test_defect_a_bad_second_key_leaves_a_half_added_episode(store: Store) -> None:
    """It checks a column as it writes it; the ones before are in already."""
    spec = spec_of(
        first={"shape": (), "dtype": "float32"}, second={"shape": (2,), "dtype": "float32"}
    )
    buffer, _ = store.create("two", spec)
    before = fingerprint(store.data_dir)
    with pytest.raises(InvalidEpisodeError, match="'second'"):
        buffer.append({"first": np.ones(3), "second": np.ones((3, 3))})
    assert fingerprint(store.data_dir) == before


def test_defect_a_bad_second_episode_leaves_the_first_one_added() -> None:
    """All of `add_data`'s episodes are checked before any is handed on."""
    data = {
        "state": np.ones((5, 2), np.float32),
        "index": np.arange(5),
        "episode_index": np.array([0, 0, 0, 1, 1]),
        "frame_index": np.array([0, 1, 2, 0, 1]),
        "timestamp": np.array([0, 0.1, 0.2, 0.1, 0.0]),
    }
    with pytest.raises(InvalidEpisodeError, match="decrease"):
        list(split_episodes(spec_of(), data))


def test_defect_negative_positions_before_the_ring_is_full_read_empty_slots(
    buffer: Buffer,
) -> None:
    """It takes item -1 of the whole memmap: a slot that was never written."""
    buffer.append(episode(1, 4))
    assert read(buffer, -1)["index"].tolist() == [3]
    assert read(buffer, -4)["index"].tolist() == [0]
    with pytest.raises(FrameNotFoundError):
        read(buffer, -5)


def test_defect_a_wrapped_episode_gets_wrong_windows_and_a_vacuous_range_check(
    buffer: Buffer,
) -> None:
    """It takes an episode's slots in physical order, so a wrapped one's times are not sorted.

    "The first timestamp" is then later than "the last", every query lies outside the range, and
    any miss counts as padding.
    """
    buffer.append(episode(1, 7))
    wrapped = {**episode(2, 6), "timestamp": np.array([0, 0.1, 0.2, 0.3, 0.4, 0.9])}
    buffer.append(wrapped)  # index 7 to 12: slots 7, 8, 9, 0, 1, 2
    positions = [7, 8, 9, 0, 1, 2]
    found = read(buffer, *positions, delta_timestamps={"index": [-0.1, 0, 0.1]}, tolerance_s=0.5)
    assert found["index"][:, 1].tolist() == [7, 8, 9, 10, 11, 12]
    assert found["index"][:5, 2].tolist() == [8, 9, 10, 11, 11]
    assert found["index"][:, 0].tolist() == [7, 7, 8, 9, 10, 12]
    assert not found["index_is_pad"].any()
    with pytest.raises(ToleranceError):  # 0.5 s is in the hole between 0.4 and 0.9
        read(buffer, 1, delta_timestamps={"state": [0.2]}, tolerance_s=0.05)
    padded = read(buffer, 2, delta_timestamps={"index": [0.2]}, tolerance_s=0.05)
    assert padded["index"].tolist() == [[12]]
    assert padded["index_is_pad"].all()


def test_defect_a_wrapped_episode_loses_the_wrong_frames_to_drop_n_last_frames(
    buffer: Buffer,
) -> None:
    """It cuts from the highest positions of an episode, which are its first frames if it wraps.

    And it takes all positions between its first and last one, those of other episodes included.
    """
    buffer.append(episode(1, 7))
    buffer.append(episode(2, 6))  # index 7 to 12; 3 to 6 of the first are left
    query = SampleQuery(2000, View(keys=()), 2)
    drawn = UniformSampler(buffer.reader, query, np.random.default_rng(0)).batch()
    assert set(drawn.arrays["index"].tolist()) == {3, 4, 7, 8, 9, 10}


def test_defect_drop_n_last_frames_fails_when_it_exceeds_every_episode(buffer: Buffer) -> None:
    """It indexes by `torch.tensor([])`, which is of floats, and that is a type error."""
    for value, frames in ((1, 2), (2, 5), (3, 1)):
        buffer.append(episode(value, frames))
    query = SampleQuery(500, View(keys=()), 3)
    drawn = UniformSampler(buffer.reader, query, np.random.default_rng(0)).batch()
    assert set(drawn.arrays["index"].tolist()) == {2, 3}
    with pytest.raises(NothingEligible):
        UniformSampler(buffer.reader, SampleQuery(1, View(), 5)).batch()


def test_defect_the_callers_arrays_are_changed_so_that_a_retry_fails() -> None:
    """It shifts `index` and `episode_index` in place, and then asserts that they start at 0."""
    data = {
        "state": np.ones((3, 2), np.float32),
        "index": np.arange(3),
        "episode_index": np.zeros(3, np.int64),
        "frame_index": np.arange(3),
        "timestamp": np.arange(3) / 10,
    }
    for _ in range(2):
        assert len(list(split_episodes(spec_of(), data))) == 1
    assert data["index"].tolist() == [0, 1, 2]
    assert data["episode_index"].tolist() == [0, 0, 0]


def test_defect_returned_values_alias_the_ring(buffer: Buffer) -> None:
    """Items are made by `torch.from_numpy` of the memmap: they change later, or change the ring."""
    buffer.append(episode(1, 10))
    held = read(buffer, 0)["state"]
    for value in range(2, 30):
        buffer.append(episode(value, 5))
    assert held.tolist() == [[1, 1]]
    held[...] = 99
    assert 99 not in read(buffer, *range(10))["state"]


def test_defect_a_reopened_directory_trusts_whatever_spec_it_is_given(tmp_path: Path) -> None:
    """It maps the files with the shape and dtype it is told, growing or cutting them silently."""
    with Store(tmp_path) as store:
        store.create("online", spec_of())[0].append(episode(1, 4))
        before = fingerprint(tmp_path)
        for other in (
            BufferSpec.from_data_spec({"state": {"shape": (2,), "dtype": "float32"}}, 20, 10),
            BufferSpec.from_data_spec({"state": {"shape": (2,), "dtype": "float32"}}, 5, 10),
            spec_of(state={"shape": (4,), "dtype": "float32"}),
            spec_of(state={"shape": (2,), "dtype": "int32"}),
            spec_of(state={"shape": (2,), "dtype": "float32"}, more={"shape": (), "dtype": "int8"}),
        ):
            with pytest.raises(AlreadyExistsError):
                store.create("online", other)
        assert fingerprint(tmp_path) == before


def test_defect_shapes_broadcast_and_values_are_cast_without_a_word(store: Store) -> None:
    """(4, 1) fills (4, 2), and 300.7 becomes 44 in a byte."""
    spec = spec_of(state={"shape": (2,), "dtype": "float32"}, image={"shape": (), "dtype": "uint8"})
    buffer, _ = store.create("strict", spec)
    good = {"state": np.ones((4, 2), np.float32), "image": np.ones(4, np.uint8)}
    for bad in (
        {"state": np.ones((4, 1), np.float32)},
        {"image": np.full(4, 300.7)},
        {"image": np.full(4, 300)},
        {"image": np.full(4, 300, np.uint16)},
        {"image": np.full(4, -1, np.int8)},
    ):
        with pytest.raises(InvalidEpisodeError):
            buffer.append({**good, **bad})
    assert buffer.info().num_frames == 0
    buffer.append(good)


def test_defect_nan_timestamps_win_the_nearest_search(buffer: Buffer) -> None:
    """`argmin` over distances returns the first NaN."""
    times = np.array([0.0, np.nan, 0.2])
    with pytest.raises(InvalidEpisodeError, match="finite"):
        buffer.append({**episode(1, 3), "timestamp": times})
    assert buffer.info().num_frames == 0


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/tmp/x", "..", "columns/x"])
def test_defect_a_key_writes_outside_the_directory(tmp_path: Path, key: str) -> None:
    """It opens `Path(write_dir) / key`."""
    with pytest.raises(InvalidSpecError):
        BufferSpec.from_data_spec({key: {"shape": (), "dtype": "float32"}}, CAPACITY)
    assert not list(tmp_path.iterdir())


def test_defect_the_disk_check_looks_at_one_key_at_a_time_and_at_sparse_files(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of two columns takes half of the disk: it creates both, as holes."""
    import shutil
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    columns = {name: {"shape": (1000,), "dtype": "float64"} for name in ("a", "b")}
    spec = BufferSpec.from_data_spec(columns, CAPACITY)
    one = 8000 * 74
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 2 * one))
    with pytest.raises(DiskSpaceError):
        store.create("two", spec)
    monkeypatch.undo()
    buffer, _ = store.create("two", spec)
    for name in ("a", "b"):
        status = (Path(buffer.info().path) / "columns" / name).stat()
        assert status.st_blocks * 512 >= status.st_size == one


def test_defect_nothing_guards_two_processes(store: Store) -> None:
    with pytest.raises(DirectoryLockedError):
        Store(store.data_dir)


def test_defect_two_threads_lose_adds(buffer: Buffer) -> None:
    """Both read the same write pointer, and one episode lands on the other."""
    acknowledged: list[Stored] = []

    def add() -> None:
        for _ in range(200):
            acknowledged.append(buffer.append(episode(1, 1)))

    threads = [threading.Thread(target=add) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(stored.index for stored in acknowledged) == list(range(600))
    assert buffer.info().next_index == 600


def test_defect_a_prefetched_position_silently_reads_another_frame(buffer: Buffer) -> None:
    """A position is no identity; an `index` is, and says so when its frame is gone."""
    buffer.append(episode(1, 10))
    plan = Plan(buffer.spec, View())
    assert read(buffer, 3)["state"][0, 0] == 1
    buffer.append(episode(2, 5))
    assert read(buffer, 3)["state"][0, 0] == 2
    with pytest.raises(FrameNotFoundError, match="index 3 was overwritten"):
        buffer.reader.at_indices(plan, np.array([3]))
    assert buffer.reader.at_indices(plan, np.array([7])).arrays["state"][0, 0] == 1
