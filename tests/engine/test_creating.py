"""Creating buffers: names, specs, modes, limits, and how they lie on the disk."""

from __future__ import annotations

import os
import stat
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replayring_proto import layout
from replayring_proto.errors import (
    AlreadyExistsError,
    InvalidRequestError,
    LimitExceededError,
    NotFoundError,
)
from replayring_proto.limits import ServerLimits
from replayring_proto.pack import Pack
from replayring_proto.spec import BufferSpec
from replayring_server.engine import Buffer, Store
from tests.engine.folders import fingerprint
from tests.engine.frames import checked_episode, checked_spec

SPEC = checked_spec(20)


# Creating


def test_a_new_buffer_is_empty_and_has_an_identity_of_its_own(store: Store) -> None:
    one, created = store.create("one", SPEC)
    assert created
    info = one.info()
    assert (info.name, info.spec, info.num_frames, info.num_episodes) == ("one", SPEC, 0, 0)
    assert (info.next_index, info.next_episode_index) == (0, 0)
    assert info.physical_rows == layout.physical_rows(20)
    assert info.path == str(store.data_dir / "one")
    other, _ = store.create("other", SPEC)
    assert len(one.buffer_id) == 32
    assert one.buffer_id != other.buffer_id
    assert store.names() == ["one", "other"]


def test_creating_again_with_an_equal_spec_returns_the_buffer_there_is(store: Store) -> None:
    buffer, _ = store.create("a", SPEC)
    buffer.append(checked_episode(SPEC, 1, 3))
    again, created = store.create("a", checked_spec(20))
    assert again is buffer
    assert not created
    assert again.info().num_frames == 3


@pytest.mark.parametrize(
    "other", [checked_spec(21), checked_spec(20, width=16), checked_spec(20, fps=None)]
)
def test_another_spec_is_refused_and_the_buffer_untouched(store: Store, other: BufferSpec) -> None:
    buffer, _ = store.create("a", SPEC)
    buffer.append(checked_episode(SPEC, 1, 3))
    before = fingerprint(store.data_dir)
    with pytest.raises(AlreadyExistsError, match="exists with another spec"):
        store.create("a", other)
    assert fingerprint(store.data_dir) == before


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../x", "a/b", "a\\b", ".hidden", "_x", "x" * 65, "a\0b", "a\n", " a"),
        *("a b", "\u00e4", "\uff0e\uff0e", "a\u0301", "\udcff", "-rf", "~", "a:b", "CON:"),
    ],
    ids=ascii,
)
def test_a_name_that_is_not_valid_is_refused_and_makes_no_file(store: Store, name: str) -> None:
    before = fingerprint(store.data_dir.parent)
    with pytest.raises(InvalidRequestError):
        store.create(name, SPEC)
    assert fingerprint(store.data_dir.parent) == before


def test_buffers_are_limited_in_number(tmp_path: Path) -> None:
    with Store(tmp_path, ServerLimits(max_buffers=2)) as store:
        store.create("a", SPEC)
        store.create("b", SPEC)
        with pytest.raises(LimitExceededError, match="received 3, the limit is 2; delete one"):
            store.create("c", SPEC)
        store.create("a", SPEC)
        store.delete("a")
        store.create("c", SPEC)


@pytest.mark.parametrize("name", ["lock", "notes", "empty", "broken"])
def test_a_name_taken_by_files_that_are_no_buffer_is_refused(store: Store, name: str) -> None:
    """The lock itself is one of them. Nothing is replaced, not even an empty folder."""
    (store.data_dir / "notes").write_text("mine")
    (store.data_dir / "empty").mkdir()
    (store.data_dir / "broken").symlink_to("nowhere")
    before = fingerprint(store.data_dir)
    with pytest.raises(AlreadyExistsError, match="is no buffer"):
        store.create(name, SPEC)
    assert fingerprint(store.data_dir) == before


