"""The ring's three counters, as one process or another left them in the mapped cursor file.

    head     the `index` that the next frame will get; frames below it are published
    low      frames below it are dead although the capacity would still hold them
    intent   the writer may be writing, or have written, any frame below it

Each is an aligned 8-byte word, loaded and stored by numpy in one instruction; x86-64 keeps stores
in order. `struct.pack_into` would store byte by byte and tear.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from replayring_proto import layout


class Counters:
    """Counters over mapped memory. Any number may read; one thread at a time may write."""

    __slots__ = ("_words",)

    def __init__(self, page: npt.NDArray[Any]) -> None:
        """Wraps the bytes of a cursor file."""
        self._words: npt.NDArray[np.int64] = page.view(np.int64)

    @property
    def low(self) -> int:
        """Frames below this `index` are dead."""
        return int(self._words[layout.LOW_WORD])

    @low.setter
    def low(self, value: int) -> None:
        self._words[layout.LOW_WORD] = value

    @property
    def head(self) -> int:
        """The `index` that the next frame will get."""
        return int(self._words[layout.HEAD_WORD])

    @head.setter
    def head(self, value: int) -> None:
        self._words[layout.HEAD_WORD] = value

    @property
    def intent(self) -> int:
        """Rows of frames up to here, exclusively, may be changing."""
        return int(self._words[layout.INTENT_WORD])

    @intent.setter
    def intent(self, value: int) -> None:
        self._words[layout.INTENT_WORD] = value
