"""Certificates for tests, made with the openssl command as users make theirs; and tokens.

Tests fail where there is no openssl: every Linux that a server runs on has it a package away.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import replayring

WRITE, READ, UNKNOWN = "write-0123456789abcdef0123456789abcdef", "read-" + "r" * 40, "u" * 64
"""Two tokens that a server knows, and one that none does."""

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc")

# What `openssl ca` wants to know; it alone can issue a certificate that has expired already.
_CONFIG = """
[ca]
default_ca = authority
[authority]
database = {folder}/index.txt
rand_serial = yes
new_certs_dir = {folder}
default_md = sha256
policy = names
[names]
commonName = supplied
[issued]
basicConstraints = critical,CA:FALSE
subjectAltName = {hosts}
"""


@dataclass(frozen=True)
class Pair:
    """The files of a certificate and its private key."""

    cert: Path
    key: Path

    @property
    def flags(self) -> list[str]:
        """What `replayring serve` takes them with."""
        return ["--tls-cert", str(self.cert), "--tls-key", str(self.key)]

    def replace_with(self, other: Pair) -> None:
        """Renews the files, first the certificate and then the key, each in one step."""
        replace(self.cert, other.cert.read_text())
        replace(self.key, other.key.read_text())


class Authority:
    """A certificate authority in a folder of its own.

    Attributes:
        cert: the file with its certificate.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._numbers = itertools.count()
        self.cert, self._key = folder / "ca.pem", folder / "ca.key"
        files = ("-keyout", self._key, "-out", self.cert)
        openssl("req", "-x509", *_KEY, "-days", "30", "-subj", "/CN=Test CA", *files)
        (folder / "index.txt").touch()

    def tls(self, own: Pair | None = None, server_name: str | None = None) -> replayring.TLS:
        """Returns what a client trusts this authority with, and shows `own` if it has one."""
        if own is None:
            return replayring.TLS(ca=self.cert, server_name=server_name)
        return replayring.TLS(ca=self.cert, cert=own.cert, key=own.key, server_name=server_name)

    def issue(self, hosts: str = "DNS:localhost,IP:127.0.0.1", *, expired: bool = False) -> Pair:
        """Returns a certificate for these hosts, and its key."""
        stem = self._folder / f"issued-{next(self._numbers)}"
        pair = Pair(stem.with_suffix(".pem"), stem.with_suffix(".key"))
        request, config = stem.with_suffix(".csr"), stem.with_suffix(".cnf")
        config.write_text(_CONFIG.format(folder=self._folder, hosts=hosts))
        openssl("req", *_KEY, "-subj", f"/CN={stem.name}", "-keyout", pair.key, "-out", request)
        dates = ("20200101000000Z", "20210101000000Z" if expired else "20991231000000Z")
        openssl(
            *("ca", "-batch", "-notext", "-config", config, "-extensions", "issued"),
            *("-cert", self.cert, "-keyfile", self._key, "-in", request, "-out", pair.cert),
            *("-startdate", dates[0], "-enddate", dates[1]),
        )
        return pair


def replace(path: Path, text: str) -> None:
    """Gives a file new content in one step, as those who renew files do."""
    new = path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, path)


def token_file(path: Path, *lines: str) -> Path:
    """Writes a server's file of tokens: `lines`, or one for `WRITE` and one for `READ`."""
    replace(path, "\n".join(lines or (f"write {WRITE}", f"read {READ}")))
    return path


def openssl(*arguments: str | Path) -> None:
    """Runs the openssl command."""
    assert shutil.which("openssl"), "the openssl command is needed to make certificates"
    done = subprocess.run(
        ["openssl", *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
