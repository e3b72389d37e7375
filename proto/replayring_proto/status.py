"""How errors travel: the one table between error classes and gRPC status codes.

The server calls `to_status` and the client `from_status`; nobody else maps errors to codes.
"""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.message import DecodeError

from replayring_proto import errors
from replayring_proto.errors import ReplayRingError
from replayring_proto.v1 import replay_pb2

DETAIL_KEY = "replayring-error-bin"
"""Trailing metadata that carries a serialized `replayring.v1.ErrorDetail`."""

# Both share the peer's metadata limit, 8 KiB by default, as HTTP/2 carries them: the detail in
# base64, and each byte of a status message as three that is no plain character of ASCII. So the
# detail carries more of the text.
_MAX_STATUS_BYTES = 1024
_MAX_DETAIL_BYTES = 4096
_SPELLED_BYTES = 3

_CODES: dict[type[ReplayRingError], grpc.StatusCode] = {
    errors.InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidSpecError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidEpisodeError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.MalformedMessageError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.LimitExceededError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DiskSpaceError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.FrameNotFoundError: grpc.StatusCode.OUT_OF_RANGE,
    errors.AlreadyExistsError: grpc.StatusCode.ALREADY_EXISTS,
    errors.SequenceReusedError: grpc.StatusCode.ALREADY_EXISTS,
    errors.ToleranceError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.OvertakenError: grpc.StatusCode.ABORTED,
    errors.DeadlineError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.ServerUnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.StorageError: grpc.StatusCode.DATA_LOSS,
    errors.AccessDeniedError: grpc.StatusCode.PERMISSION_DENIED,
    errors.UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    errors.ServerError: grpc.StatusCode.INTERNAL,
}

_KINDS = {cls.__name__: cls for cls in _CODES}

# For peers that send a bare status: gRPC itself, proxies, other servers. The first class of each
# code is its most general one.
_BY_CODE: dict[grpc.StatusCode, type[ReplayRingError]] = {}
for _cls, _code in _CODES.items():
    _BY_CODE.setdefault(_code, _cls)
_BY_CODE[grpc.StatusCode.CANCELLED] = errors.ServerUnavailableError

_ANOTHER_SERVICE = (
    "; what listens there is another service (--health-listen is one), or an older replayring: "
    "check the address, and the versions of both sides"
)


def to_status(error: ReplayRingError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """Returns the status code, status message and trailing metadata that stand for `error`."""
    kind = next((cls for cls in type(error).__mro__ if cls in _CODES), errors.ServerError)
    text = str(error)
    detail = replay_pb2.ErrorDetail(kind=kind.__name__, message=_cut(text, _MAX_DETAIL_BYTES))
    metadata = ((DETAIL_KEY, detail.SerializeToString()),)
    plain = text.isascii() and text.isprintable() and "%" not in text
    longest = _MAX_STATUS_BYTES if plain else _MAX_STATUS_BYTES // _SPELLED_BYTES
    return _CODES[kind], _cut(text, longest), metadata


def from_status(call: Any) -> ReplayRingError:
    """Returns the error that a failed call stands for.

    Args:
        call: a `grpc.RpcError` that is also a `grpc.Call`, as raised by grpc's stubs.
    """
    detail = _detail_of(call)
    if detail is not None and detail.kind in _KINDS:
        return _KINDS[detail.kind](detail.message)
    code = call.code()
    cls = _BY_CODE.get(code, errors.ServerError)
    remedy = _ANOTHER_SERVICE if code is grpc.StatusCode.UNIMPLEMENTED else ""
    return cls(f"{code.name}: {call.details() or 'no details were given'}{remedy}")


def _cut(text: str, max_bytes: int) -> str:
    """Returns the beginning of `text` that takes at most `max_bytes` in UTF-8, and is valid."""
    return text.encode(errors="replace")[:max_bytes].decode(errors="ignore")


def _detail_of(call: Any) -> replay_pb2.ErrorDetail | None:
    for key, value in call.trailing_metadata() or ():
        if key == DETAIL_KEY:
            try:
                return replay_pb2.ErrorDetail.FromString(value)
            except DecodeError:
                return None
    return None
