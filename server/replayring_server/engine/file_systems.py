"""What kind of file system a data directory lies on, and what that means for its promises.

Only known trouble is named; a kind that is not listed is taken for a local disk. Reads the table of
mounts (`man 5 proc_pid_mountinfo`) and nothing else.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePath

_MOUNTS = Path("/proc/self/mountinfo")

_NETWORK = (
    "it is on the network: locks and mapped files are only as good as its server, so two machines "
    "may open one directory unseen, and a connection that breaks may kill the server. Use a local "
    "disk, and one data directory per machine"
)
_COPY_ON_WRITE = (
    "it never writes in place: reserved space is needed a second time when frames are written, so "
    "a disk that fills up kills the server. Keep ample space free, take no snapshots of it, or use "
    "ext4 or xfs"
)
_CONTAINER = (
    "it is a container's own layer: slow, and gone with the container. Mount a volume there"
)
_USER_SPACE = (
    "another program stands behind it, and whether locks, mapped files and syncs do what they say "
    "is up to that. Use a local disk"
)
_MEMORY = (
    "it is in memory: nothing survives a restart of the machine, whatever a buffer's durability"
)

_CONCERNS = {
    **dict.fromkeys(("nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "lustre", "gpfs"), _NETWORK),
    **dict.fromkeys(("glusterfs", "beegfs", "afs", "ncpfs", "9p", "virtiofs"), _NETWORK),
    **dict.fromkeys(("btrfs", "zfs", "bcachefs", "nilfs2"), _COPY_ON_WRITE),
    **dict.fromkeys(("overlay", "overlayfs", "aufs"), _CONTAINER),
    **dict.fromkeys(("tmpfs", "ramfs", "devtmpfs"), _MEMORY),
}


def concern(folder: Path) -> str | None:
    """Returns what the owner of a data directory should know of its file system, or None.

    Args:
        folder: the directory, absolute and without symbolic links.
    """
    try:
        mounts = _MOUNTS.read_text(errors="surrogateescape")
    except OSError:
        return None
    kind = kind_of(folder, mounts)
    meaning = _USER_SPACE if kind.startswith("fuse") else _CONCERNS.get(kind)
    return f"{folder} lies on {kind}: {meaning}" if meaning else None


def kind_of(folder: PurePath, mounts: str) -> str:
    """Returns the kind of the file system that holds `folder`, such as "ext4".

    Args:
        folder: an absolute path without symbolic links.
        mounts: the content of /proc/self/mountinfo. Of two mounts on one point the later counts,
            as it hides the earlier.
    """
    deepest, kind = -1, "unknown"
    for line in mounts.splitlines():
        fields, _, source = line.partition(" - ")
        point = PurePath(_unescape(fields.split(" ")[4]))
        if folder.is_relative_to(point) and len(point.parts) >= deepest:
            deepest, kind = len(point.parts), source.split(" ")[0]
    return kind


def _unescape(text: str) -> str:
    """Blanks, tabs, line ends and backslashes are written as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
