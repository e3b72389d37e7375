"""A server's client, and what is to be had there: buffers and parameters."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

from replayring import parameters
from replayring._arguments import seconds, whole
from replayring._calls import Caller
from replayring._channel import Channel
from replayring._credentials import Credentials
from replayring._same_host import place_of, same_host_setting
from replayring.buffer import Buffer
from replayring.parameters import Parameters
from replayring_proto.address import check_target
from replayring_proto.errors import NotFoundError
from replayring_proto.messages import BufferInfo, info_from_message, spec_to_message
from replayring_proto.server_status import ServerStatus, status_from_message
from replayring_proto.spec import BufferSpec, check_name
from replayring_proto.v1 import replay_pb2

__all__ = ["Client"]

DEFAULT_TIMEOUT = 30.0
DEFAULT_MAX_REPLY_BYTES = 4 << 30

MAX_VERSION = (1 << 64) - 1


class Client:
    """A client of one server.

    Thread-safe. Picklable: the copy connects by itself, and carries the token. Usable on both sides
    of a fork: see `_fork` for how. Whoever made it closes it, best with `with`; that ends its
    writers, streams and watches as well.

    While the server is away, calls are tried again until their timeout.

    Attributes:
        address: the server's address.
        timeout: seconds that a call may take where it is given none of its own.
    """

    def __init__(
        self,
        address: str,
        timeout: float = DEFAULT_TIMEOUT,
        max_reply_bytes: int = DEFAULT_MAX_REPLY_BYTES,
        credentials: Credentials | None = None,
        same_host: bool | str | os.PathLike[str] | None = None,
    ) -> None:
        limit = whole(max_reply_bytes, "max_reply_bytes", 1)
        self._same_host = same_host_setting(same_host)
        self._channel = Channel(check_target(address), credentials)
        self._caller = Caller(self._channel, timeout, limit)

    def __repr__(self) -> str:
        return f"<Client of {self.address}>"

    def __reduce__(self) -> tuple[type[Client], tuple[Any, ...]]:
        more = (self._caller.max_reply_bytes, self._channel.credentials, self._same_host)
        return Client, (self.address, self.timeout, *more)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        """The server's address."""
        return self._channel.address

    @property
    def timeout(self) -> float:
        """Seconds that a call may take where it is given none of its own."""
        return self._caller.timeout

    def close(self) -> None:
        """Ends all calls, streams, watches and writers; what waits for them gets `ClosedError`.

        Episodes that a writer has not got acknowledged are not waited for; its `close` then says
        so. Calling it again does nothing.
        """
        self._channel.close()

    # Buffers

    def create_buffer(
        self,
        name: str,
        data_spec: Mapping[str, Any],
        capacity: int,
        *,
        fps: float | None = None,
        durability: str = "interval",
        timeout: float | None = None,
    ) -> Buffer:
        """Creates a buffer, or returns the one that exists already with an equal spec.

        Args:
            name: 1 to 64 characters from [A-Za-z0-9._-], beginning with a letter or digit.
            data_spec: `{column: {"shape": (...), "dtype": ...}}`, without the preset columns.
            capacity: live frames kept at most; their disk space is reserved now.
            fps: frames per second; needed for windows in seconds.
            durability: what survives a power loss: "none" (what was there when the server was last
                stopped properly), "interval" (all but about the last second) or "commit" (every
                acknowledged episode). The death of the server alone loses nothing in any case.
            timeout: seconds, retries included; None for the client's own.

        Raises:
            InvalidRequestError: the name or the spec is not valid.
            AlreadyExistsError: the name is taken by another spec.
            LimitExceededError: too many buffers, or too little disk space.
        """
        check_name(name, "buffer name")
        spec = BufferSpec.from_data_spec(data_spec, capacity, fps, durability)
        request = replay_pb2.CreateBufferRequest(name=name, spec=spec_to_message(spec))
        patience = self._caller.patience(f"creating buffer {name!r}", timeout)
        response = self._caller.unary(
            patience, "CreateBuffer", request, replay_pb2.CreateBufferResponse
        )
        return self._handle(info_from_message(response.buffer))

    def buffer(self, name: str, *, timeout: float | None = None) -> Buffer:
        """Returns an existing buffer.

        Raises:
            NotFoundError: there is none of that name.
        """
        check_name(name, "buffer name")
        patience = self._caller.patience(f"looking for buffer {name!r}", timeout)
        return self._handle(info_from_message(self._caller.buffer_info(name, patience).buffer))

    def buffers(self, *, timeout: float | None = None) -> list[BufferInfo]:
        """Returns what is known of every buffer, ordered by name."""
        patience = self._caller.patience("listing buffers", timeout)
        infos: list[BufferInfo] = []
        request = replay_pb2.ListBuffersRequest()
        while True:
            page = self._caller.unary(
                patience, "ListBuffers", request, replay_pb2.ListBuffersResponse
            )
            infos += [info_from_message(message) for message in page.buffers]
            if not page.next_page_token:
                return infos
            request.page_token = page.next_page_token

    def delete_buffer(self, name: str, *, timeout: float | None = None) -> None:
        """Deletes a buffer and its files.

        Raises:
            NotFoundError: there is none of that name.
        """
        check_name(name, "buffer name")
        patience = self._caller.patience(f"deleting buffer {name!r}", timeout)
        request = replay_pb2.DeleteBufferRequest(name=name)
        try:
            self._caller.unary(patience, "DeleteBuffer", request, replay_pb2.DeleteBufferResponse)
        except NotFoundError:
            # An earlier attempt may have done it, and only its answer been lost.
            if patience.attempts == 1:
                raise

    # The server

    def status(self, *, timeout: float | None = None) -> ServerStatus:
        """Returns how the server is doing: counters of every buffer and method, limits, warnings.

        Frames that clients read from the server's files, on its machine, do not pass through it
        and are not counted.
        """
        patience = self._caller.patience("asking for the server's status", timeout)
        response = self._caller.unary(
            patience,
            "GetServerStatus",
            replay_pb2.GetServerStatusRequest(),
            replay_pb2.GetServerStatusResponse,
        )
        return status_from_message(response.status)

    # Parameters

    def publish(
        self, name: str, tensors: Mapping[str, Any], *, timeout: float | None = None
    ) -> int:
        """Publishes tensors under a name, in place of those before; returns their version.

        Args:
            name: as for buffers, whose names are apart.
            tensors: arrays or torch tensors by name, a `state_dict` say.
            timeout: seconds, retries included; None for the client's own.

        Raises:
            InvalidRequestError: the name is not valid, or a dtype cannot be sent.
            LimitExceededError: they are larger than the server allows.
        """
        check_name(name, "parameters' name")
        return parameters.publish(self._caller, name, tensors, timeout)

    def latest(self, name: str, *, after: int = 0, timeout: float | None = None) -> Parameters:
        """Returns the newest version, without waiting for one.

        Args:
            name: what it was published under.
            after: the version that is already known; 0 for none.
            timeout: seconds, retries included; None for the client's own.

        Raises:
            NotFoundError: there is none above `after`.
        """
        check_name(name, "parameters' name")
        patience = self._caller.patience(f"fetching {name!r}", timeout)
        known = whole(after, "after", 0, MAX_VERSION)
        return parameters.newest(self._caller, name, known, patience, wait=False)

    def watch(
        self, name: str, *, after: int = 0, timeout: float | None = None
    ) -> Iterator[Parameters]:
        """Yields the newest version, then again whenever there is a newer one, for ever.

        Slow iteration skips versions: it gets what is the newest when it asks. No version comes
        twice, and none that is older than one before. While the server is away it waits.

        Args:
            name: what to watch; it need not have been published yet.
            after: the version that is already known.
            timeout: seconds to wait for each version; None for no limit, here.

        Raises:
            DeadlineError, ServerUnavailableError: with a timeout, when it ran out. Try again.
            ClosedError: the client was closed, before or meanwhile.
        """
        check_name(name, "parameters' name")
        self._channel.check_open()
        known = whole(after, "after", 0, MAX_VERSION)
        each = math.inf if timeout is None else seconds(timeout)
        return parameters.watch(self._caller, name, known, each)

    def _handle(self, info: BufferInfo) -> Buffer:
        return Buffer(self, info.name, info.spec, place_of(self._same_host, info))
