"""The same over every kind of place: paths, file:// URLs, and what fsspec reaches."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replayring_proto import cli
from replayring_proto.errors import DiskSpaceError, InvalidRequestError, NotFoundError, StorageError
from replayring_server.engine import Store
from replayring_server.snapshots import restore, snapshot
from replayring_server.snapshots.places import place_to_read
from tests.engine.test_disk_space import small_disk as small_disk
from tests.snapshots.comparing import moment, restored_moment
from tests.snapshots.conftest import episode, fill

fsspec = pytest.importorskip("fsspec")


@pytest.fixture(params=["path", "file", "memory", "chained"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A destination of each kind."""
    memory = fsspec.filesystem("memory")
    yield {
        "path": str(tmp_path / "to"),
        "file": f"file://{tmp_path}/to%20there",
        "memory": "memory://bucket/folder",
        "chained": "dir::memory://bucket/folder",
    }[request.param]
    if memory.exists("/bucket"):
        memory.rm("/bucket", recursive=True)


def test_snapshots_are_taken_continued_pruned_and_restored(
    store: Store, tmp_path: Path, where: str
) -> None:
    before = moment(store.get("ring"))
    assert snapshot(store.data_dir, where).buffers[1].copied_parts == 9
    restore(where, tmp_path / "back")
    assert restored_moment(tmp_path / "back") == before
    fill(store.get("ring"), 61, 8)
    taken = snapshot(store.data_dir, where, prune=True)
    assert 1 <= taken.buffers[1].copied_parts < 9
    assert taken.pruned >= 3
    assert snapshot(store.data_dir, where, prune=True).pruned == 0
    restore(where, tmp_path / "later")
    assert restored_moment(tmp_path / "later") == moment(store.get("ring"))


def test_what_is_missing_or_damaged_is_named(store: Store, tmp_path: Path, where: str) -> None:
    with pytest.raises(NotFoundError, match=r"no snapshot in|no directory"):
        restore(where, tmp_path / "back")
    snapshot(store.data_dir, where)
    place = place_to_read(where)
    (folder,) = [one for one in place.folders("buffers") if len(place.sizes(f"buffers/{one}")) > 1]
    name = f"buffers/{folder}/{min(place.sizes(f'buffers/{folder}'))}"
    content = place.read(name)
    assert content is not None
    place.write(name, content.tobytes()[:-1] + b"?")
    with pytest.raises(StorageError, match="its checksum does not match"):
        restore(where, tmp_path / "back")
    place.remove(name)
    with pytest.raises(StorageError, match="is missing"):
        restore(where, tmp_path / "back")


def test_paths_need_no_fsspec() -> None:
    script = """
        import sys, tempfile
        sys.modules["fsspec"] = None
        from replayring_proto.errors import InvalidRequestError
        from replayring_server.engine import Store
        from replayring_server.snapshots import restore, snapshot
        with tempfile.TemporaryDirectory() as folder:
            Store(folder + "/data").close()
            snapshot(folder + "/data", folder + "/to")
            snapshot(folder + "/data", "file://" + folder + "/to")
            restore(folder + "/to", folder + "/back")
            try:
                snapshot(folder + "/data", "s3://bucket/folder")
            except InvalidRequestError as error:
                print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert 'needs fsspec, which is not installed: pip install "replayring[snapshot]"' in done.stdout


def test_an_unknown_kind_of_url_is_said_to_be_one(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"ftpx://there cannot be used: .*ftpx"):
        snapshot(store.data_dir, "ftpx://there")
    with pytest.raises(InvalidRequestError, match="ftpx"):
        restore("ftpx://there", tmp_path / "back")


@pytest.mark.parametrize(
    "where",
    [
        "file://here/dev/null/x",
        "file:x",
        "file://",
        "file:///dev/null/x#y",
        "file:///dev/null/x?y",
        "s3:/bucket/x",
    ],
)
def test_what_is_meant_for_a_url_and_is_none_becomes_no_folder(
    where: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy lay in /x, in a folder `s3:`, or beside what was named."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for refused in (
        lambda: snapshot(store.data_dir, where),
        lambda: restore(where, tmp_path / "back"),
    ):
        with pytest.raises(InvalidRequestError, match=r"give (the path itself|\./s3:/bucket/x)"):
            refused()
    assert not list((tmp_path / "here").iterdir())
    assert not (tmp_path / "back").exists()


def test_pruning_leaves_what_is_no_snapshots(store: Store, tmp_path: Path, where: str) -> None:
    """A destination may have a folder `parameters` of its owner's own."""
    snapshot(store.data_dir, where)
    place = place_to_read(where)
    theirs = ["parameters/notes-2-old.txt", "buffers/mine/records-of-me", "buffers/mine/.x.part"]
    hashed = "0123456789abcdef" * 2
    ours = [f"parameters/policy-1-{hashed}", f"buffers/gone/records-{hashed}"]
    for name in (*theirs, *ours, f"buffers/gone/.records-{hashed}.part"):
        place.write(name, b"1")
    assert snapshot(store.data_dir, where, prune=True).pruned == 3
    assert [place.read(name) is not None for name in (*theirs, *ours)] == [True] * 3 + [False] * 2


