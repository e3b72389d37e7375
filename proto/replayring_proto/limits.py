"""Every limit of the protocol and the server, with its default, in one place.

Each is checked before memory is taken, and the error that answers names the value received, the
limit and the remedy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from replayring_proto.errors import InvalidRequestError, LimitExceededError

CHUNK_BYTES = 2 << 20
"""Payload bytes of one message: half as many carry camera frames a fifth faster than messages of
half the size do, and a header of `MAX_HEADER_BYTES` still fits beside them."""

TOGETHER_BYTES = 1 << 20
"""What is small travels together up to about so much, episodes in a message and batches in a pack;
and what is not larger never waits for staging."""

MAX_MESSAGE_BYTES = 4 << 20
"""gRPC's own default limit of one message, never lifted."""

MAX_MESSAGE_FIELDS = 64
"""Top-level fields of one message that carries a pack; they are scanned in Python."""

MAX_EPISODES_PER_MESSAGE = 32
"""Small episodes that share one message; with some more of them it would have too many fields."""

MAX_HEADER_BYTES = 1 << 20
"""Encoded size of one pack header."""

MAX_TENSORS = 4096
"""Tensors in one pack."""

MAX_AXES = 32
"""Axes of one tensor."""

MAX_TENSOR_NAME = 256
"""Characters of a tensor's name."""

MAX_COLUMNS = 256
"""Declared columns of one buffer."""

MAX_VIEW_KEYS = 512
"""Columns that one request names, and windows that it asks for: every column there can be."""

MAX_COLUMN_NAME = 128
"""Characters of a column's name; it becomes a file name."""

MAX_NAME = 64
"""Characters of a buffer's, a writer's or a parameter set's name."""

MAX_WINDOW_OFFSETS = 4096
"""Offsets of one window."""

MAX_CAPACITY = 1 << 40
"""Frames of one buffer. Far below 2^63, so that no sum of two indices overflows int64."""

MAX_PAGE_SIZE = 256
"""Buffers in one page of ListBuffers."""

PAGE_BYTES = 1 << 20
"""Bytes after which a page of ListBuffers ends, so that one message holds it."""

MAX_STATUS_ENTRIES = 1000
"""Buffers, and sets of parameters, in one answer to GetServerStatus."""

MAX_STATUS_WRITERS = 20
"""Writers of one buffer there."""

MIN_TOKEN_LENGTH = 32
"""Characters of a token: 128 bits, if they are hexadecimal and random."""

MAX_TOKEN_LENGTH = 1024
"""Characters of a token; the metadata of a request has 8 KiB for everything."""

MAX_TOKENS = 1024
"""Tokens of one server; each call is compared with every one of them."""

MAX_GRPC_NUMBER = (1 << 31) - 1
"""The largest number that gRPC takes as an option; it keeps them as C's int."""

MAX_COUNT = (1 << 63) - 1
"""The largest that any other limit may be: the server tells what it is in 64 bits."""

MIN_SECONDS, MAX_SECONDS = 0.001, 1_000_000_000
"""What a limit in seconds may be: not less than a clock's tick, and at most about 30 years."""

HANDSHAKE_SECONDS = 10
"""Until when a new connection must have finished its handshakes, or it is closed."""

IDLE_CONNECTION_SECONDS = 3_600
"""After which a connection without calls is closed; clients open another when they need it."""


_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("max_connections", "max_streams_per_connection"), (1, MAX_GRPC_NUMBER)),
    **dict.fromkeys(
        ("stall_timeout_s", "stall_patience_s", "unary_timeout_s"), (MIN_SECONDS, MAX_SECONDS)
    ),
}
"""What limits may be, where it is not from 1 to `MAX_COUNT`."""


