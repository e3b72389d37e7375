"""The commands that README gives for a server on a network do what they should."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import replayring
from tests.support import LISTENING, read_line

SECTION = (Path(__file__).parents[2] / "README.md").read_text().partition("## On a network")[2]
RECIPE = SECTION.partition("```sh\n")[2].partition("```")[0].replace("0.0.0.0:50051", "0.0.0.0:0")
CONNECT = SECTION.partition("```py\n")[2].partition("```")[0]


def test_recipe_makes_a_server_that_lets_in_only_those_it_should(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with subprocess.Popen(
        ["sh", "-e", "-c", RECIPE.replace("\nreplayring", "\nexec replayring")],
        cwd=tmp_path,
        env={**os.environ, "PATH": programs},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            assert process.stdout is not None
            line = ""
            while not line.startswith(LISTENING):  # the commands before it say what they made
                line = read_line(process.stdout.fileno())
                assert line
            address = line.split()[-1].replace("0.0.0.0", "localhost")
            monkeypatch.chdir(tmp_path)
            names: dict[str, Any] = {"replayring": replayring}
            exec(CONNECT.replace("localhost:50051", address), names)
            with names["client"] as client:
                client.publish("p", {})
            tls = replayring.TLS(ca=next(tmp_path.rglob("ca.pem")))
            with (
                replayring.connect(address, tls=tls) as client,
                pytest.raises(replayring.UnauthenticatedError),
            ):
                client.buffers()
        finally:
            process.terminate()
    for name in ("token", "tokens", "server.key", "ca.key"):
        found = list(tmp_path.rglob(name))
        assert found, name
        for path in found:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
