"""The manifest: all that belongs to a snapshot, in one JSON document with a checksum.

Owns its form and its checks. What it says is trusted only when it fits together as a whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

from replayring_proto import layout
from replayring_proto.errors import StorageError
from replayring_proto.spec import BufferSpec, is_name
from replayring_server.engine import files
from replayring_server.snapshots.parts import Part, checksum_of

FORMAT_VERSION = 1

_MOST = 1 << 62
"""Beyond what any buffer will ever hold, and far enough from what 8 bytes do."""

# Clients may ask for versions up to 2^62; those that follow are counted from there.
_LAST_VERSION = (1 << 63) - 1

BUFFERS = "buffers"
PARAMETERS = "parameters"

_RECORDS = re.compile(r"records-[0-9a-f]{32}")
_PARAMETERS = re.compile(r".+-\d+-[0-9a-f]{32}")


@dataclass(frozen=True)
class RecordsFile:
    """The file of records: first the log's, by episode, then the last one of each writer."""

    log: int
    writers: int
    checksum: str

    @classmethod
    def parse(cls, log: Any, writers: Any, checksum: Any) -> RecordsFile:
        """Reads what stands in a manifest.

        Raises:
            ValueError: it makes no sense.
        """
        return cls(_count(log), _count(writers), _checksum(checksum))

    @property
    def name(self) -> str:
        """The name of the file."""
        return f"records-{self.checksum}"

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return (self.log + self.writers) * layout.EPISODE_RECORD.itemsize


@dataclass(frozen=True)
class BufferEntry:
    """One buffer's cut, and the files that hold it.

    Attributes:
        buffer_id: of the buffer that was copied.
        spec: what it holds.
        oldest: `index` of the oldest frame; the first part may begin before it.
        head: `index` that the next frame gets.
        episodes: number that the next episode gets.
        parts: the frames, in order and without gaps.
        records: who stored which episode.
    """

    buffer_id: str
    spec: BufferSpec
    oldest: int
    head: int
    episodes: int
    parts: tuple[Part, ...]
    records: RecordsFile

    @property
    def folder(self) -> str:
        """Where its files lie."""
        return f"{BUFFERS}/{self.buffer_id}"

    def files(self) -> Iterator[tuple[str, int]]:
        """Yields name and size of each of its files."""
        for part in self.parts:
            yield f"{self.folder}/{part.name}", part.nbytes(self.spec)
        yield f"{self.folder}/{self.records.name}", self.records.nbytes

    @property
    def nbytes(self) -> int:
        """Bytes of all its files."""
        return sum(size for _, size in self.files())

    @cached_property
    def identity(self) -> str:
        """What tells this cut from every other, of this buffer or another."""
        return checksum_of(json.dumps(self.as_json(), sort_keys=True).encode())

    def as_json(self) -> dict[str, Any]:
        """Returns it as it stands in the manifest."""
        return {
            "buffer": layout.meta_document(self.buffer_id, self.spec),
            "oldest_index": self.oldest,
            "next_index": self.head,
            "next_episode_index": self.episodes,
            "parts": [part.name for part in self.parts],
            "records": [self.records.log, self.records.writers, self.records.checksum],
        }

    @classmethod
    def parse(cls, document: Mapping[str, Any], where: str) -> BufferEntry:
        """Reads what `as_json` returned, of a manifest whose checksum is right."""
        buffer_id, spec = layout.parse_meta(document["buffer"], where)
        parts = tuple(_part(name) for name in document["parts"])
        entry = cls(
            buffer_id=buffer_id,
            spec=spec,
            oldest=_count(document["oldest_index"]),
            head=_count(document["next_index"]),
            episodes=_count(document["next_episode_index"]),
            parts=parts,
            records=RecordsFile.parse(*document["records"]),
        )
        entry._check()
        return entry

    def _check(self) -> None:
        """Checks that the parts cover the frames, and the ring can hold these."""
        first = self.parts[0].first if self.parts else self.head
        end = self.parts[-1].end if self.parts else self.oldest
        together = all(one.end == other.first for one, other in pairwise(self.parts))
        if not (
            is_name(self.buffer_id)
            and together
            and 0 <= first <= self.oldest <= self.head == max(end, first)
            and self.head - self.oldest <= self.spec.capacity
            and all(part.first < part.end for part in self.parts)
        ):
            raise ValueError("its frames do not fit together")


