"""Two hosts: network namespaces, joined by a veth pair whose server's end loses packets on demand.

What happens on the client's host is a function of a test module, run there by `on_client`: a
process has one network, so a test cannot step over to the other host itself. It gets the hosts as
its first argument and may cut and mend the cable as the test may.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import ServerProcess

_DROP = ["-j", "DROP"]
_SECONDS = 100


@dataclass(frozen=True)
class Hosts:
    """A server's host and a client's, by the names of their namespaces.

    Attributes:
        server: the server's namespace.
        client: the client's namespace.
    """

    server: str
    client: str

    SERVER_IP = "10.0.0.1"
    CLIENT_IP = "10.0.0.2"
    CABLE = "cable"  # what either end is called, on its host

    @classmethod
    def make(cls) -> Hosts:
        """Sets up two hosts whose names nobody else uses."""
        unique = f"rr-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        hosts = cls(f"{unique}-s", f"{unique}-c")
        try:
            for host in (hosts.server, hosts.client):
                _ip("netns", "add", host)
            _ip(*f"link add {cls.CABLE} netns {hosts.server} type veth".split(),
                *f"peer name {cls.CABLE} netns {hosts.client}".split())  # fmt: skip
            for host, ip in ((hosts.server, cls.SERVER_IP), (hosts.client, cls.CLIENT_IP)):
                _ip("-n", host, "addr", "add", f"{ip}/24", "dev", cls.CABLE)
                for link in ("lo", cls.CABLE):
                    _ip("-n", host, "link", "set", link, "up")
        except BaseException:
            hosts.remove()
            raise
        return hosts

    def remove(self) -> None:
        """Takes the hosts away, and the cable with them. Whatever was there is gone."""
        for host in (self.server, self.client):
            subprocess.run(["ip", "netns", "del", host], check=False, capture_output=True)

    def on(self, host: str) -> list[str]:
        """Returns what to put before a command that is to run on a host."""
        return ["ip", "netns", "exec", host]

    # The cable

    @contextmanager
    def losing(self, share: float) -> Iterator[None]:
        """Loses this share of the packets in each direction, at random."""
        self._filter("-m", "statistic", "--mode", "random", "--probability", str(share), *_DROP)
        try:
            yield
        finally:
            self.mend()

    def swallow(self) -> None:
        """Loses every packet from now on; neither side is told."""
        self._filter(*_DROP)

    def unplug(self) -> None:
        """Takes the link down from now on."""
        _ip("-n", self.server, "link", "set", self.CABLE, "down")

    def mend(self) -> None:
        """Makes the cable good again, whatever was wrong."""
        self._iptables("-F")
        _ip("-n", self.server, "link", "set", self.CABLE, "up")

    def lost(self) -> list[int]:
        """Returns the packets lost so far, to and from the server."""
        listed = [self._iptables("-nvxL", chain) for chain in ("INPUT", "OUTPUT")]
        return [int(text.splitlines()[2].split()[0]) for text in listed]

    def _filter(self, *rule: str) -> None:
        self._iptables("-A", "INPUT", "-i", self.CABLE, *rule)
        self._iptables("-A", "OUTPUT", "-o", self.CABLE, *rule)

    def _iptables(self, *arguments: str) -> str:
        return _run([*self.on(self.server), "iptables", *arguments])

    # What runs there

    def serve(self, data_dir: Path, *, prefix: Sequence[str] = ()) -> ServerProcess:
        """Starts a server on the server's host."""
        listen = f"{self.SERVER_IP}:0"
        run = [*self.on(self.server), *prefix]
        return ServerProcess(data_dir, "--insecure", listen=listen, prefix=run)

    def client_command(self, body: Callable[..., Any], *arguments: Any) -> list[str]:
        """Returns the command that calls `body(hosts, *arguments)` on the client's host."""
        call = [body.__module__, body.__name__, self.server, self.client, json.dumps(arguments)]
        python = [sys.executable, "-W", "error::ResourceWarning", "-m", "tests.network.inside"]
        return [*self.on(self.client), *python, *call]

    def on_client(self, body: Callable[..., Any], *arguments: Any) -> None:
        """Calls `body(hosts, *arguments)` on the client's host; what fails there fails here."""
        command = self.client_command(body, *arguments)
        done = subprocess.run(
            command,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
        )
        print(done.stdout)
        assert not done.returncode, f"{body.__name__} failed on the client's host, see its output"


def _ip(*arguments: str) -> None:
    _run(["ip", *arguments])


def _run(command: list[str]) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert not done.returncode, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout
