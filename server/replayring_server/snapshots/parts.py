"""Parts: ranges of frames as one run of bytes each, and the names that say what they hold.

A part is the body of a pack of every stored column, so that each column of it is one aligned run.
Parts begin and end at multiples of a number of frames that follows from the spec alone; only the
oldest may begin, and only the newest may end, in between.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import xxhash

from replayring_proto.layout import stored_columns
from replayring_proto.pack import Pack, PackLayout, TensorSpec
from replayring_proto.spec import BufferSpec

PART_BYTES = 32 << 20
"""About the size of a part: large enough to be cheap in an object store, small enough to be copied
before writers overwrite it, and to be copied again where the newest part grew."""

TAIL_BYTES = 1 << 20
TAIL_FRAMES = 64
"""A part is recognised by its last frames: about so many bytes of them, at most so many."""

_NAME = re.compile(r"(\d{12,})-(\d{12,})-([0-9a-f]{16})-([0-9a-f]{32})")


@dataclass(frozen=True)
class Part:
    """The frames with `index` in [first, end).

    Attributes:
        first: `index` of its first frame.
        end: `index` after its last one.
        tail: hash of its last frames, of which there are `tail_frames`, and of the lineage of those
            that were not durable.
        checksum: of its bytes.
    """

    first: int
    end: int
    tail: str
    checksum: str

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"{self.first:012d}-{self.end:012d}-{self.tail}-{self.checksum}"

    @classmethod
    def parse(cls, name: str) -> Part | None:
        """Returns the part of that name, or None if it is no part's."""
        match = _NAME.fullmatch(name)
        return cls(int(match[1]), int(match[2]), match[3], match[4]) if match else None

    def nbytes(self, spec: BufferSpec) -> int:
        """Returns its size in bytes."""
        return part_layout(spec, self.end - self.first).nbytes


def part_layout(spec: BufferSpec, frames: int) -> PackLayout:
    """Returns where each column lies in a part of so many frames."""
    return PackLayout(
        TensorSpec(column.name, column.dtype, (frames, *column.shape))
        for column in stored_columns(spec).values()
    )


def frames_per_part(spec: BufferSpec) -> int:
    """Returns how many frames a whole part has: about `PART_BYTES` of them, and at least one."""
    return max(1, PART_BYTES // _frame_bytes(spec))


def tail_frames(spec: BufferSpec, frames: int) -> int:
    """Returns how many of the frames of a part are its tail."""
    return max(1, min(TAIL_FRAMES, TAIL_BYTES // _frame_bytes(spec), frames))


def ranges(spec: BufferSpec, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yields the ranges of `index` from `start` to `end` that are a part each, the oldest first."""
    step = frames_per_part(spec)
    while start < end:
        stop = min((start // step + 1) * step, end)
        yield start, stop
        start = stop


def checksum_of(content: bytes | memoryview) -> str:
    """Returns the hash of a file's content by which it is named: XXH3-128, in hexadecimal."""
    return xxhash.xxh3_128_hexdigest(content)


def tail_of(pack: Pack, lineage: bytes = b"") -> str:
    """Returns the hash of a part's last frames: XXH3-64, in hexadecimal.

    Args:
        pack: the frames.
        lineage: the buffer's, unless all of the part is durable.
    """
    tail = xxhash.xxh3_64(pack.body.data)
    tail.update(lineage)
    return tail.hexdigest()


def _frame_bytes(spec: BufferSpec) -> int:
    return sum(column.frame_bytes for column in stored_columns(spec).values())
