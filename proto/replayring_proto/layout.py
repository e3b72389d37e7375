"""Where a buffer's bytes lie on disk: file names, sizes, record forms. Format version 2.

    <data_dir>/
      lock                    who serves this directory
      <buffer>/
        buffer.json           format version, id, spec, checksum; written last, so it marks a whole
                              buffer
        cursor                one page: `low`, `head`, `intent`; boot id; lineage; two durable slots
        episodes              ring of EPISODE_RECORD, by episode number
        writers               table of EPISODE_RECORD: the last episode of each writer
        columns/<key>         C-order array of shape (physical_rows, *shape)
        columns/_small        the same of records: all columns of few bytes, side by side

The column `_bounds` is ours: for each frame the `index` at which its episode begins and ends. It
makes every question about a frame's episode arithmetic on that frame's own row.

Samples are drawn from anywhere in the ring, so what a frame costs is how many places it lies in: a
cache miss each, a page fault the first time, a disk read if memory is short. Hence a frame's small
columns share one place, and only those that fill places of their own have a file of their own.

Any program may read a column with `numpy.memmap(path, dtype, "r", shape=(physical_rows, *shape))`,
and a small one with `numpy.memmap(path, small_record(spec), "r")[key]`; which rows are alive, and
when a row read is valid, is said in `ring.reader`.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from replayring_proto.errors import InvalidSpecError, StorageError
from replayring_proto.spec import DTYPES, BufferSpec, Column

FORMAT_VERSION = 2

LOCK = "lock"
META = "buffer.json"
CURSOR = "cursor"
EPISODES = "episodes"
WRITERS = "writers"
COLUMNS = "columns"
MANIFEST = "manifest.json"  # of a snapshot, which is no data directory
SMALL = "_small"  # no column's name, as it begins with "_"

SMALL_BYTES = 256
"""What a frame of a small column has at most; a larger one fills cache lines enough of its own."""

BOUNDS = Column("_bounds", DTYPES["int64"], (2,))
"""First `index` of a frame's episode, and the one after its last."""

PAGE = 4096
CURSOR_BYTES = PAGE
# One cache line each (64 bytes, in words of 8), so that readers polling one do not slow the others.
LOW_WORD, HEAD_WORD, INTENT_WORD = 0, 8, 16
BOOT_ID_OFFSET = 256
LINEAGE_OFFSET = 320
# In disk sectors of their own, so that writing one never harms the other.
SLOT_OFFSETS = (1024, 2048)

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

MIN_SLACK = 64
MAX_EPISODE_RECORDS = 1 << 16
MAX_WRITERS = 1 << 12

EPISODE_RECORD = np.dtype(
    [
        ("episode_index", "<i8"),
        ("index", "<i8"),
        ("num_frames", "<i8"),
        ("sequence", "<i8"),
        ("payload_hash", "V16"),
        ("writer_id", "S64"),
        ("checksum", "<u4"),
        ("reserved", "V12"),
    ]
)
"""One stored episode. `checksum` is the CRC-32 of the bytes before it."""


