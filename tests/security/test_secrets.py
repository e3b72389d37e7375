"""A token is never logged nor shown, whoever sends it and however wrong it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.certificates import READ, UNKNOWN, WRITE

ROOT = Path(__file__).parents[2]


def test_nothing_that_is_said_has_a_token_in_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.security.talkative", tmp_path, WRITE, READ, UNKNOWN],
        cwd=ROOT,
        env={**os.environ, "GRPC_VERBOSITY": "debug", "PYTHONASYNCIODEBUG": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    # It did say what it was to say:
    for words in (
        *("DEBUG:", "UnauthenticatedError", "AccessDeniedError", "in the clear", "give one of"),
        *("the tokens in use stay: line 2", "has the token of line 1 again", "Traceback"),
    ):
        assert words in said, words
    for token in (WRITE, READ, UNKNOWN):
        assert token not in said
        assert token[8:-8] not in said
