"""Space is reserved when a buffer is created, for all of it, or refused with numbers."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from replayring_proto import layout
from replayring_proto.errors import DiskSpaceError
from replayring_proto.layout import LOCK
from replayring_proto.pack import Pack
from replayring_proto.spec import BufferSpec
from replayring_server.engine import Store
from tests.engine.folders import fingerprint
from tests.engine.frames import checked_episode, checked_spec

SPEC = checked_spec(1000, width=1024)
NEEDED = sum(layout.file_sizes(SPEC).values())
Usage = namedtuple("Usage", "total used free")


def pretend(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 50, 0, free))


def test_a_buffer_may_take_80_percent_of_what_is_free_over_all_columns(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over all columns: each of them alone would fit."""
    before = fingerprint(store.data_dir)
    pretend(monkeypatch, free=NEEDED * 10 // 8 - 2)
    with pytest.raises(DiskSpaceError) as refused:
        store.create("a", SPEC)
    assert str(refused.value).startswith(f"no room for buffer 'a': it needs {NEEDED:,} bytes")
    assert f"in {store.data_dir} and" in str(refused.value)
    assert ".creating" not in str(refused.value)
    assert f"{NEEDED * 10 // 8 - 2:,} are free" in str(refused.value)
    assert "80%" in str(refused.value)
    assert "lower the capacity" in str(refused.value)
    assert fingerprint(store.data_dir) == before
    pretend(monkeypatch, free=NEEDED * 10 // 8 + 2)
    store.create("a", SPEC)


def test_an_absurd_size_is_refused_with_its_number(store: Store) -> None:
    """More than 2^79 bytes, which 64 bits would wrap to few."""
    spec = BufferSpec.from_data_spec({"a": {"shape": (1 << 36,), "dtype": "float64"}}, 1 << 40)
    with pytest.raises(DiskSpaceError, match="needs 642,241,841,726,346,850,996,224"):
        store.create("a", spec)
    assert store.names() == []


def test_space_is_really_there_and_not_a_hole(store: Store) -> None:
    """A sparse file would mean SIGBUS when the disk is full and a frame is written."""
    store.create("a", SPEC)
    folder = store.data_dir / "a"
    for name, size in layout.file_sizes(SPEC).items():
        status = os.stat(folder / name)
        assert status.st_size == size
        assert status.st_blocks * 512 >= size, name


def test_the_reported_size_is_what_is_reserved(store: Store) -> None:
    buffer, _ = store.create("a", SPEC)
    assert buffer.info().disk_bytes == NEEDED


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_disk_that_fills_up_in_between_is_the_same_error_and_leaves_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    before = fingerprint(store.data_dir)
    real, files = os.posix_fallocate, 0

    def fail_at_the_fourth(fd: int, offset: int, size: int) -> None:
        nonlocal files
        files += 1
        if files == 4:
            raise OSError(number, os.strerror(number))
        real(fd, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", fail_at_the_fourth)
    with pytest.raises(DiskSpaceError, match="no room for buffer 'a': cannot reserve"):
        store.create("a", SPEC)
    assert fingerprint(store.data_dir) == before
    assert store.names() == []


# A real disk, and a small one


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounting = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True, text=True
    )
    if mounting.returncode:
        pytest.skip(f"no right to mount a file system here: {mounting.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_small_disk_takes_what_fits_and_refuses_what_does_not(small_disk: Path) -> None:
    with Store(small_disk) as store:
        with pytest.raises(DiskSpaceError, match="80%"):
            store.create("large", checked_spec(7000, width=1024))
        assert not list(small_disk.glob(".creating-*"))
        free = shutil.disk_usage(small_disk).free
        buffer, _ = store.create("a", SPEC)
        assert shutil.disk_usage(small_disk).free <= free - NEEDED
        for tag in range(1, 4):
            buffer.append(checked_episode(SPEC, tag, 1000))


def test_a_full_disk_is_an_error_on_creation_and_never_a_sigbus(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the check was passed, as another program was filling the disk meanwhile."""
    with Store(small_disk) as store:
        store.create("a", SPEC)
        pretend(monkeypatch, free=1 << 40)
        before = fingerprint(small_disk)
        with pytest.raises(DiskSpaceError, match="No space left"):
            store.create("b", checked_spec(20_000, width=1024))
        assert fingerprint(small_disk) == before


def test_a_disk_that_fills_later_changes_nothing(small_disk: Path) -> None:
    """Appends go on, servers start, parameters stay; new ones are refused in plain words."""
    with Store(small_disk) as store:
        buffer, _ = store.create("a", SPEC)
        assert store.parameters.publish("policy", weights(1)) == 1
        filler = small_disk / "filler"
        with pytest.raises(OSError, match="No space"):
            filler.write_bytes(bytes(8 << 20))
        for tag in range(1, 4):
            buffer.append(checked_episode(SPEC, tag, 1000))
            buffer.sync()
        before = fingerprint(small_disk)
        with pytest.raises(DiskSpaceError, match=r"cannot write .*policy: No space left .*; what"):
            store.parameters.publish("policy", weights(2))
        assert fingerprint(small_disk) == before
        newest = store.parameters.get("policy")
        assert (newest.version, newest.pack.arrays["w"][0]) == (1, 1)
    with Store(small_disk) as store:
        assert store.get("a").info().num_frames == 1000
        filler.unlink()
        assert store.parameters.publish("policy", weights(3)) == 2
    with Store(small_disk) as store:
        assert store.parameters.get("policy").pack.arrays["w"][0] == 3


def test_a_full_disk_keeps_no_server_from_starting(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even if the file of the lock is empty, and has no room to say who holds it."""
    with Store(small_disk) as store:
        store.create("a", SPEC)
    (small_disk / LOCK).write_bytes(b"")
    with pytest.raises(OSError, match="No space"):
        (small_disk / "filler").write_bytes(bytes(8 << 20))
    with Store(small_disk) as store:
        store.get("a").append(checked_episode(SPEC, 1, 1000))
    assert "will not be told" in caplog.text


def weights(value: float) -> Pack:
    """More than what is left of a block here and there."""
    return Pack.of({"w": np.full(50_000, value)})
