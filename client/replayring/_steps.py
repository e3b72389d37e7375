"""The steps of an episode that is still being played."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from replayring._replies import Arrays
from replayring_proto.episode import check_episode, values_of
from replayring_proto.errors import InvalidEpisodeError
from replayring_proto.spec import TIMESTAMP, BufferSpec

_FIRST_ROOM = 64


class Steps:
    """Collects time steps into columns that grow. Not thread-safe."""

    def __init__(self, spec: BufferSpec) -> None:
        self._spec = spec
        self._columns: Arrays = {}
        self._keys: frozenset[str] = frozenset()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, frame: Mapping[str, Any]) -> None:
        """Copies one time step behind the others.

        Raises:
            InvalidEpisodeError: it breaks a rule of `check_episode`, or does not go with the steps
                before it. It was not added.
        """
        if self._count == self._spec.capacity:
            raise InvalidEpisodeError(
                f"the episode has {self._count:,} steps, all that this buffer takes (its "
                "capacity): end the episode, or create the buffer larger"
            )
        if not isinstance(frame, Mapping):
            raise InvalidEpisodeError(
                f"a step must be a mapping {{column: value}}, received {type(frame).__name__}"
            )
        step = check_episode(self._spec, self._rows(frame))
        if self._count:
            self._check_goes_on(step)
        self._make_room(step)
        for key, row in step.items():
            self._columns[key][self._count] = row[0]
        self._count += 1

    def arrays(self) -> Arrays:
        """Returns the columns of all steps; views that the next `add` after `clear` overwrites."""
        return {key: self._columns[key][: self._count] for key in self._keys}

    def clear(self) -> None:
        """Forgets all steps and keeps their memory for the next ones."""
        self._count = 0

    def _rows(self, frame: Mapping[str, Any]) -> Arrays:
        """Returns a step's values as columns of one frame, of the right shapes."""
        rows = {}
        for key, value in frame.items():
            array = values_of(key, value)
            column = self._spec.by_name.get(key)
            if column is not None and array.shape != column.shape:
                raise InvalidEpisodeError(
                    f"the step's {key!r} has shape {array.shape}; it must be {column.shape}"
                )
            rows[key] = array[np.newaxis]
        return rows

    def _check_goes_on(self, step: Arrays) -> None:
        if step.keys() != self._keys:
            odd = ", ".join(sorted(step.keys() ^ self._keys))
            raise InvalidEpisodeError(
                f"step {self._count} and those before it differ in having {odd}; give it in every "
                "step of an episode or in none"
            )
        if TIMESTAMP in step and step[TIMESTAMP][0] < self._columns[TIMESTAMP][self._count - 1]:
            raise InvalidEpisodeError(
                f"timestamps must not decrease, received "
                f"{self._columns[TIMESTAMP][self._count - 1]} then {step[TIMESTAMP][0]} at step "
                f"{self._count}"
            )

    def _make_room(self, step: Arrays) -> None:
        if not self._count:
            self._keys = frozenset(step)
        for key, row in step.items():
            column = self._columns.get(key)
            if column is None:
                self._columns[key] = np.empty((_FIRST_ROOM, *row.shape[1:]), row.dtype)
            elif len(column) == self._count:
                grown = np.empty((2 * len(column), *row.shape[1:]), row.dtype)
                grown[: self._count] = column
                self._columns[key] = grown
