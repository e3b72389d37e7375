"""Published parameters: the newest tensors of each name, in memory and on disk.

The way back from learner to actors. One file per name, replaced whole:

    8 bytes   magic
    8         version, little-endian
    8         length of the encoded PackHeader
    8         length of the body
    4         CRC-32 of the header and the body
    ...       header, body
"""

from __future__ import annotations

import struct
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path

from replayring_proto.errors import (
    LimitExceededError,
    MalformedMessageError,
    NotFoundError,
    StorageError,
)
from replayring_proto.limits import check_limit
from replayring_proto.pack import Pack, PackAssembler, parse_header
from replayring_proto.spec import check_name
from replayring_server.engine import files

FOLDER = ".parameters"

_MAGIC = b"RRPARAM\x01"
_PREFIX = struct.Struct("<8sQQQI")


@dataclass(frozen=True)
class ParameterSet:
    """One version of the parameters of one name. The pack must not be changed."""

    version: int
    pack: Pack


class Parameters:
    """All published parameters of a data directory. Thread-safe; holds no open files."""

    def __init__(self, data_dir: Path, max_sets: int) -> None:
        """Loads what was published before.

        Raises:
            StorageError: a file is damaged.
        """
        self._folder = data_dir / FOLDER
        self._folder.mkdir(mode=files.FOLDER_MODE, exist_ok=True)
        self._max_sets = max_sets
        self._publishing = threading.Lock()
        self._sets = {
            path.name: _load(path)
            for path in sorted(self._folder.iterdir())
            if not path.name.startswith(".")
        }

    def get(self, name: str) -> ParameterSet:
        """Returns the newest version.

        Raises:
            NotFoundError: nothing was published under that name.
        """
        try:
            return self._sets[name]
        except KeyError:
            raise NotFoundError(
                f"no parameters named {name!r} were published; there are "
                f"{', '.join(sorted(self._sets)) or 'none'}"
            ) from None

    def publish(self, name: str, pack: Pack) -> int:
        """Makes `pack` the newest version, on disk first, and returns its number.

        Raises:
            InvalidRequestError: the name is not valid.
            LimitExceededError: too many names.
        """
        check_name(name, "parameters' name")
        with self._publishing:
            previous = self._sets.get(name)
            if previous is None:
                check_limit(
                    len(self._sets) + 1, self._max_sets, "names of parameters", "reuse a name"
                )
            version = previous.version + 1 if previous else 1
            files.write_whole(self._folder / name, _encode(version, pack))
            self._sets[name] = ParameterSet(version, pack)
            return version


def _encode(version: int, pack: Pack) -> list[bytes | memoryview]:
    header, body = pack.layout.header(), pack.body.data
    checksum = zlib.crc32(body, zlib.crc32(header))
    return [_PREFIX.pack(_MAGIC, version, len(header), len(body), checksum), header, body]


def _load(path: Path) -> ParameterSet:
    content = files.read_whole(path)
    try:
        magic, version, header_bytes, body_bytes, checksum = _PREFIX.unpack_from(content)
        header_end = _PREFIX.size + header_bytes
        header, body = content[_PREFIX.size : header_end], memoryview(content)[header_end:]
        if (
            magic != _MAGIC
            or len(body) != body_bytes
            or zlib.crc32(body, zlib.crc32(header)) != checksum
        ):
            raise MalformedMessageError("the checksum does not match")
        assembler = PackAssembler(parse_header(header))
        assembler.add(body)
        if not assembler.complete:
            raise MalformedMessageError("the body is shorter than its header announces")
    except (struct.error, MalformedMessageError, LimitExceededError) as error:
        raise StorageError(
            f"{path} is damaged ({error}); remove it, and publish the parameters again"
        ) from None
    return ParameterSet(version, assembler.pack)