@dataclass(frozen=True, kw_only=True)
class ServerLimits:
    """Limits that a server's owner may change.

    Memory that peers can make a server hold is, at most, `max_staging_bytes` for what comes in,
    `max_sending_bytes` for what goes out, a few messages of at most 4 MiB for each of `max_calls`,
    8 bytes per live episode for each of them that counts what is eligible beside
    `drop_n_last_frames`, and the published parameters.

    Attributes:
        max_buffers: buffers in one data directory.
        max_parameter_sets: names under which parameters are published.
        max_batch_size: frames in one batch or one GetItem.
        max_window_entries: frames in one batch or one GetItem times the longest window's offsets;
            resolving windows takes about 20 bytes for each, and where they are in seconds the time
            to move 100.
        max_reply_bytes: bytes of one reply's pack, ReadColumn excepted.
        max_column_bytes: bytes of one ReadColumn reply's pack.
        max_episode_bytes: bytes of one episode's pack.
        max_parameters_bytes: bytes of one published set of parameters.
        max_batches_in_flight: batches that one SampleBatch call may have asked for and not got.
        max_staging_bytes: bytes of all packs that are being received and stored. A sender beyond it
            is not refused: nothing of its call is read until there is room, in order of arrival.
            Packs of 1 MiB or less are not counted and never wait. At least `max_episode_bytes`
            and `max_parameters_bytes`.
        max_sending_bytes: bytes of all packs that are being gathered and sent; a request beyond it
            waits likewise. At least `max_reply_bytes`.
        max_calls: calls in flight, health checks excepted.
        max_watchers: WatchParameters calls with `follow` in flight.
        max_connections: connections open at once, at most half of the process's descriptors
            whatever this says; one beyond it is closed, and its client tries again.
        max_streams_per_connection: calls in flight on one connection; more wait in their client.
        stall_timeout_s: seconds that a peer may hold up a call: sending nothing of a first request
            or of a pack that it began, or taking nothing of a reply. Then the call ends with
            UNAVAILABLE, and an honest client tries again. Between packs a stream may rest for ever.
        stall_patience_s: the same while others wait for the memory that the call holds, or, in
            WatchParameters, once there is a newer version.
        unary_timeout_s: seconds that a call of one request and one reply may take, whatever
            deadline it has or has not.
    """

    max_buffers: int = 256
    max_parameter_sets: int = 256
    max_batch_size: int = 65_536
    max_window_entries: int = 1 << 22
    max_reply_bytes: int = 256 << 20
    max_column_bytes: int = 16 << 30
    max_episode_bytes: int = 1 << 30
    max_parameters_bytes: int = 1 << 30
    max_batches_in_flight: int = 1024
    max_staging_bytes: int = 2 << 30
    max_sending_bytes: int = 2 << 30
    max_calls: int = 4096
    max_watchers: int = 1024
    max_connections: int = 4096
    max_streams_per_connection: int = 1024
    stall_timeout_s: float = 60.0
    stall_patience_s: float = 2.0
    unary_timeout_s: float = 300.0

    def __post_init__(self) -> None:
        """Checks that each makes sense by itself and beside the others.

        Raises:
            InvalidRequestError: one does not.
        """
        for name, value in vars(self).items():
            if not 0 < value < math.inf:
                raise InvalidRequestError(f"{name} is {value}; it must be above zero, and finite")
            low, high = _RANGES.get(name, (1, MAX_COUNT))
            if not low <= value <= high:
                raise InvalidRequestError(
                    f"{name} is {value:,}; it must be from {low:,} to {high:,}"
                )
        self._check_not_above("max_staging_bytes", "max_episode_bytes")
        self._check_not_above("max_staging_bytes", "max_parameters_bytes")
        self._check_not_above("max_sending_bytes", "max_reply_bytes")
        self._check_not_above("stall_timeout_s", "stall_patience_s")

    def _check_not_above(self, whole: str, part: str) -> None:
        most, one = getattr(self, whole), getattr(self, part)
        if one > most:
            raise InvalidRequestError(
                f"{whole} is {most:,}, below {part}, which is {one:,}; raise {whole}, or lower "
                f"{part}"
            )


def check_limit(received: int, limit: int, what: str, remedy: str, name: str = "") -> None:
    """Raises `LimitExceededError` when `received` is above `limit`.

    Args:
        received: how much it is.
        limit: how much it may be.
        what: what is counted.
        remedy: what the caller can do.
        name: of the limit, where it is one of `ServerLimits`, which the server's owner may raise.
    """
    if received > limit:
        raised = f", or raise the server's {name}" if name else ""
        raise LimitExceededError(
            f"{what}: received {received:,}, the limit is {limit:,}; {remedy}{raised}"
        )
