"""The commands that README gives for a server on a network do what they should."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import replayring
from tests.support import read_line

RECIPE = Path(__file__).with_name("recipe.sh").read_text().replace("0.0.0.0:50051", "0.0.0.0:0")


def test_recipe_makes_a_server_that_lets_in_only_those_it_should(tmp_path: Path) -> None:
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
            line = read_line(process.stdout.fileno())
            address = line.split()[-1].replace("0.0.0.0", "127.0.0.1")
            tls = replayring.TLS(ca=tmp_path / "ca.pem")
            with replayring.connect(address, tls=tls, token_file=tmp_path / "token") as client:
                client.publish("p", {})
            with (
                replayring.connect(address, tls=tls) as client,
                pytest.raises(replayring.UnauthenticatedError),
            ):
                client.buffers()
        finally:
            process.terminate()
    for name in ("token", "tokens", "server.key", "ca.key"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600, name
