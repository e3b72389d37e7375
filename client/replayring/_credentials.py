"""What a client shows its server and expects of it: certificates, a token, or neither.

No token is ever part of an error, a log record or a `repr`. A pickled client does carry its token,
since spawned workers need it: treat the pickle as the token itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc

from replayring_proto.address import stays_on_this_machine
from replayring_proto.errors import (
    InvalidRequestError,
    ReplayRingError,
    ServerUnavailableError,
    StorageError,
    TLSError,
)
from replayring_proto.tls import TLS, FilePath, Stamps, read_file, stamps
from replayring_proto.tls_probe import speaks_tls
from replayring_proto.tokens import SCHEME, TOKEN_KEY, check_token

TOKEN_VARIABLE = "REPLAYRING_TOKEN"
TOKEN_FILE_VARIABLE = "REPLAYRING_TOKEN_FILE"


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """How a client's connections are made and its calls marked. Picklable.

    Attributes:
        tls: how to make sure of the server; None for a connection in the clear.
        token: sent with every call, or None.
        token_file: the file that holds the token instead, read for every call; or None.
    """

    tls: TLS | None = None
    token: str | None = field(default=None, repr=False)
    token_file: FilePath | None = None

    def open(self, address: str, options: Sequence[tuple[str, int]]) -> grpc.Channel:
        """Returns a new channel.

        Raises:
            StorageError: a file cannot be read or used.
        """
        if self.tls is None:
            return grpc.insecure_channel(
                address, options, compression=grpc.Compression.NoCompression
            )
        return grpc.secure_channel(
            address,
            grpc.ssl_channel_credentials(*self.tls.read()),
            [*options, *self.tls.options],
            compression=grpc.Compression.NoCompression,
        )

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Returns what goes with every call.

        Raises:
            StorageError: the token's file cannot be read, or holds no token.
        """
        token = self.token
        if self.token_file is not None:
            text = read_file(self.token_file).decode(errors="replace").strip()
            try:
                token = check_token(text, os.fspath(self.token_file))
            except InvalidRequestError as error:
                raise StorageError(str(error)) from None
        return () if token is None else ((TOKEN_KEY, f"{SCHEME} {token}"),)

    def stamps(self) -> Stamps:
        """Returns what tells the certificates' files from those that will replace them."""
        return () if self.tls is None else stamps(self.tls.files)


def credentials_for(
    address: str,
    tls: bool | TLS,
    token: str | None,
    token_file: FilePath | None,
    insecure: bool,
) -> Credentials:
    """Returns what `connect` was given, checked, with the environment's token if it was given none.

    Raises:
        InvalidRequestError: the token is none, or would cross a network in the clear.
        StorageError: a file cannot be read or used.
    """
    if not isinstance(tls, (bool, TLS)):
        raise InvalidRequestError(
            f"tls is {tls!r:.60}; give True, or replayring.TLS(ca='ca.pem') for an authority of "
            "your own"
        )
    if token is not None and token_file is not None:
        raise InvalidRequestError("received both token and token_file; give one of them")
    if token is None and token_file is None:
        token = os.environ.get(TOKEN_VARIABLE) or None
        token_file = None if token else os.environ.get(TOKEN_FILE_VARIABLE) or None
    if token is not None:
        token = check_token(token, "connect")
    settings = (TLS() if tls else None) if isinstance(tls, bool) else tls
    credentials = Credentials(tls=settings, token=token, token_file=token_file)
    has_token = bool(credentials.metadata())
    if has_token and settings is None and not insecure and not stays_on_this_machine(address):
        raise InvalidRequestError(
            f"the token would go to {address} in the clear, for everybody on the way to read: "
            "connect with tls=True or tls=TLS(ca=...); or, where every machine on the network is "
            "trusted, with insecure=True"
        )
    if settings is not None:
        settings.read()
    return credentials


# Parts of what gRPC 1.71 to 1.85 say when a connection fails, and what to do about it. Of a text
# that is not here nothing is lost: it is shown as it is.
_UNTRUSTED = {
    "certificate has expired": "the server's certificate has expired: have it renewed",
    "certificate is not yet valid": "the server's certificate is not valid yet: compare the clocks",
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate is of no authority that this client "
    "trusts: connect with tls=TLS(ca=...), the certificate of the authority that signed it",
    "Hostname Verification Check failed": "the server's certificate is for another name: connect "
    "by a name that it has, or with tls=TLS(server_name=...)",
    "is not in peer certificate": "the server's certificate is for another name: connect by a "
    "name that it has, or with tls=TLS(server_name=...)",
    "WRONG_VERSION_NUMBER": "the server does not speak TLS: connect without tls, or start it with "
    "--tls-cert and --tls-key",
}

_HUNG_UP = ("ocket closed", "onnection refused", "onnection reset")


def explained(failure: ReplayRingError, address: str, tls: TLS | None) -> ReplayRingError:
    """Returns a failed call's error, with what to do about it where TLS may be the reason."""
    text = str(failure)
    if not isinstance(failure, ServerUnavailableError) or "failed to connect" not in text:
        return failure
    if tls is None:
        return _without_tls(failure, address)
    for part, remedy in _UNTRUSTED.items():
        if part in text:
            return TLSError(f"no connection to {address} that can be trusted; {remedy} ({text})")
    if "ocket closed" not in text:
        return failure
    # So does a server that is about to stop.
    return ServerUnavailableError(
        f"{text}; if the server wants a client's certificate, connect with "
        "tls=TLS(cert=..., key=...)"
    )


def _without_tls(failure: ReplayRingError, address: str) -> ReplayRingError:
    # A server that speaks TLS hangs up, or merely one of its name's addresses refuses.
    text = str(failure)
    if any(part in text for part in _HUNG_UP) and speaks_tls(address):
        return TLSError(
            f"what listens at {address} speaks TLS: connect with tls=True, or with tls=TLS(ca=...) "
            f"for an authority of your own ({text})"
        )
    return failure
