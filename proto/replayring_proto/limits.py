"""Every limit of the protocol and the server, with its default, in one place.

Each is checked before memory is taken, and the error that answers names the value received, the
limit and the remedy.
"""

from __future__ import annotations

from dataclasses import dataclass

from replayring_proto.errors import LimitExceededError

CHUNK_BYTES = 1 << 20
"""Payload bytes of one message: large enough to be cheap, small enough for fair scheduling."""

MAX_MESSAGE_BYTES = 4 << 20
"""gRPC's own default limit of one message, never lifted."""

MAX_MESSAGE_FIELDS = 64
"""Top-level fields of one message that carries a pack; they are scanned in Python."""

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


MIN_TOKEN_LENGTH = 32
"""Characters of a token: 128 bits, if they are hexadecimal and random."""

MAX_TOKEN_LENGTH = 1024
"""Characters of a token; the metadata of a request has 8 KiB for everything."""

MAX_TOKENS = 1024
"""Tokens of one server; each call is compared with every one of them."""

HANDSHAKE_SECONDS = 10
"""Until when a new connection must have finished its handshakes, or it is closed."""

IDLE_CONNECTION_SECONDS = 3_600
"""After which a connection without calls is closed; clients open another when they need it."""


@dataclass(frozen=True, kw_only=True)
class ServerLimits:
    """Limits that a server's owner may change.

    Attributes:
        max_buffers: buffers in one data directory.
        max_parameter_sets: names under which parameters are published.
        max_batch_size: frames in one batch or one GetItem.
        max_window_entries: frames in one batch or one GetItem times the longest window's offsets;
            resolving windows takes about 100 bytes for each.
        max_reply_bytes: bytes of one reply's pack, ReadColumn excepted.
        max_column_bytes: bytes of one ReadColumn reply's pack.
        max_episode_bytes: bytes of one episode's pack.
        max_parameters_bytes: bytes of one published set of parameters.
        max_batches_in_flight: batches that one SampleBatch call may have asked for and not got.
        max_connections: connections; one beyond it is closed at once. Never more than half of the
            descriptors that the system allows.
        max_streams_per_connection: calls in flight on one connection; more wait in their client.
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
    max_connections: int = 4096
    max_streams_per_connection: int = 1024


def check_limit(received: int, limit: int, what: str, remedy: str) -> None:
    """Raises `LimitExceededError` when `received` is above `limit`."""
    if received > limit:
        raise LimitExceededError(f"{what}: received {received:,}, the limit is {limit:,}; {remedy}")
