"""The tokens that a server takes: a file of them, and the comparison with what a caller sends.

Only hashes are kept. No token is ever logged, nor shown in an error.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path

from replayring_proto.errors import InvalidRequestError
from replayring_proto.limits import MAX_TOKENS, check_limit
from replayring_proto.tls import read_file
from replayring_proto.tokens import check_token

logger = logging.getLogger(__name__)


class Scope(IntEnum):
    """What a token is good for; each includes those before it."""

    READ = 1
    WRITE = 2


class Tokens:
    """The tokens of one file. Belongs to one event loop.

    Each line of the file is `write TOKEN` or `read TOKEN`; empty lines, and those that begin with
    `#`, are skipped.
    """

    def __init__(self, path: Path | str) -> None:
        """Reads the file.

        Raises:
            StorageError: it cannot be read.
            InvalidRequestError: a line is not valid, or there is no token at all.
        """
        self._path = Path(path)
        self._scopes: dict[bytes, Scope] = {}
        self.reload()

    def reload(self) -> None:
        """Reads the file again; where that fails, the tokens stay as they were.

        Raises:
            StorageError, InvalidRequestError: as above.
        """
        scopes: dict[bytes, Scope] = {}
        lines: dict[bytes, int] = {}
        for number, scope, token in self._lines():
            digest = digest_of(token)
            if digest in scopes:
                raise InvalidRequestError(
                    f"line {number} of {self._path} has the token of line {lines[digest]} again; "
                    "keep one of the two"
                )
            scopes[digest], lines[digest] = scope, number
        if not scopes:
            raise InvalidRequestError(
                f"{self._path} has no token, so nobody could call this server; give it lines of "
                "the form `write TOKEN` or `read TOKEN`"
            )
        check_limit(len(scopes), MAX_TOKENS, f"tokens in {self._path}", "share some")
        self._scopes = scopes
        counts = [sum(each is scope for each in scopes.values()) for scope in Scope]
        logger.info("%s: tokens to read: %d, to write: %d", self._path, *counts)

    def scope_of(self, digest: bytes) -> Scope | None:
        """Returns what a token is good for, by its digest; None if it is not one of them.

        Takes as long whether it is or not, and whichever it is.
        """
        found = None
        for known, scope in self._scopes.items():
            if hmac.compare_digest(known, digest):
                found = scope
        return found

    def _lines(self) -> Iterator[tuple[int, Scope, str]]:
        text = read_file(self._path).decode(errors="replace")
        for number, line in enumerate(text.splitlines(), 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if len(words) != 2 or words[0] not in ("read", "write"):
                # Whatever it has may be a token.
                raise InvalidRequestError(
                    f"line {number} of {self._path} is not `write TOKEN` or `read TOKEN`"
                )
            yield (
                number,
                Scope[words[0].upper()],
                check_token(words[1], f"line {number} of {self._path}"),
            )


def digest_of(token: str) -> bytes:
    """Returns what stands for a token here: of one length, whatever the token's."""
    return hashlib.sha256(token.encode()).digest()
