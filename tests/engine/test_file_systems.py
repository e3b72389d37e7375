"""File systems that break a promise are named at the start, in plain words."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from replayring_server.engine import Store, file_systems
from replayring_server.engine.file_systems import concern, kind_of

MOUNTS = r"""
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
40 27 0:40 / /data rw,noatime shared:1 master:2 - btrfs /dev/sdb rw,space_cache
41 40 0:41 /sub /data/remote rw - nfs4 host:/export rw,vers=4.2
42 27 0:42 / /data\040two rw - zfs pool/two rw
43 27 0:43 / /odd\134name\011x rw - xfs /dev/sdc rw
44 27 0:44 / /hidden rw - ext4 /dev/sdd rw
45 27 0:45 / /hidden rw - overlay overlay rw,lowerdir=/a,upperdir=/b
46 27 0:46 / /home/me/drive rw - fuse.sshfs me@host: rw
47 27 0:47 / /mnt/dash rw - cifs //server/a\040-\040b rw
""".strip()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/srv/replay", "ext4"),
        ("/data", "btrfs"),
        ("/data/replay", "btrfs"),
        ("/database", "ext4"),
        ("/data/remote/x/y", "nfs4"),
        ("/data/remotely", "btrfs"),
        ("/data two/x", "zfs"),
        ("/odd\\name\tx/y", "xfs"),
        ("/hidden/x", "overlay"),
        ("/home/me/drive", "fuse.sshfs"),
        ("/mnt/dash", "cifs"),
    ],
)
def test_the_deepest_mount_above_a_path_and_the_last_of_equals_counts(path: str, kind: str) -> None:
    assert kind_of(PurePosixPath(path), MOUNTS) == kind


def test_without_any_mount_the_kind_is_unknown() -> None:
    assert kind_of(PurePosixPath("/data"), "") == "unknown"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nfs4", "on the network"),
        ("cifs", "on the network"),
        ("9p", "on the network"),
        ("btrfs", "never writes in place"),
        ("zfs", "never writes in place"),
        ("bcachefs", "never writes in place"),
        ("overlay", "Mount a volume"),
        ("fuse.sshfs", "another program"),
        ("fuse", "another program"),
        ("fuseblk", "another program"),
        ("tmpfs", "in memory"),
        ("ext4", None),
        ("xfs", None),
        ("f2fs", None),
    ],
)
def test_what_a_kind_means_is_logged_when_the_store_opens(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    words: str | None,
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"27 1 254:0 / / rw,relatime - {kind} /dev/vda rw\n")
    monkeypatch.setattr(file_systems, "_MOUNTS", mounts)
    Store(tmp_path / "data").close()
    warnings = [record.getMessage() for record in caplog.records]
    if words is None:
        assert warnings == []
    else:
        (warning,) = warnings
        assert warning.startswith(f"{tmp_path}/data lies on {kind}: ")
        assert words in warning


def test_without_a_table_of_mounts_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_systems, "_MOUNTS", tmp_path / "nowhere")
    assert concern(tmp_path) is None


@pytest.fixture(params=["tmpfs", "overlay"])
def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A real file system of that kind."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    kind, base = str(request.param), tmp_path / "with blank"
    # An overlay wants to lie on something that is none itself.
    for name in ("", "point", "disk"):
        (base / name).mkdir()
    undo = []
    try:
        _mount(["-t", "tmpfs", "-o", "size=4m", "tmpfs", str(base / "disk")])
        undo.append(base / "disk")
        if kind == "overlay":
            folders = [base / "disk" / name for name in ("lower", "upper", "work")]
            for folder in folders:
                folder.mkdir()
            options = "lowerdir={},upperdir={},workdir={}".format(*folders)
            _mount(["-t", "overlay", "-o", options, "overlay", str(base / "point")])
        else:
            _mount(["-t", "tmpfs", "-o", "size=4m", "tmpfs", str(base / "point")])
        undo.append(base / "point")
        yield kind, base / "point"
    finally:
        for point in reversed(undo):
            subprocess.run(["umount", "--lazy", point], check=True)


def _mount(arguments: list[str]) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")


def test_a_real_mount_is_recognised(mounted: tuple[str, Path]) -> None:
    kind, point = mounted
    found = concern(point.resolve())
    assert found is not None
    assert found.startswith(f"{point} lies on {kind}: ")
