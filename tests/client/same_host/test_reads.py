"""Reads from the server's files: taken where they can be had, and only then.

That they give what the wire gives is shown by the contract suite, which runs over both.
"""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import replayring
from replayring_proto import files, layout
from replayring_proto.ring import MappedRing
from replayring_server.snapshots import restore, snapshot
from tests.client.conftest import CAPACITY, SPEC
from tests.client.same_host.support import episode, in_fork, stopped
from tests.client.stepping import AtStep, named
from tests.support import ServerProcess, eventually

Connect = Callable[..., replayring.Client]


def reads_without_server(server: ServerProcess, buffer: replayring.Buffer) -> bool:
    """Whether frames can be had while the server answers nothing."""
    with stopped(server):
        try:
            return len(buffer.sample(4, timeout=0.3)["reward"]) == 4
        except replayring.ReplayRingError:
            return False


def test_every_read_is_from_the_files(server: ServerProcess, buffer: replayring.Buffer) -> None:
    assert buffer.info().same_host
    dataset = replayring.RemoteDataset(buffer)
    with stopped(server), buffer.sample_stream(4) as stream:
        assert set(buffer.sample(100)["reward"]) <= set(range(10))
        assert next(stream)["reward"].shape == (4,)
        assert stream.next_index == 10
        assert buffer.get([0, -1])["reward"].tolist() == [0, 9]
        assert buffer.get(indices=[3])["reward"].tolist() == [3]
        assert buffer.read_columns(["reward"])["reward"].tolist() == list(range(10))
        assert dataset[3]["reward"] == 3
        batches = iter(replayring.BatchDataset(buffer, 4))
        assert next(batches)["state"].shape == (4, 2)


def test_frames_that_are_added_are_seen(buffer: replayring.Buffer) -> None:
    buffer.add_episode(episode(3))
    assert buffer.get([-1])["index"].tolist() == [12]


def test_what_is_read_belongs_to_the_caller(buffer: replayring.Buffer) -> None:
    buffer.get([3])["reward"][0] = -1
    buffer.sample(50)["reward"][...] = -1
    buffer.read_columns(["reward"])["reward"][...] = -1
    assert buffer.get([3])["reward"].tolist() == [3]


