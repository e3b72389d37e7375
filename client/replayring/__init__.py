"""replayring: an experience replay buffer on a server that looks like a local one.

    client = replayring.connect("127.0.0.1:50051")
    buffer = client.create_buffer("online", {"observation": {...}}, capacity=100_000, fps=30)

Importing this needs no torch. The datasets do, and are imported when they are first named.
"""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from replayring._adding import Acknowledgement
from replayring._streams import SampleStream
from replayring.buffer import Buffer
from replayring.client import Client
from replayring.connecting import connect
from replayring.parameters import Parameters
from replayring.sharded import (
    ShardedBuffer,
    ShardedBufferInfo,
    ShardedClient,
    ShardedServerStatus,
    shard_of,
)
from replayring.surface import ReplayBuffer, ReplayClient
from replayring.writer import Writer
from replayring_proto.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    ClosedError,
    DeadlineError,
    DirectoryLockedError,
    DiskSpaceError,
    FrameNotFoundError,
    InvalidEpisodeError,
    InvalidRequestError,
    InvalidSpecError,
    LimitExceededError,
    MalformedMessageError,
    NotFoundError,
    OvertakenError,
    ReplayRingError,
    SequenceReusedError,
    ServerError,
    ServerUnavailableError,
    StorageError,
    TLSError,
    ToleranceError,
    UnauthenticatedError,
)
from replayring_proto.messages import BufferInfo
from replayring_proto.server_status import ServerStatus
from replayring_proto.tls import TLS

if TYPE_CHECKING:
    from replayring.batches import BatchDataset
    from replayring.collation import collate
    from replayring.concat import ConcatDataset
    from replayring.dataset import RemoteDataset
    from replayring.weighted_sampler import WeightedSampler
    from replayring.weights import compute_sampler_weights

__all__ = [
    "TLS",
    "AccessDeniedError",
    "Acknowledgement",
    "AlreadyExistsError",
    "BatchDataset",
    "Buffer",
    "BufferInfo",
    "Client",
    "ClosedError",
    "ConcatDataset",
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
    "Parameters",
    "RemoteDataset",
    "ReplayBuffer",
    "ReplayClient",
    "ReplayRingError",
    "SampleStream",
    "SequenceReusedError",
    "ServerError",
    "ServerStatus",
    "ServerUnavailableError",
    "ShardedBuffer",
    "ShardedBufferInfo",
    "ShardedClient",
    "ShardedServerStatus",
    "StorageError",
    "TLSError",
    "ToleranceError",
    "UnauthenticatedError",
    "WeightedSampler",
    "Writer",
    "__version__",
    "collate",
    "compute_sampler_weights",
    "connect",
    "shard_of",
]

# Names that need torch, and the modules that have them.
_TORCH = {
    "BatchDataset": "batches",
    "ConcatDataset": "concat",
    "RemoteDataset": "dataset",
    "WeightedSampler": "weighted_sampler",
    "collate": "collation",
    "compute_sampler_weights": "weights",
}

# `import *` gets every name here, so without torch these are not among them. In place: what type
# checkers read above is all that there can be. Some programs put a stand-in there, without a spec.
if sys.modules.get("torch") is None and find_spec("torch") is None:
    __all__[:] = [name for name in __all__ if name not in _TORCH]

try:
    __version__ = version("replayring")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    if name not in _TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(f"{__name__}.{_TORCH[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "torch":
            raise
        raise ImportError(
            f"replayring.{name} needs torch, which is not installed: "
            'pip install "replayring[torch]"',
            name="torch",
        ) from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    # Completion shows what is meant to be used, and not what this module is made of. `sharded` is
    # where the docstrings of what is listed send their readers.
    return sorted(
        {*__all__, *_TORCH, "sharded", *(name for name in globals() if name.startswith("__"))}
    )
