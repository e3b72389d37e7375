"""What a writer holds until it is acknowledged: in memory, and beyond that in a spill directory.

Owns the order of the episodes, where each is, and the words for that. Knows nothing of calls.
"""

from __future__ import annotations

import logging
from collections import deque
from itertools import islice, takewhile
from typing import TypeAlias

from replayring._outage import Outage
from replayring._outgoing import Outgoing
from replayring._spill import DamagedError, Spill, Spilled
from replayring_proto.errors import NotFoundError, ReplayRingError, StorageError

_LOGGER = logging.getLogger(__name__)

Held: TypeAlias = "Outgoing | Spilled"


class Backlog:
    """Episodes of one writer that are not acknowledged, in order. Not thread-safe.

    What finds no room in memory goes to a file, if there is a spill, and keeps its place.

    Attributes:
        sequence: the last sequence that was given.
    """

    def __init__(self, writer: str, max_bytes: int, spill: Spill | None, outage: Outage) -> None:
        """Begins with what an earlier process left in the spill.

        Args:
            writer: the writer, for the log.
            max_bytes: memory to use; an episode that is larger has it alone.
            spill: where to put what is more, or None.
            outage: whether the server is away.
        """
        self._writer = writer
        self._max_bytes = max_bytes
        self._spill = spill
        self._outage = outage
        self._episodes: deque[Held] = deque(spill.waiting() if spill else ())
        self._memory_bytes = 0
        self._told: set[str] = set()
        self.sequence = spill.reserved if spill else 0
        if self._episodes:
            self.sequence = max(self.sequence, self._episodes[-1].sequence)
            self._say("goes on with what an earlier one left")

    def __len__(self) -> int:
        return len(self._episodes)

    def episodes(self) -> list[Held]:
        """Returns all of them, in order."""
        return list(self._episodes)

    def after(self, sequence: int) -> list[Held]:
        """Returns those after a sequence, in order; at the cost of these alone."""
        newest_first = takewhile(lambda one: one.sequence > sequence, reversed(self._episodes))
        return list(newest_first)[::-1]

    def first(self, count: int = 1) -> list[int]:
        """Returns the sequences of the first `count`, or of as many as there are."""
        return [episode.sequence for episode in islice(self._episodes, count)]

    def sequences(self) -> list[int]:
        """Returns their sequences, in order."""
        return [episode.sequence for episode in self._episodes]

    def has_room(self, episode: Outgoing) -> bool:
        """Whether there is room for an episode; logs if there is none and the server is away."""
        if self._fits(episode) or (self._spill and self._spill.fits(episode.layout)):
            return True
        if self._outage.certain:
            self._say("waits until there is room")
        return False

    def add(self, episode: Outgoing) -> Held:
        """Takes an episode in, with the next sequence, and returns it as it is held.

        Raises:
            StorageError: the disk is full, or fails. The episode is not taken.
        """
        held: Held = episode
        if self._spill:
            self._spill.reserve(episode.sequence)
        if self._spill and not self._fits(episode) and self._spill.fits(episode.layout):
            self._say("spills what is more")
            held = self._spill.add(episode.sequence, episode.packed())
        else:
            self._memory_bytes += episode.nbytes
        self.sequence = episode.sequence
        self._episodes.append(held)
        return held

    def drop_first(self, failure: ReplayRingError | None = None) -> int:
        """Forgets the first episode, which was acknowledged or met `failure`; returns its sequence.

        Its file is deleted, unless it cannot be read (it is set aside) or its buffer is gone: that
        may be the wrong server, or come back.
        """
        episode = self._episodes.popleft()
        if not isinstance(episode, Spilled):
            self._memory_bytes -= episode.nbytes
        elif self._spill and isinstance(failure, DamagedError):
            self._spill.set_aside(episode)
        elif self._spill and not isinstance(failure, NotFoundError):
            self._spill.remove(episode)
        if not self._episodes and self._told:
            self._told.clear()
            _LOGGER.warning("%s has nothing left to send", self._writer)
        return episode.sequence

    def keep(self) -> None:
        """Moves what is in memory to the spill, if there is one, as far as there is room."""
        for place, episode in enumerate(self.episodes()):
            if self._spill is None or isinstance(episode, Spilled):
                continue
            if not self._spill.fits(episode.layout):
                return
            try:
                self._episodes[place] = self._spill.add(episode.sequence, episode.packed())
            except StorageError as error:
                _LOGGER.warning("%s: %s", self._writer, error)
                return
            self._memory_bytes -= episode.nbytes

    def close(self) -> None:
        """Lets another writer use the spill directory. Again, does nothing."""
        if self._spill:
            self._spill.close()

    def account(self) -> str:
        """Says where the episodes are."""
        kept = [e.sequence for e in self._episodes if isinstance(e, Spilled)]
        unsafe = [e.sequence for e in self._episodes if not isinstance(e, Spilled)]
        parts = [f"{named(unsafe)} may be lost"] if unsafe else []
        if kept:
            parts.append(
                f"{named(kept)} kept in {self.folder()}: the next writer with this spill_dir sends "
                "them"
            )
        return "; ".join(parts)

    def folder(self) -> str:
        """Returns the spill directory, if something is there, else ""."""
        return str(self._spill.folder) if self._spill and self._spill.nbytes else ""

    def _fits(self, episode: Outgoing) -> bool:
        return not self._memory_bytes or self._memory_bytes + episode.nbytes <= self._max_bytes

    def _say(self, what: str) -> None:
        """Logs that the writer holds much, and what it does about it: once, until all is sent."""
        if what in self._told:
            return
        self._told.add(what)
        where = f"{self._memory_bytes:,} of {self._max_bytes:,} bytes in memory"
        if spill := self._spill:
            where += f", {spill.nbytes:,} of {spill.max_bytes:,} bytes in {spill.folder}"
        if seconds := self._outage.seconds:
            where += f"; the server has been away for {seconds:.1f} s"
        _LOGGER.warning("%s %s: it holds %d episodes, %s", self._writer, what, len(self), where)


def named(sequences: list[int]) -> str:
    """Returns sequences in words: "sequences 1 to 3, 7"."""
    runs: list[list[int]] = []
    for sequence in sequences:
        if runs and sequence == runs[-1][1] + 1:
            runs[-1][1] = sequence
        else:
            runs.append([sequence, sequence])
    words = ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in runs)
    return f"sequence{'' if len(sequences) == 1 else 's'} {words}"