@pytest.mark.parametrize("where", ["memory://run*7/x", "memory://x/what?", "memory://x/[1]"])
def test_a_url_with_a_pattern_is_refused(where: str, store: Store, tmp_path: Path) -> None:
    """The manifest was moved to where the pattern led, and the snapshot said to be taken."""
    for use in (lambda: snapshot(store.data_dir, where), lambda: restore(where, tmp_path / "back")):
        with pytest.raises(InvalidRequestError, match="for patterns; use other names"):
            use()


def test_a_file_that_cannot_be_removed_is_named(tmp_path: Path) -> None:
    to = tmp_path / "to"
    (to / "parameters").mkdir(parents=True)
    with pytest.raises(StorageError, match=rf"cannot remove {to}/parameters: "):
        place_to_read(str(to)).remove("parameters")


def test_a_store_that_cannot_be_opened_is_named(store: Store) -> None:
    with pytest.raises(StorageError, match=r"cannot open zip://x::/nowhere\.zip: FileNotFound"):
        snapshot(store.data_dir, "zip://x::/nowhere.zip")


def test_errors_of_a_store_become_ours(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    real = MemoryFileSystem.pipe_file

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("credentials have expired")

    def fail_below(self: Any, path: str, *arguments: Any) -> None:
        if "/buffers/" in path or "/parameters/" in path:
            fail()
        real(self, path, *arguments)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", fail_below)
    taken = snapshot(store.data_dir, "memory://failing")
    assert taken.failed.keys() == {"buffer empty", "buffer ring", "parameters policy"}
    assert "cannot write memory://failing/buffers/" in taken.failed["buffer ring"]
    assert "credentials have expired" in taken.failed["buffer ring"]
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", fail)
    with pytest.raises(StorageError, match=r"cannot write memory://nowhere/manifest\.json"):
        snapshot(store.data_dir, "memory://nowhere")
    monkeypatch.setattr(MemoryFileSystem, "cat_file", fail)
    with pytest.raises(StorageError, match=r"cannot read memory://failing/manifest\.json"):
        restore("memory://failing", tmp_path / "back")


def test_a_store_that_lets_nothing_be_removed_has_the_snapshot_all_the_same(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As one that keeps backups from being deleted: it was said that nothing had been taken."""
    from fsspec.implementations.memory import MemoryFileSystem

    snapshot(store.data_dir, "memory://kept")
    fill(store.get("ring"), 61, 8)

    def fail(*_: Any) -> None:
        raise PermissionError("AccessDenied")

    monkeypatch.setattr(MemoryFileSystem, "rm_file", fail)
    arguments = ["snapshot", str(store.data_dir), "memory://kept", "--prune"]
    assert cli.run({"snapshot": "replayring_server.commands.snapshot"}, arguments) == 1
    told = capsys.readouterr().out
    assert "NOT taken" not in told
    assert "not need could not be removed: cannot remove memory://kept/buffers/" in told
    assert "AccessDenied" in told
    restore("memory://kept", tmp_path / "back")
    assert restored_moment(tmp_path / "back") == moment(store.get("ring"))


def test_a_manifest_over_a_store_is_moved_into_its_place(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that one that is being written does not take the place of a whole one."""
    from fsspec.implementations.memory import MemoryFileSystem

    snapshot(store.data_dir, "memory://moved")
    memory, real = fsspec.filesystem("memory"), MemoryFileSystem.pipe_file
    before = memory.cat_file("/moved/manifest.json")

    def die_half_way(self: Any, path: str, value: bytes, **options: Any) -> None:
        real(self, path, value[: len(value) // 2], **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", die_half_way)
    store.get("ring").append(episode(999, 1))
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            snapshot(store.data_dir, "memory://moved")
        assert memory.cat_file("/moved/manifest.json") == before
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", real)
    assert snapshot(store.data_dir, "memory://moved", prune=True).failed == {}
    memory.rm("/moved", recursive=True)


def test_a_full_disk_is_an_error_and_leaves_the_snapshot_before(
    store: Store, small_disk: Path, tmp_path: Path
) -> None:
    """Once there is room again, it goes on where it was."""
    to = small_disk / "to"
    snapshot(store.data_dir, str(to), buffers=["ring"])
    before = moment(store.get("ring"))
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space"):
        filler.write_bytes(bytes(8 << 20))
    fill(store.get("ring"), 61, 20)
    with pytest.raises(DiskSpaceError, match=r"cannot write .*: No space left on device; .*free"):
        snapshot(store.data_dir, str(to), buffers=["ring"])
    restore(str(to), tmp_path / "back")
    assert restored_moment(tmp_path / "back") == before
    filler.unlink()
    assert snapshot(store.data_dir, str(to), buffers=["ring"]).failed == {}
    restore(str(to), tmp_path / "later")
    assert restored_moment(tmp_path / "later") == moment(store.get("ring"))


def test_a_disk_without_room_is_refused_before_anything_is_written(
    store: Store, small_disk: Path, tmp_path: Path
) -> None:
    spec = type(store.get("ring").spec)(store.get("ring").spec.columns, 200_000)
    store.create("large", spec)
    snapshot(store.data_dir, str(tmp_path / "to"), buffers=["large"])
    with pytest.raises(DiskSpaceError, match="80%"):
        restore(str(tmp_path / "to"), small_disk / "back")
    assert not list((small_disk / "back").glob(".creating-*"))