def physical_rows(capacity: int) -> int:
    """Returns the rows of each column file: the capacity, and slack of 1/16 but at least 64."""
    return capacity + max(MIN_SLACK, capacity // 16)


def episode_records(capacity: int) -> int:
    """Returns the length of the ring of episode records."""
    return min(physical_rows(capacity), MAX_EPISODE_RECORDS)


def writer_records(capacity: int) -> int:
    """Returns the length of the writers' table."""
    return min(physical_rows(capacity), MAX_WRITERS)


@dataclass(frozen=True)
class FrameFile:
    """A file that holds a frame after the other, each a record of one column or of several.

    Attributes:
        name: the file, below the buffer's directory.
        columns: its columns by name, in the order in which they lie in a record.
        offsets: at which byte of a record each begins.
        record_bytes: size of a record.
    """

    name: str
    columns: Mapping[str, Column]
    offsets: Mapping[str, int]
    record_bytes: int

    def view(self, content: npt.NDArray[np.uint8], key: str) -> npt.NDArray[Any]:
        """Returns one column of consecutive records, of shape (records, *shape); no copy."""
        column = self.columns[key]
        if len(self.columns) == 1:
            return content.view(column.dtype).reshape(-1, *column.shape)
        inner = np.empty((), np.dtype((column.dtype, column.shape))).strides
        return np.ndarray(
            (len(content) // self.record_bytes, *column.shape),
            column.dtype,
            content,
            self.offsets[key],
            (self.record_bytes, *inner),
        )


def stored_columns(spec: BufferSpec) -> dict[str, Column]:
    """Returns every column that is stored, by name."""
    return {**spec.by_name, BOUNDS.name: BOUNDS}


def small_record(spec: BufferSpec) -> np.dtype[Any]:
    """Returns the record of a frame's small columns, a field each; as C lays out a struct."""
    small = [c for c in stored_columns(spec).values() if c.frame_bytes <= SMALL_BYTES]
    small.sort(key=lambda column: (-column.dtype.alignment, column.name))  # no gaps but at the end
    return np.dtype([(c.name, c.dtype, c.shape) for c in small], align=True)


def frame_files(spec: BufferSpec) -> tuple[FrameFile, ...]:
    """Returns the files that hold frames, each column in one of them."""
    columns = stored_columns(spec)
    record = small_record(spec)
    names = record.names or ()
    fields: Mapping[str, Any] = record.fields or {}
    small = FrameFile(
        f"{COLUMNS}/{SMALL}",
        {key: columns.pop(key) for key in names},
        {key: int(fields[key][1]) for key in names},
        record.itemsize,
    )
    large = (
        FrameFile(f"{COLUMNS}/{key}", {key: column}, {key: 0}, column.frame_bytes)
        for key, column in columns.items()
    )
    return (small, *large)


def frame_file(spec: BufferSpec, key: str) -> FrameFile:
    """Returns the file that holds a stored column."""
    return next(file for file in frame_files(spec) if key in file.columns)


def file_sizes(spec: BufferSpec) -> dict[str, int]:
    """Returns the size of every file of reserved space, by path below the buffer's directory."""
    rows = physical_rows(spec.capacity)
    return {
        CURSOR: CURSOR_BYTES,
        EPISODES: episode_records(spec.capacity) * EPISODE_RECORD.itemsize,
        WRITERS: writer_records(spec.capacity) * EPISODE_RECORD.itemsize,
        **{file.name: rows * file.record_bytes for file in frame_files(spec)},
    }


def boot_id_of(cursor: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Returns the part of a cursor file that says since when the machine runs that serves it."""
    return cursor[BOOT_ID_OFFSET : BOOT_ID_OFFSET + 16]


def lineage_of(cursor: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Returns the part of a cursor file that changes when frames may have been lost.

    Their numbers are given to others. While it is the same, so is the frame of one `index`.
    """
    return cursor[LINEAGE_OFFSET : LINEAGE_OFFSET + 16]


def machine_boot_id() -> bytes:
    """Returns 16 bytes that change whenever the machine starts; containers share its."""
    return bytes.fromhex(_BOOT_ID.read_text().strip().replace("-", ""))


def encode_meta(buffer_id: str, spec: BufferSpec, restored_from: str | None = None) -> bytes:
    """Returns the content of buffer.json.

    Args:
        buffer_id: the buffer's identity.
        spec: what it holds.
        restored_from: the snapshot that the buffer was made of, if any.
    """
    document = meta_document(buffer_id, spec, restored_from)
    return json.dumps(document, indent=2).encode() + b"\n"


def meta_document(
    buffer_id: str, spec: BufferSpec, restored_from: str | None = None
) -> dict[str, Any]:
    """Returns what buffer.json says; see `encode_meta`."""
    columns = {c.name: {"dtype": c.dtype.name, "shape": list(c.shape)} for c in spec.columns}
    document: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "id": buffer_id,
        "capacity": spec.capacity,
        "fps": spec.fps,
        "durability": spec.durability,
        "columns": columns,
    }
    if restored_from is not None:
        document["restored_from"] = restored_from
    document["checksum"] = meta_checksum(document)
    return document


def meta_checksum(document: Mapping[str, Any]) -> int:
    """Returns the CRC-32 of what a document says, however it is spelled."""
    rest = {key: value for key, value in document.items() if key != "checksum"}
    return zlib.crc32(json.dumps(rest, sort_keys=True).encode())


def decode_meta(content: bytes, where: str) -> tuple[str, BufferSpec]:
    """Returns the buffer id and spec in the content of buffer.json.

    Raises:
        StorageError: the content is no such document, of another format version, or was changed.
    """
    return parse_meta(_meta(content, where), where)


def restored_from(content: bytes, where: str) -> str | None:
    """Returns the snapshot that a buffer was made of, by the content of its buffer.json.

    Raises:
        StorageError: as `decode_meta`.
    """
    found = _meta(content, where).get("restored_from")
    return None if found is None else str(found)


def parse_meta(document: Mapping[str, Any], where: str) -> tuple[str, BufferSpec]:
    """Returns the buffer id and spec in what buffer.json says.

    Raises:
        StorageError: it describes no valid buffer.
    """
    try:
        spec = BufferSpec.from_data_spec(
            document["columns"],
            document["capacity"],
            document["fps"],
            document["durability"],
        )
        return str(document["id"]), spec
    except (InvalidSpecError, ValueError, TypeError, KeyError) as error:
        raise StorageError(f"{where} describes no valid buffer: {error}") from None


def checked_document(content: bytes, where: str, kind: str, version: int) -> dict[str, Any]:
    """Returns the JSON object in `content`, if it is whole and of this format version.

    Args:
        content: the document, with "format" and "checksum".
        where: the file, for messages.
        kind: what it should be, for messages.
        version: the only one that can be read.

    Raises:
        StorageError: it is not.
    """
    try:
        document: Any = json.loads(content)
        found = document["format"]
        intact = document.get("checksum") == meta_checksum(document)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise StorageError(f"{where} is not a replayring {kind}") from None
    if found != version:
        raise StorageError(
            f"{where} has format version {found!r}; this replayring reads {version}. "
            "Open it with the version that wrote it"
        )
    if not intact:
        raise StorageError(
            f"{where} is not what was written there: its checksum does not match. A {kind} cannot "
            "be edited; restore the file"
        )
    return dict(document)


def _meta(content: bytes, where: str) -> dict[str, Any]:
    return checked_document(content, where, "buffer description", FORMAT_VERSION)
