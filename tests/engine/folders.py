"""What lies in a folder, to the byte."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def fingerprint(folder: Path, without: tuple[str, ...] = ()) -> dict[str, str]:
    """Returns a line for everything below `folder`: its kind, and a hash of its content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if name in without:
            continue
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = "folder" if path.is_dir() else "other"
    return found
