"""Parameters: the way back from a learner to its actors, such as a policy's newest weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from replayring._calls import Caller
from replayring._channel import Stub
from replayring._patience import LASTING_SECONDS, Patience
from replayring._replies import Arrays, read_pack
from replayring_proto.arrays import as_array, keys_of
from replayring_proto.errors import (
    InvalidRequestError,
    MalformedMessageError,
    ServerUnavailableError,
)
from replayring_proto.framing import encode_pack
from replayring_proto.messages import parse
from replayring_proto.pack import Pack
from replayring_proto.v1 import replay_pb2

__all__ = ["Parameters"]


class Parameters(NamedTuple):
    """One version of published tensors.

    Attributes:
        version: grows with each publication under the name; the first is 1.
        tensors: writable arrays by name, which share their memory.
    """

    version: int
    tensors: Arrays


def publish(
    caller: Caller,
    name: str,
    tensors: Mapping[str, Any],
    timeout: float | None,
    min_version: int = 0,
) -> int:
    """Publishes tensors under a checked name; returns their version, at least `min_version`."""
    if not isinstance(tensors, Mapping):
        raise InvalidRequestError(
            "tensors must be a mapping {name: array}, such as module.state_dict(), received "
            f"{type(tensors).__name__}"
        )
    pack = Pack.of({key: _array(key, value) for key, value in tensors.items()})
    fields = replay_pb2.PublishParametersRequest(
        name=name, min_version=min_version
    ).SerializeToString()
    patience = caller.patience(f"publishing {name!r}", timeout)

    def attempt(stub: Stub) -> bytes:
        requests = encode_pack(pack, fields)
        with stub.upload("PublishParameters", requests, patience.call_timeout()) as call:
            answer: bytes = call.result()
        return answer

    return parse(replay_pb2.PublishParametersResponse, caller.run(patience, attempt)).version


def newest(caller: Caller, name: str, after: int, patience: Patience, *, wait: bool) -> Parameters:
    """Returns the newest version above `after`; with `wait`, once there is one."""
    request = replay_pb2.WatchParametersRequest(name=name, after_version=after, follow=wait)
    encoded = request.SerializeToString()

    def attempt(stub: Stub) -> Parameters:
        seconds = min(patience.call_timeout(), LASTING_SECONDS)
        with stub.fetch("WatchParameters", encoded, seconds) as call:
            first = next(call, None)
            if first is None:
                raise ServerUnavailableError("the server ended the call without an answer")
            tensors, rest = read_pack(first, call, caller.max_reply_bytes)
        version = parse(replay_pb2.WatchParametersResponse, rest).version
        if version <= after:
            raise MalformedMessageError(f"the server sent version {version}, not above {after}")
        return Parameters(version, tensors)

    explain = f"nobody published a version of {name!r} above {after}; publish one, or wait longer"
    return caller.run(patience, attempt, lambda: explain, lasting=wait)


class Watch(Iterator[Parameters]):
    """The newest version, then again whenever there is a newer one. Not thread-safe.

    Each version is asked for when the caller wants it. So a slow caller never gets one that has
    waited for it, and between two of them there is no call that would have to be closed, fed, or
    kept through a fork. No generator, as it goes on when its caller was told that none came.
    """

    def __init__(self, after: int, newer: Callable[[int], Parameters]) -> None:
        """Begins.

        Args:
            after: the version that is already known.
            newer: waits for a version above another.
        """
        self._after = after
        self._newer = newer

    def __next__(self) -> Parameters:
        parameters = self._newer(self._after)
        self._after = parameters.version
        return parameters


def watch(caller: Caller, name: str, after: int, timeout: float) -> Watch:
    """Returns what waits so many seconds for each version."""

    def newer(known: int) -> Parameters:
        patience = caller.patience(f"watching {name!r}", timeout)
        return newest(caller, name, known, patience, wait=True)

    return Watch(after, newer)


def _array(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        raise InvalidRequestError(
            f"{name!r} is a mapping with the keys {keys_of(value)}; publish tensors flat, such as "
            '{f"{part}.{key}": tensor for part, state in tensors.items() for key, tensor in '
            "state.items()}"
        )
    try:
        return as_array(value)
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"{name!r} cannot be sent: {error}") from None
