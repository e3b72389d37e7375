"""TLS by files: which ones there are, whether they fit each other, and when they were renewed.

Knows PEM files and Python's `ssl`, which checks them with clear errors; what is made of their bytes
is for either side's gRPC. Nothing here ever asks for a passphrase.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from replayring_proto.errors import InvalidRequestError, StorageError

__all__ = [
    "TLS",
    "FilePath",
    "Stamps",
    "check_authorities",
    "check_pair",
    "read_file",
    "server_context",
    "stamps",
]

FilePath: TypeAlias = "str | os.PathLike[str]"

Stamps: TypeAlias = "tuple[tuple[int, int, int] | None, ...]"
"""What tells a file from the one that replaced it; None for one that is missing."""


@dataclass(frozen=True, kw_only=True)
class TLS:
    """How a client makes sure of its server, and shows who it is itself.

    All files are PEM. They are read when a connection is opened, and again when they have been
    renewed and the old ones no longer work. A pickled client carries the paths, not the files.

    Attributes:
        ca: certificates of the authorities to trust; None for the public ones that come with
            grpcio.
        cert: this client's own certificate, with its chain, for a server that asks for one (mutual
            TLS).
        key: the private key of `cert`, without a passphrase.
        server_name: the name that the server's certificate must have, where it is not the host
            that the client connects to.

    Raises:
        InvalidRequestError: `cert` was given without `key`, or the reverse.
    """

    ca: FilePath | None = None
    cert: FilePath | None = None
    key: FilePath | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            given, missing = ("cert", "key") if self.key is None else ("key", "cert")
            raise InvalidRequestError(
                f"TLS got {given} without {missing}; a client's own certificate takes both"
            )

    @property
    def files(self) -> tuple[FilePath, ...]:
        """The files that it names."""
        return tuple(path for path in (self.ca, self.cert, self.key) if path is not None)

    @property
    def options(self) -> list[tuple[str, str]]:
        """The channel's options that go with it."""
        name = self.server_name
        return [] if name is None else [("grpc.ssl_target_name_override", name)]

    def read(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Returns what `ca`, `key` and `cert` hold, in gRPC's order; None for what is not named.

        Raises:
            StorageError: a file cannot be read or used.
        """
        if self.ca is not None:
            check_authorities(self.ca)
        if self.cert is not None and self.key is not None:
            check_pair(self.cert, self.key)
        ca, key, cert = (
            None if path is None else read_file(path) for path in (self.ca, self.key, self.cert)
        )
        return ca, key, cert


def read_file(path: FilePath) -> bytes:
    """Returns what a file holds.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise StorageError(
            f"cannot read {os.fspath(path)}: {error.strerror}; check the path, and that the user "
            "who runs this may read it"
        ) from None


def check_pair(cert: FilePath, key: FilePath) -> None:
    """Checks that a certificate and a private key can be used, and belong together.

    Raises:
        StorageError: they cannot, or do not.
    """
    server_context(cert, key)


def server_context(
    cert: FilePath, key: FilePath, client_ca: FilePath | None = None
) -> ssl.SSLContext:
    """Returns what a server of Python's own listens with.

    Args:
        cert: its certificate.
        key: the private key of that.
        client_ca: authorities that must have signed its clients' certificates; None to ask for
            none.

    Raises:
        StorageError: a file cannot be used, or they do not belong together.
    """
    for path in (cert, key):
        read_file(path)  # whose error says which of the two it is
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key, password=_no_passphrase)
    except ssl.SSLError as error:
        raise StorageError(
            f"certificate {os.fspath(cert)} and private key {os.fspath(key)} cannot be used "
            f"together ({_reason(error)}); they must be PEM files, the key that of the "
            "certificate, and without a passphrase"
        ) from None
    except ValueError:  # raised by OpenSSL for what `_no_passphrase` gave it
        raise StorageError(
            f"private key {os.fspath(key)} has a passphrase; keep it without one, readable by the "
            "user who runs this alone"
        ) from None
    if client_ca is not None:
        check_authorities(client_ca)
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def check_authorities(ca: FilePath) -> None:
    """Checks that a file holds certificates of authorities.

    Raises:
        StorageError: it does not.
    """
    read_file(ca)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(ca)
    except ssl.SSLError as error:
        raise StorageError(
            f"{os.fspath(ca)} holds no certificates ({_reason(error)}); it must be a PEM file with "
            "those of the authorities to trust"
        ) from None


def stamps(paths: Iterable[FilePath]) -> Stamps:
    """Returns what tells these files from those that will replace them."""
    return tuple(_stamp(path) for path in paths)


def _stamp(path: FilePath) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _no_passphrase() -> str:
    raise ValueError


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "no PEM data").lower().replace("_", " ")