def test_threads_that_create_the_same_buffer_get_the_same_one(store: Store) -> None:
    found: list[tuple[Buffer, bool]] = []
    threads = [
        threading.Thread(target=lambda: found.append(store.create("a", SPEC))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(buffer) for buffer, _ in found}) == 1
    assert sorted(created for _, created in found) == [False] * 7 + [True]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_modes_are_the_same_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    """The owner writes, the group reads, nobody else sees anything."""
    before = os.umask(umask)
    try:
        with Store(tmp_path / "data") as store:
            store.create("a", SPEC)
            store.parameters.publish("policy", Pack.of({"w": np.zeros(2)}))
    finally:
        os.umask(before)
    paths = [tmp_path / "data", *(tmp_path / "data").rglob("*")]
    assert len(paths) == 4 + len(layout.file_sizes(SPEC)) + 3
    for path in paths:
        assert stat.S_IMODE(path.stat().st_mode) == (0o750 if path.is_dir() else 0o640), path


def test_a_data_dir_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    Store(tmp_path / "data").close()
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


def test_no_open_follows_a_link_or_is_left_to_a_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = os.O_NOFOLLOW | os.O_CLOEXEC
    real, opened = os.open, []

    def watch(path: Any, flags: int, *arguments: Any, **keywords: Any) -> int:
        opened.append((path, flags))
        return real(path, flags, *arguments, **keywords)

    monkeypatch.setattr(os, "open", watch)
    for _ in range(2):
        with Store(tmp_path) as store:
            store.create("a", SPEC)[0].append(checked_episode(SPEC, 1, 3))
            store.parameters.publish("policy", Pack.of({"w": np.zeros(2)}))
    assert len(opened) > 20
    assert [path for path, flags in opened if flags & wanted != wanted] == []


def test_names_that_differ_in_case_are_different(store: Store) -> None:
    store.create("a", SPEC)
    assert store.create("A", checked_spec(5))[1]
    assert store.names() == ["A", "a"]


def test_listing_goes_on_while_buffers_come_and_go(store: Store) -> None:
    """One that was deleted after the listing began still says what it was."""
    for name in ("b", "a"):
        store.create(name, SPEC)
    listed = store.buffers()
    store.delete("a")
    assert [buffer.info().name for buffer in listed] == ["a", "b"]
    assert [buffer.name for buffer in store.buffers()] == ["b"]


def test_an_unknown_name_is_answered_with_those_there_are(store: Store) -> None:
    with pytest.raises(NotFoundError, match="none yet"):
        store.get("a")
    store.create("alpha", SPEC)
    store.create("beta", SPEC)
    with pytest.raises(NotFoundError, match=r"there are alpha, beta$"):
        store.get("other")
    with pytest.raises(NotFoundError, match=r"did you mean .alpha.\?"):
        store.get("alfa")
    with pytest.raises(NotFoundError):
        store.delete("other")


def test_an_unknown_name_among_many_gets_a_short_answer(store: Store) -> None:
    for number in range(12):
        store.create(f"b{number:02}", SPEC)
    with pytest.raises(NotFoundError, match=r"there are b00, .*, b09 and 2 more$"):
        store.get("other")


def test_an_unknown_name_as_long_as_a_message_costs_no_time(store: Store) -> None:
    """It is answered on the event loop, where 4 MB of a name once held up everybody for 0.7 s."""
    store.create("a", SPEC)
    long = "abcd" * 1_000_000
    begun = time.thread_time()
    with pytest.raises(NotFoundError, match=r"^there is no buffer 'abcd.{80}'; there are a$"):
        store.get(long)
    assert time.thread_time() - begun < 0.1


def test_any_program_can_read_a_column_as_documented(store: Store) -> None:
    """With `numpy.memmap`, as layout.py and the design say."""
    buffer, _ = store.create("a", SPEC)
    episode = checked_episode(SPEC, 5, 12)
    buffer.append(episode)
    columns = store.data_dir / "a" / "columns"
    column = SPEC.column("c.words")
    shape = (buffer.info().physical_rows, *column.shape)
    words = np.memmap(columns / "c.words", column.dtype, "r", shape=shape)
    np.testing.assert_array_equal(words[:12], episode["c.words"])
    small = np.memmap(columns / "_small", layout.small_record(SPEC), "r")
    assert len(small) == len(words)
    for key in ("a.tag", "b.bytes", "z.tag"):
        np.testing.assert_array_equal(small[key][:12], episode[key])