@dataclass(frozen=True)
class ParametersEntry:
    """One name's published parameters, in a file of so many bytes."""

    version: int
    nbytes: int
    checksum: str

    @classmethod
    def parse(cls, version: Any, nbytes: Any, checksum: Any) -> ParametersEntry:
        """Reads what stands in a manifest.

        Raises:
            ValueError: it makes no sense.
        """
        return cls(_count(version, _LAST_VERSION), _count(nbytes), _checksum(checksum))

    def path(self, name: str) -> str:
        """Returns where the file lies."""
        return f"{PARAMETERS}/{name}-{self.version}-{self.checksum}"


@dataclass(frozen=True)
class Manifest:
    """All that belongs to a snapshot: buffers and parameters, by name."""

    buffers: Mapping[str, BufferEntry] = field(default_factory=dict)
    parameters: Mapping[str, ParametersEntry] = field(default_factory=dict)

    def files(self) -> Iterator[tuple[str, int]]:
        """Yields name and size of every file that belongs to it."""
        for entry in self.buffers.values():
            yield from entry.files()
        for name, parameters in self.parameters.items():
            yield parameters.path(name), parameters.nbytes

    def encode(self) -> bytes:
        """Returns the document."""
        document: dict[str, Any] = {
            "format": FORMAT_VERSION,
            "buffers": {name: entry.as_json() for name, entry in self.buffers.items()},
            "parameters": {
                name: [one.version, one.nbytes, one.checksum]
                for name, one in self.parameters.items()
            },
        }
        document["checksum"] = layout.meta_checksum(document)
        return json.dumps(document, indent=1).encode() + b"\n"

    @classmethod
    def decode(cls, content: bytes, where: str) -> Manifest:
        """Reads the document at `where`.

        Raises:
            StorageError: it is none, of another format version, was changed, or says nonsense.
        """
        document = layout.checked_document(content, where, "manifest of a snapshot", FORMAT_VERSION)
        try:
            buffers, parameters = document["buffers"], document["parameters"]
            if not all(map(is_name, (*buffers, *parameters))):
                raise ValueError("it has names that are none")
            return cls(
                {name: BufferEntry.parse(entry, where) for name, entry in buffers.items()},
                {name: ParametersEntry.parse(*entry) for name, entry in parameters.items()},
            )
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise StorageError(
                f"{where} describes no valid snapshot ({error}); restore another one"
            ) from None


def is_file_of(folder: str, name: str) -> bool:
    """Whether a snapshot gives such a name to a file in such a folder, be it whole or half."""
    if half := files.HALF.fullmatch(name):
        name = half[1]
    if folder == PARAMETERS:
        return _PARAMETERS.fullmatch(name) is not None
    return Part.parse(name) is not None or _RECORDS.fullmatch(name) is not None


def _count(value: Any, most: int = _MOST) -> int:
    """Returns a number of frames, episodes, records or bytes, or a version."""
    number = int(value)
    if not 0 <= number <= most:
        raise ValueError(f"{number} is no number of anything")
    return number


def _checksum(value: Any) -> str:
    """Returns a checksum, which is part of a file's name."""
    if not is_name(value):
        raise ValueError(f"{value!r:.60} is no checksum")
    return str(value)


def _part(name: str) -> Part:
    part = Part.parse(name)
    if part is None:
        raise ValueError(f"{name!r:.60} is no part")
    return part
