"""The server's certificate and key, and the authorities of its clients, kept up to date."""

from __future__ import annotations

import logging
import ssl
import threading
from typing import Any

import grpc

from replayring_proto.errors import InvalidRequestError
from replayring_proto.tls import (
    Stamps,
    read_file,
    server_context,
    stamps,
)

logger = logging.getLogger(__name__)


class Certificates:
    """PEM files, read again when they are renewed: a new connection gets what is there by then.

    Thread-safe: gRPC asks from threads of its own, once for each connection.

    Attributes:
        client_ca: the file with the authorities whose clients may connect, or None for anybody.
    """

    def __init__(self, cert: str, key: str, client_ca: str | None = None) -> None:
        """Reads the files.

        Raises:
            StorageError: one cannot be read, or they do not fit each other.
        """
        self.client_ca = client_ca
        self._cert = cert
        self._key = key
        self._files = [cert, key] if client_ca is None else [cert, key, client_ca]
        self._lock = threading.Lock()
        self._stamps: Stamps = stamps(self._files)
        self._content, self._context = self._read()
        self._given = self._content

    def credentials(self) -> grpc.ServerCredentials:
        """Returns what a gRPC server listens with."""
        fetch: Any = self._renewed  # whose None the stubs do not know, but gRPC does
        return grpc.dynamic_ssl_server_credentials(
            self._given, fetch, require_client_authentication=self.client_ca is not None
        )

    def context(self) -> ssl.SSLContext:
        """Returns what a server other than gRPC's takes its next connection with."""
        with self._lock:
            self._look()
            return self._context

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Returns the files' new content, or None: go on with the one before."""
        with self._lock:
            self._look()
            if self._content is self._given:
                return None
            self._given = self._content
            return self._given

    def _look(self) -> None:
        """Takes up what is new.

        Files are renewed one after the other. What does not fit together (yet) is not taken, and
        looked at again when another of them has changed.
        """
        now = stamps(self._files)
        if now == self._stamps:
            return
        self._stamps = now
        try:
            self._content, self._context = self._read()
        except OSError as error:  # also one that went while it was being read
            logger.error("the certificate in use stays: %s", error)
        else:
            logger.info("took up the renewed certificate in %s", self._cert)

    def _read(self) -> tuple[grpc.ServerCertificateConfiguration, ssl.SSLContext]:
        context = server_context(self._cert, self._key, self.client_ca)
        authorities = None if self.client_ca is None else read_file(self.client_ca)
        pairs = [(read_file(self._key), read_file(self._cert))]
        content = grpc.ssl_server_certificate_configuration(pairs, root_certificates=authorities)
        return content, context


def certificates_from(
    cert: str | None, key: str | None, client_ca: str | None
) -> Certificates | None:
    """Returns what the command line's files make, or None where it names none.

    Raises:
        InvalidRequestError: it names some, but not those that belong to them.
        StorageError: one cannot be read, or they do not fit each other.
    """
    if cert is None and key is None and client_ca is None:
        return None
    if cert is None or key is None:
        files = {"--tls-cert": cert, "--tls-key": key, "--tls-client-ca": client_ca}
        given = " and ".join(flag for flag, path in files.items() if path is not None)
        raise InvalidRequestError(f"TLS needs both --tls-cert and --tls-key, received {given}")
    return Certificates(cert, key, client_ca)
