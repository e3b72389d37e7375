"""The committed code is what the .proto files generate."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROTO = Path(__file__).parents[2] / "proto"
# The floor of the dependencies decides; while developing, another environment may have the tools.
PYTHON = os.environ.get("REPLAYRING_PROTOC_PYTHON", sys.executable)


@pytest.mark.skipif(
    sys.version_info >= (3, 14), reason="grpcio-tools has no wheels of that version"
)
def test_regenerating_changes_nothing(tmp_path: Path) -> None:
    """Needs grpcio-tools, of the extra `dev`; without it this fails, as nothing else would tell."""
    done = subprocess.run(
        [PROTO / "generate", tmp_path],
        env={**os.environ, "PYTHON": PYTHON},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    generated = {path.name: path.read_text() for path in tmp_path.rglob("*.py*")}
    committed = PROTO / "replayring_proto" / "v1"
    assert generated == {
        path.name: path.read_text()
        for path in committed.glob("*_pb2*")
        if path.suffix in (".py", ".pyi")
    }
    assert len(generated) == 9
