"""What a bearer token looks like. No error here ever shows one."""

from __future__ import annotations

import re

from replayring_proto.errors import InvalidRequestError
from replayring_proto.limits import MAX_TOKEN_LENGTH, MIN_TOKEN_LENGTH

TOKEN_KEY = "authorization"
"""Request metadata that carries `Bearer TOKEN`, as in RFC 6750."""

SCHEME = "Bearer"

# RFC 6750, section 2.1: b64token.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


def check_token(token: str, what: str) -> str:
    """Returns the token if it can be one.

    Args:
        token: what was given as one.
        what: where it came from, for the message: "line 3 of /etc/replayring/tokens".

    Raises:
        InvalidRequestError: it cannot; the message says why and does not show it.
    """
    remedy = "make one with `openssl rand -hex 32`"
    if not isinstance(token, str):
        raise InvalidRequestError(f"{what}: the token is {type(token).__name__}; it must be text")
    if not MIN_TOKEN_LENGTH <= len(token) <= MAX_TOKEN_LENGTH:
        raise InvalidRequestError(
            f"{what}: the token has {len(token):,} characters; it must have from "
            f"{MIN_TOKEN_LENGTH} to {MAX_TOKEN_LENGTH:,}: {remedy}"
        )
    if not _TOKEN.fullmatch(token):
        raise InvalidRequestError(
            f"{what}: the token has a character other than letters, digits and -._~+/, with = at "
            f"its end only: {remedy}"
        )
    return token
