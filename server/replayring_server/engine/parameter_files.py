"""The files of published parameters: how they are written, read and checked.

One file per name, replaced whole:

    8 bytes   magic
    8         version, little-endian
    8         length of the encoded PackHeader
    8         length of the body
    4         CRC-32 of the name and of all the rest of the file
    ...       header, body

A file is read only where it has the size that it says, and the body a piece at a time, so that what
another program made of it takes no memory.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from replayring_proto.errors import LimitExceededError, MalformedMessageError, StorageError
from replayring_proto.limits import CHUNK_BYTES, MAX_HEADER_BYTES
from replayring_proto.pack import Pack, PackAssembler, PackLayout, parse_header
from replayring_server.engine import files

_MAGIC = b"RRPARAM\x01"
_PREFIX = struct.Struct("<8sQQQ")
_CHECKSUM = struct.Struct("<I")


@dataclass(frozen=True)
class ParameterSet:
    """One version of the parameters of one name. The pack must not be changed."""

    version: int
    pack: Pack


@dataclass(frozen=True)
class Outline:
    """What a file holds, without the tensors themselves; `disk_bytes` is its size."""

    version: int
    layout: PackLayout
    disk_bytes: int


def encode(name: str, version: int, pack: Pack) -> list[bytes | memoryview]:
    """Returns the content of a file, in parts."""
    header, body = pack.layout.header(), pack.body.data
    prefix = _PREFIX.pack(_MAGIC, version, len(header), len(body))
    checksum = _start(name)
    for part in (prefix, header, body):
        checksum = zlib.crc32(part, checksum)
    return [prefix, _CHECKSUM.pack(checksum), header, body]


def decode(name: str, encoded: bytes, where: str) -> ParameterSet:
    """Returns the parameters in the content of a file.

    Args:
        name: under which they were published.
        encoded: the content.
        where: the file, for messages.

    Raises:
        StorageError: it is damaged, or is not what was published under that name.
    """
    with _damage_named(where):
        return _Content(name, io.BytesIO(encoded), len(encoded)).whole()


def load(path: Path, max_bytes: int) -> ParameterSet:
    """Returns the parameters in a file.

    Args:
        path: the file, of which the name is theirs.
        max_bytes: of their tensors.

    Raises:
        StorageError: it is damaged, or is not what was published under its name, or has more.
    """
    with _opened(path) as content:
        if content.layout.nbytes > max_bytes:
            raise StorageError(
                f"{path} holds {content.layout.nbytes:,} bytes of parameters, the limit is "
                f"{max_bytes:,}; raise max_parameters_bytes, or remove it"
            )
        return content.whole()


def outline(path: Path) -> Outline:
    """Returns what a file holds, of which everything is checked and nothing kept.

    Raises:
        StorageError: it is damaged, or is not what was published under its name.
    """
    with _opened(path) as content:
        for _ in content.pieces():
            pass
        return Outline(content.version, content.layout, content.size)


def content_of(path: Path) -> bytes:
    """Returns a file as it is. Whether it is damaged, `decode` says.

    Raises:
        StorageError: it cannot be read, or has another size than it says.
    """
    with _opened(path) as content:
        return content.encoded()


class _Content:
    """A file's content, read as far as the body when it is made, and checked when the body ends.

    Raises:
        MalformedMessageError, LimitExceededError: it is damaged.
    """

    def __init__(self, name: str, file: BinaryIO, size: int) -> None:
        self._name = name
        self._file = file
        self.size = size
        self._prefix, checksum = file.read(_PREFIX.size), file.read(_CHECKSUM.size)
        if len(checksum) < _CHECKSUM.size:
            raise MalformedMessageError("it is cut short")
        magic, self.version, header_bytes, body_bytes = _PREFIX.unpack(self._prefix)
        (self._checksum,) = _CHECKSUM.unpack(checksum)
        rest = size - _PREFIX.size - _CHECKSUM.size
        if magic != _MAGIC or header_bytes > MAX_HEADER_BYTES or header_bytes + body_bytes != rest:
            raise MalformedMessageError("its beginning does not fit its size")
        self._header = file.read(header_bytes)
        self.layout = parse_header(self._header)
        if self.layout.nbytes != body_bytes:
            raise MalformedMessageError("its header announces another size")

    def pieces(self) -> Iterator[bytes]:
        """Yields the body. When it ends, the checksum must be right."""
        checksum = zlib.crc32(self._header, zlib.crc32(self._prefix, _start(self._name)))
        while piece := self._file.read(CHUNK_BYTES):
            checksum = zlib.crc32(piece, checksum)
            yield piece
        if checksum != self._checksum:
            raise MalformedMessageError("the checksum does not match")

    def whole(self) -> ParameterSet:
        """Returns all of it."""
        assembler = PackAssembler(self.layout)
        for piece in self.pieces():
            assembler.add(piece)
        return ParameterSet(self.version, assembler.pack)

    def encoded(self) -> bytes:
        """Returns all of it as it is, unchecked."""
        self._file.seek(0)
        return self._file.read(self.size)


def _start(name: str) -> int:
    """Begins a checksum, with the name, so that one file put in another's place is noticed."""
    return zlib.crc32(name.encode(errors="surrogateescape"))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[_Content]:
    fd = files.open_file(path, os.O_RDONLY)
    with os.fdopen(fd, "rb") as file, _damage_named(str(path)):
        yield _Content(path.name, file, os.fstat(fd).st_size)


@contextlib.contextmanager
def _damage_named(where: str) -> Iterator[None]:
    """Says of which file something is wrong, and the remedy."""
    try:
        yield
    except (MalformedMessageError, LimitExceededError) as error:
        raise StorageError(
            f"{where} is damaged ({error}); remove it, and publish the parameters again"
        ) from None
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"cannot read {where}: {error.strerror}; check the disk") from None
