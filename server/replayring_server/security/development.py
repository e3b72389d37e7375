"""A development authority: certificates and tokens for a server and its callers, a folder for each.

    authority/  ca.pem ca.key                             signs; its key stays here
    server/     server.pem server.key tokens ca.pem       what `replayring serve` takes
    client/     ca.pem token client.pem client.key        may write: actors and learners
    reader/     ca.pem token client.pem client.key        may only read

Made with the openssl command, which every Linux has or is a package away from: so no install of
replayring grows by a cryptography library for it. Nothing that is there is ever overwritten, except
certificates on request. What is missing is made from what is there, so a run that was interrupted
is completed by the next one. How long an authority is right for more than development is not
decided here: those who have one of their own need none of this.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from replayring_proto.errors import InvalidRequestError, StorageError
from replayring_proto.tls import check_pair

__all__ = ["DEFAULT_HOSTS", "Authority", "hosts_of", "make_folders"]

DEFAULT_HOSTS = ("localhost", "127.0.0.1", "::1")
CALLERS = {"client": "write", "reader": "read"}
"""The folders of callers, and what their tokens are good for."""

_AUTHORITY_DAYS = 3650
_SECRET, _PUBLIC = 0o600, 0o644
_KEY = ("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
_HOST = re.compile(r"(\*\.)?[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")

# A file of its own, since what the system's openssl.cnf adds differs between systems.
_CONFIG = """
[req]
distinguished_name = subject
[subject]
[authority]
basicConstraints = critical,CA:TRUE,pathlen:0
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = serverAuth
authorityKeyIdentifier = keyid
{names}
[client]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = clientAuth
authorityKeyIdentifier = keyid
"""


def make_folders(folder: Path, hosts: Iterable[str], *, days: int, renew: bool) -> Authority:
    """Makes what is missing of the four folders; returns the authority, which knows what it made.

    Args:
        folder: where they lie.
        hosts: names and addresses that the server's certificate must hold for.
        days: how long the certificates hold that are issued now.
        renew: issue them even where there are some; keys, authority and tokens stay.

    Raises:
        InvalidRequestError: a host is no name and no address, or the days are none or too many.
        StorageError: what is there does not fit; nothing of it was changed. Or no openssl.
    """
    if not 1 <= days <= _AUTHORITY_DAYS:
        raise InvalidRequestError(
            f"certificates for {days:,} days: they hold from 1 to {_AUTHORITY_DAYS:,} days, as "
            "long as the authority that signs them"
        )
    names = [_subject_name(host) for host in hosts]
    authority = Authority(folder / "authority")
    server = folder / "server"
    authority.issue(server / "server", "server", names, days=days, renew=renew)
    authority.introduce(server)
    tokens = _Tokens(server / "tokens", authority.made)
    for caller, scope in CALLERS.items():
        authority.issue(folder / caller / "client", "client", [], days=days, renew=renew)
        authority.introduce(folder / caller)
        tokens.give(folder / caller / "token", scope)
    return authority


def hosts_of(folder: Path) -> list[str]:
    """Returns the names and addresses that the server's certificate holds for, sorted."""
    return sorted(name.partition(":")[2] for name in _names_of(folder / "server" / "server.pem"))