def test_switched_off(server: ServerProcess, buffer: replayring.Buffer) -> None:
    with replayring.connect(server.address, same_host=False) as client:
        assert not client.buffer("ring").info().same_host
        assert not reads_without_server(server, client.buffer("ring"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [("0", False), ("1", True), ("", True), ("true", True), ("ON", True), ("False", False)],
)
def test_switched_by_the_environment(
    server: ServerProcess,
    buffer: replayring.Buffer,
    monkeypatch: pytest.MonkeyPatch,
    value: str,
    expected: bool,
) -> None:
    monkeypatch.setenv("REPLAYRING_SAME_HOST", value)
    with replayring.connect(server.address) as client:
        assert client.buffer("ring").info().same_host is expected


def test_another_thread_that_finds_the_files_gone(
    buffer: replayring.Buffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It forgets them, at any moment in which this one has just looked whether they are there."""
    buffer.get([0])
    answers = [buffer._reads] * 2

    def once(self: replayring.Buffer) -> Any:
        return answers.pop() if answers else None

    forgetting = property(once, lambda self, value: None)
    monkeypatch.setattr(replayring.Buffer, "_reads", forgetting, raising=False)
    monkeypatch.setattr(buffer, "_place", None)
    assert buffer.get([3])["reward"].tolist() == [3]


def test_a_data_directory_that_is_mounted_elsewhere(
    server: ServerProcess, buffer: replayring.Buffer, tmp_path: Path
) -> None:
    """As a container has it: a link stands for the mount here."""
    (tmp_path / "mount").symlink_to(server.data_dir)
    with replayring.connect(server.address, same_host=tmp_path / "mount") as client:
        assert reads_without_server(server, client.buffer("ring"))
    with replayring.connect(server.address, same_host=str(tmp_path / "nothing")) as client:
        assert not client.buffer("ring").info().same_host
        assert client.buffer("ring").get([3])["reward"].tolist() == [3]


def other_id(folder: Path) -> None:
    meta = folder / layout.META
    meta.write_text(meta.read_text().replace('"id": "', '"id": "0'))


def other_machine(folder: Path) -> None:
    with (folder / layout.CURSOR).open("r+b") as cursor:
        cursor.seek(layout.BOOT_ID_OFFSET)
        cursor.write(bytes(16))


def short_column(folder: Path) -> None:
    os.truncate(folder / layout.COLUMNS / layout.SMALL, 4096)


def linked_column(folder: Path) -> None:
    column = folder / layout.COLUMNS / layout.SMALL
    column.rename(folder / "aside")
    column.symlink_to(folder / "aside")


@pytest.mark.parametrize("change", [other_id, other_machine, short_column, linked_column])
def test_files_that_are_not_the_servers_are_not_read(
    server: ServerProcess,
    buffer: replayring.Buffer,
    tmp_path: Path,
    change: Callable[[Path], None],
) -> None:
    shutil.copytree(server.data_dir, tmp_path / "copy")
    change(tmp_path / "copy" / "ring")
    with replayring.connect(server.address, same_host=tmp_path / "copy") as client:
        found = client.buffer("ring")
        assert not found.info().same_host
        assert found.get([3])["reward"].tolist() == [3]


def test_another_processor_reads_over_the_wire(
    server: ServerProcess, buffer: replayring.Buffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replayring_proto.machine.STORES_IN_ORDER", False)
    with replayring.connect(server.address, same_host=True) as client:
        assert not client.buffer("ring").info().same_host


def test_files_that_may_not_be_read_are_read_over_the_wire(
    server: ServerProcess, buffer: replayring.Buffer
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")

    def ask() -> Any:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        with replayring.connect(server.address, same_host=True) as client:
            found = client.buffer("ring")
            return found.info().same_host, found.get([3])["reward"].tolist()

    assert in_fork(ask) == (False, [3])


@pytest.mark.parametrize("call", ["open", "mmap"])
def test_files_are_looked_for_again_where_descriptors_were_used_up(
    buffer: replayring.Buffer, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    looks = []

    def used_up(*args: Any, **kwargs: Any) -> Any:
        looks.append(args)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("replayring.buffer._LOOK_AGAIN_SECONDS", 100.0)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr({"open": os, "mmap": mmap}[call], call, used_up)
        assert buffer.get([3])["reward"].tolist() == [3]
        assert buffer._files() is None
        assert len(looks) == 1
    assert buffer._files() is None
    buffer._not_before -= 100
    assert buffer._files() is not None


def test_a_deleted_buffer_is_gone_at_once(
    client: replayring.Client, buffer: replayring.Buffer
) -> None:
    stream = buffer.sample_stream(4)
    next(stream)
    client.delete_buffer("ring")
    for read in (lambda: buffer.sample(4), lambda: buffer.get([0]), lambda: next(stream)):
        with pytest.raises(replayring.NotFoundError):
            read()


def test_a_buffer_made_anew_is_the_one_that_is_read(
    client: replayring.Client, buffer: replayring.Buffer
) -> None:
    client.delete_buffer("ring")
    client.create_buffer("ring", SPEC, CAPACITY, fps=10).add_episode(
        {"state": [[1, 2]], "reward": [77]}
    )
    assert buffer.get([0])["reward"].tolist() == [77]


def restored_aside(server: ServerProcess, home: Path) -> Path:
    """Stops the server, and restores a snapshot of it in another directory."""
    snapshot(server.data_dir, str(home / "snapshot"))
    server.close()
    restore(str(home / "snapshot"), home / "restored")
    return home / "restored"


def test_files_that_were_moved_away_are_not_read_any_more(
    server: ServerProcess, buffer: replayring.Buffer, tmp_path: Path
) -> None:
    """As by who puts a damaged directory aside and restores a snapshot in its place."""
    stream = buffer.sample_stream(64)
    next(stream)
    restored = restored_aside(server, tmp_path)
    server.data_dir.rename(tmp_path / "aside")
    restored.rename(server.data_dir)
    with ServerProcess(server.data_dir, listen=server.address):
        buffer.add_episode(episode(5))
        assert buffer.get([-1])["index"].tolist() == [14]
        eventually(lambda: (next(stream)["index"] >= 10).any(), "new frames are drawn")
        assert not buffer.info().same_host


def test_files_that_are_served_no_more_are_let_go_of_once_the_server_says_so(
    server: ServerProcess, buffer: replayring.Buffer, tmp_path: Path
) -> None:
    """Where the server serves another directory by now, and the one before is still there."""
    assert buffer.info().same_host
    with ServerProcess(restored_aside(server, tmp_path), listen=server.address):
        buffer.add_episode(episode(5))
        assert not buffer.info().same_host
        assert buffer.get([-1])["index"].tolist() == [14]
        assert buffer.client.buffer("ring").info().same_host


def test_a_folder_replaced_while_its_files_are_mapped_is_not_read(
    client: replayring.Client, buffer: replayring.Buffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its description would be of the buffer before, and the frames of the one after."""
    read_whole = files.read_whole

    def replaced(path: Path) -> bytes:
        described = read_whole(path)
        client.delete_buffer("ring")
        client.create_buffer("ring", SPEC, CAPACITY, fps=10).add_episode(episode(2))
        return described

    monkeypatch.setattr(files, "read_whole", replaced)
    with pytest.raises(replayring.StorageError, match="deleted or replaced while it was opened"):
        MappedRing(Path(buffer.info().path))


def test_a_thread_may_find_the_files_gone_at_any_step_of_another(
    buffer: replayring.Buffer,
) -> None:
    """Each step of looking for the files in turn is where the other thread finds them gone."""
    place, outcomes = buffer._place, set()

    def find_them_gone() -> None:
        buffer._place = buffer._reads = None

    for number in itertools.count():
        buffer._place, buffer._reads = place, None
        with AtStep(number, named("_files"), find_them_gone) as other:
            outcomes.add(buffer._files() is None)
        if not other.reached:
            break
    assert outcomes == {True, False}


def test_what_has_to_wait_waits_at_the_server(
    client: replayring.Client, server: ServerProcess
) -> None:
    """Nothing is there, too little, or nothing that is eligible."""
    buffer = client.create_buffer("empty", SPEC, CAPACITY, fps=10)
    for options in ({}, {"min_frames": 5}, {"drop_n_last_frames": 3}):
        with pytest.raises(replayring.DeadlineError):
            buffer.sample(4, timeout=0.3, **options)
        buffer.add_episode(episode(2))
    buffer.add_episode(episode(4))
    with stopped(server):
        assert set(buffer.sample(50, drop_n_last_frames=3)["frame_index"]) == {0}


@pytest.mark.parametrize("drop", [0, 3])
def test_seeded_batches_are_those_of_the_wire(
    server: ServerProcess, buffer: replayring.Buffer, drop: int
) -> None:
    """Where frames are left out, those drawn together would be others."""
    with replayring.connect(server.address, same_host=False) as client:
        wire = client.buffer("ring")
        one, other = (at.sample(64, seed=3, drop_n_last_frames=drop) for at in (buffer, wire))
        assert one["index"].tolist() == other["index"].tolist()
        with (
            buffer.sample_stream(64, seed=4, drop_n_last_frames=drop) as files,
            wire.sample_stream(64, seed=4, drop_n_last_frames=drop) as replies,
        ):
            for _ in range(5):
                assert next(files)["index"].tolist() == next(replies)["index"].tolist()


def test_unseeded_batches_differ_between_a_process_and_its_forks(
    buffer: replayring.Buffer,
) -> None:
    buffer.sample(64)

    def draw() -> Any:
        return buffer.sample(64)["index"].tolist()

    assert in_fork(draw) != draw()


def test_a_pickled_handle_reads_from_the_files(
    server: ServerProcess, buffer: replayring.Buffer
) -> None:
    copy = pickle.loads(pickle.dumps(buffer))
    assert reads_without_server(server, copy)
    copy.client.close()


def test_closing_ends_reads_too(client: replayring.Client, buffer: replayring.Buffer) -> None:
    closed, stream = buffer.sample_stream(4), buffer.sample_stream(4)
    closed.close()
    client.close()
    for read in (
        lambda: buffer.sample(4),
        lambda: buffer.get([0]),
        lambda: buffer.read_columns(["reward"]),
        lambda: next(stream),
        lambda: next(closed),
    ):
        with pytest.raises(replayring.ClosedError):
            read()


def test_reading_goes_on_while_the_server_dies_and_returns(
    server: ServerProcess, buffer: replayring.Buffer
) -> None:
    stream = buffer.sample_stream(4)
    server.kill()
    assert set(next(stream)["reward"]) <= set(range(10))
    with ServerProcess(server.data_dir, listen=server.address):
        buffer.add_episode(episode(5))
        assert buffer.get([-1])["index"].tolist() == [14]
        eventually(lambda: (next(stream)["index"] >= 10).any(), "new frames are drawn")


def test_arguments_are_checked_as_over_the_wire(buffer: replayring.Buffer) -> None:
    for wrong in (
        lambda: buffer.sample(0),
        lambda: buffer.sample(4, timeout=-1),
        lambda: buffer.sample(4, drop_n_last_frames=-1),
        lambda: buffer.sample(4, min_frames=CAPACITY + 1),
        lambda: buffer.sample_stream(4, in_flight=0),
        lambda: buffer.sample_stream(4, timeout=-1),
        lambda: buffer.get([1.5]),
        lambda: buffer.get([0], keys=["nothing"]),
    ):
        with pytest.raises(ValueError, match=r"."):
            wrong()
