"""The ring's read side: which frames live, where they lie, and how a batch of them is gathered.

Shared by the server's engine and by clients on the same machine, which map the same files. Nothing
here writes to a ring; the write side is the engine's.
"""

from replayring_proto.ring.columns import FrameColumns
from replayring_proto.ring.counters import Counters
from replayring_proto.ring.eligible import EligibleCount
from replayring_proto.ring.live import Live
from replayring_proto.ring.mapped import MappedRing
from replayring_proto.ring.plan import Plan
from replayring_proto.ring.reader import MakingRoom, RingReader
from replayring_proto.ring.uniform import NothingEligible, UniformSampler

__all__ = [
    "Counters",
    "EligibleCount",
    "FrameColumns",
    "Live",
    "MakingRoom",
    "MappedRing",
    "NothingEligible",
    "Plan",
    "RingReader",
    "UniformSampler",
]
