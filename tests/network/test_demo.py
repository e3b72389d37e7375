"""The demo on two machines, secured: a learner beside the server, actors on the other one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from replayring_server.security.development import make_folders
from tests.network.hosts import Hosts
from tests.support import ServerProcess

for module in ("torch", "gymnasium", "matplotlib"):
    pytest.importorskip(module)

STEPS = 1_200
PATIENCE = 200.0


def demo(host: list[str], role: str, address: str, client: Path, output: Path) -> list[str]:
    """Returns the command that runs one role of the demo on a host."""
    code = "from replayring_proto.cli import main; raise SystemExit(main())"
    security = ["--tls-ca", str(client / "ca.pem"), "--token-file", str(client / "token")]
    numbers = ["--steps", str(STEPS), "--actors", "1", "--output", str(output)]
    command = [sys.executable, "-c", code, "demo", "--role", role, "--address", address]
    return [*host, *command, *security, *numbers]


@pytest.mark.timeout(300)
def test_it_trains_across_them_with_tls_and_a_token(hosts: Hosts, tmp_path: Path) -> None:
    certs, output = tmp_path / "certs", tmp_path / "output"
    make_folders(certs, [Hosts.SERVER_IP], days=1, renew=False)
    own = certs / "server"
    flags = ["--tls-cert", str(own / "server.pem"), "--tls-key", str(own / "server.key")]
    with ServerProcess(
        *(tmp_path / "data", *flags, "--token-file", str(own / "tokens")),
        listen=f"{Hosts.SERVER_IP}:0",
        prefix=hosts.on(hosts.server),
    ) as server:
        there = demo(
            *(hosts.on(hosts.client), "actor", server.address),
            *(certs / "client", tmp_path / "actor"),
        )
        here = demo(
            *(hosts.on(hosts.server), "learner", server.address),
            *(certs / "client", output),
        )
        with subprocess.Popen(there, stdout=subprocess.PIPE, text=True) as actors:
            try:
                learner = subprocess.run(
                    here, capture_output=True, text=True, timeout=PATIENCE, check=False
                )
            finally:
                actors.terminate()
                said, _ = actors.communicate(timeout=30)
        assert server.running(), server.log_text()
    assert learner.returncode == 0, learner.stdout + learner.stderr
    assert (output / "learning-curve.png").exists()
    assert f"actor for the server on {server.address}" in said
    assert said.endswith("stopped\n")