@dataclass
class Authority:
    """Signs certificates with the key in its folder, which is made where there is none.

    Attributes:
        folder: has `ca.pem` and `ca.key`.
        made: the files written so far.
    """

    folder: Path
    made: list[Path] = field(default_factory=list)

    @property
    def cert(self) -> Path:
        """Its own certificate: what others trust it by."""
        return self.folder / "ca.pem"

    @property
    def key(self) -> Path:
        """Its private key. Only signing needs it."""
        return self.folder / "ca.key"

    def introduce(self, folder: Path) -> None:
        """Puts its certificate into another's folder."""
        path = folder / "ca.pem"
        if not path.exists():
            self._create(path, self.cert.read_bytes(), _PUBLIC)
        elif path.read_bytes() != self.cert.read_bytes():
            raise StorageError(f"{path} is that of another authority than {self.cert}; remove it")

    def issue(self, stem: Path, role: str, names: Sequence[str], *, days: int, renew: bool) -> None:
        """Makes sure of a key and a certificate for `role`, valid for `names`, at STEM.key, .pem.

        Raises:
            StorageError: the certificate that is there does not fit, and is not to be renewed.
        """
        self._make_own()
        cert, key = stem.with_suffix(".pem"), stem.with_suffix(".key")
        self._make_key(key, cert)
        if cert.exists() and not renew:
            self._check(cert, key, names)
            return
        if not self.key.exists():
            raise StorageError(
                f"{cert} cannot be issued without {self.key}; put it back, or begin anew with an "
                "empty folder"
            )
        content = self._sign(key, role, names, days)
        self._create(cert, content, _PUBLIC, replace=renew)

    def _make_own(self) -> None:
        if self.cert.exists():
            return
        self._make_key(self.key, self.cert)
        with _config() as config:
            own = ("req", "-new", "-x509", "-key", self.key, "-subj", "/CN=replayring development")
            more = ("-config", config, "-extensions", "authority", "-days", _AUTHORITY_DAYS)
            content = _openssl(*own, *more)
        self._create(self.cert, content, _PUBLIC)

    def _make_key(self, key: Path, cert: Path) -> None:
        if key.exists():
            return
        if cert.exists():
            raise StorageError(
                f"{cert} is there without its {key.name}: put that back or remove it"
            )
        self._create(key, _openssl(*_KEY), _SECRET)

    def _sign(self, key: Path, role: str, names: Sequence[str], days: int) -> bytes:
        with _config(names) as config:
            subject = ("-subj", f"/CN=replayring {role}")
            request = _openssl("req", "-new", "-key", key, *subject, "-config", config)
            signer = ("-CA", self.cert, "-CAkey", self.key, "-set_serial", secrets.randbits(127))
            extensions = ("-extfile", config, "-extensions", role)
            command = ("x509", "-req", *signer, *extensions, "-days", days)
            return _openssl(*command, standard_input=request)

    def _check(self, cert: Path, key: Path, names: Sequence[str]) -> None:
        remedy = "; --renew issues it anew and leaves key, authority and tokens as they are"
        check_pair(cert, key)
        try:
            _openssl("verify", "-CAfile", self.cert, cert)
        except StorageError as error:
            raise StorageError(f"{cert} is not valid with {self.cert}{remedy}: {error}") from None
        lacking = sorted(set(names) - _names_of(cert)) if names else []
        if lacking:
            raise StorageError(f"{cert} does not hold for {', '.join(lacking)}{remedy}")

    def _create(self, path: Path, content: bytes, mode: int, *, replace: bool = False) -> None:
        _write(path, content, mode, replace=replace)
        self.made.append(path)


class _Tokens:
    """The server's file of tokens, made where there is none, and copies of them for callers."""

    def __init__(self, path: Path, made: list[Path]) -> None:
        self._path, self._made = path, made
        if not path.exists():
            lines = [f"{scope} {secrets.token_hex(32)}\n" for scope in CALLERS.values()]
            self._create(path, "".join(lines))

    def give(self, path: Path, scope: str) -> None:
        """Puts the first token of a scope at `path`, unless one is there that the server takes."""
        lines = [line.split() for line in self._path.read_text().splitlines()]
        tokens = [line[1] for line in lines if len(line) == 2 and line[0] == scope]
        if path.exists():
            if path.read_text().strip() not in tokens:
                raise StorageError(f"{path} is none of the tokens to {scope} in {self._path}")
        elif tokens:
            self._create(path, f"{tokens[0]}\n")

    def _create(self, path: Path, text: str) -> None:
        _write(path, text.encode(), _SECRET)
        self._made.append(path)


def _subject_name(host: str) -> str:
    """Returns a host as openssl lists it in a certificate."""
    with contextlib.suppress(ValueError):
        return f"IP:{ipaddress.ip_address(host)}"
    if not _HOST.fullmatch(host):
        raise InvalidRequestError(
            f"host {host!r} is neither an IP address nor a host's name, such as replay.example.org"
        )
    return f"DNS:{host.lower()}"


def _names_of(cert: Path) -> set[str]:
    text = _openssl("x509", "-in", cert, "-noout", "-ext", "subjectAltName").decode()
    named = re.findall(r"(DNS|IP Address):([^,\s]+)", text)
    return {_subject_name(host) for _, host in named}


@contextlib.contextmanager
def _config(names: Sequence[str] = ()) -> Iterator[Path]:
    with tempfile.NamedTemporaryFile("w", suffix=".cnf") as file:
        file.write(_CONFIG.format(names=f"subjectAltName = {','.join(names)}" if names else ""))
        file.flush()
        yield Path(file.name)


def _openssl(*arguments: str | int | Path, standard_input: bytes = b"") -> bytes:
    """Returns what the openssl command prints."""
    program = shutil.which("openssl")
    if program is None:
        raise StorageError("there is no openssl command, which makes certificates; install openssl")
    command = [program, *map(str, arguments)]
    done = subprocess.run(command, input=standard_input, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().replace("\n", "; ")
        raise StorageError(f"openssl {arguments[0]} failed: {said}")
    return done.stdout


def _write(path: Path, content: bytes, mode: int, *, replace: bool = False) -> None:
    """Puts a whole file at `path`, with these rights from its first byte on.

    Raises:
        FileExistsError: something is there, and is not to be replaced.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
        if replace:
            os.replace(part, path)
        else:
            os.link(part, path)  # which a rename would do too, but over whatever is there
    finally:
        part.unlink(missing_ok=True)
