"""The errors of replayring, on both sides of the wire.

    ReplayRingError
    ├── InvalidRequestError      ValueError       the request breaks a rule; nothing was written
    │   ├── InvalidSpecError                      a buffer's spec, or a view on it
    │   ├── InvalidEpisodeError                   an episode does not fit its buffer's spec
    │   └── MalformedMessageError                 bytes that are no message of this protocol
    ├── LimitExceededError       ValueError       beyond a limit of the server; nothing was written
    │   └── DiskSpaceError                        a new buffer would fill the disk
    ├── NotFoundError            LookupError      no buffer or parameters of that name
    ├── FrameNotFoundError       IndexError       no live frame at that position or `index`
    ├── AlreadyExistsError       ValueError       the name is taken by something different
    │   └── SequenceReusedError                   a writer used one sequence for two episodes
    ├── ToleranceError           AssertionError   no frame near enough inside the episode
    ├── OvertakenError           RuntimeError     writers overran this read; trying again is safe
    ├── DeadlineError            TimeoutError     the caller's time ran out
    ├── ServerUnavailableError   ConnectionError  the server cannot be reached or is stopping
    ├── TLSError                 ConnectionError  no trusted connection: certificates do not match
    ├── AccessDeniedError        PermissionError  the server does not let this caller do that
    │   └── UnauthenticatedError                  it does not know the caller: no token, a wrong one
    ├── ServerError              RuntimeError     the server failed; its log has the id
    ├── ClosedError              RuntimeError     this client, buffer or writer was closed
    └── StorageError             OSError          files that cannot be trusted or used
        └── DirectoryLockedError                  another server holds the data directory

Messages say what was received, the limit and the remedy. How errors travel is `status`'s business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class ReplayRingError(Exception):
    """Base of every error that replayring raises on purpose.

    Attributes:
        acknowledged: where `add_episodes` failed: the acknowledgements of the episodes that were
            stored all the same.
    """

    acknowledged: Sequence[Any] = ()

    def __str__(self) -> str:
        # LookupError and OSError subclasses would otherwise decorate the message.
        return str(self.args[0]) if self.args else ""


class InvalidRequestError(ReplayRingError, ValueError):
    """The request breaks a documented rule. Nothing was written."""


class InvalidSpecError(InvalidRequestError):
    """A buffer's spec, or a view on a buffer, is not valid."""


class InvalidEpisodeError(InvalidRequestError):
    """An episode does not fit its buffer's spec. Nothing of it was written."""


class MalformedMessageError(InvalidRequestError):
    """Bytes received are no message of this protocol."""


class LimitExceededError(ReplayRingError, ValueError):
    """The request is beyond a limit, which the message names. Nothing was written."""


class DiskSpaceError(LimitExceededError):
    """A new buffer would take more of the disk than is safe."""


class NotFoundError(ReplayRingError, LookupError):
    """There is no buffer, or there are no parameters, of that name."""


class FrameNotFoundError(ReplayRingError, IndexError):
    """No live frame has that position or `index`."""


class AlreadyExistsError(ReplayRingError, ValueError):
    """The name is taken by something different. It was left as it is."""


class SequenceReusedError(AlreadyExistsError):
    """A writer's sequence was used before with another payload, or is too old to compare."""


class ToleranceError(ReplayRingError, AssertionError):
    """A window in seconds finds no frame within tolerance although it lies inside the episode."""


class OvertakenError(ReplayRingError, RuntimeError):
    """Writers overwrote what was being read, again and again. Trying again is safe."""


class DeadlineError(ReplayRingError, TimeoutError):
    """The time that the caller gave ran out."""


class ServerUnavailableError(ReplayRingError, ConnectionError):
    """The server cannot be reached, or is stopping."""


class TLSError(ReplayRingError, ConnectionError):
    """There is a server, but no connection to it that this client can trust."""


class AccessDeniedError(ReplayRingError, PermissionError):
    """The server does not let this caller do that. Nothing was done."""


class UnauthenticatedError(AccessDeniedError):
    """The server does not know the caller: it sent no token, or one that is not valid any more."""


class ServerError(ReplayRingError, RuntimeError):
    """The server failed in a way that is not the caller's fault; its log has the details."""


class ClosedError(ReplayRingError, RuntimeError):
    """This client, buffer or writer was closed and cannot be used any more."""


class StorageError(ReplayRingError, OSError):
    """Files on disk are missing, damaged, of an unknown version, or cannot be used."""


class DirectoryLockedError(StorageError):
    """Another process serves this data directory."""


__all__ = [
    "AccessDeniedError",
    "AlreadyExistsError",
    "ClosedError",
    "DeadlineError",
    "DirectoryLockedError",
    "DiskSpaceError",
    "FrameNotFoundError",
    "InvalidEpisodeError",
    "InvalidRequestError",
    "InvalidSpecError",
    "LimitExceededError",
    "MalformedMessageError",
    "NotFoundError",
    "OvertakenError",
    "ReplayRingError",
    "SequenceReusedError",
    "ServerError",
    "ServerUnavailableError",
    "StorageError",
    "TLSError",
    "ToleranceError",
    "UnauthenticatedError",
]
