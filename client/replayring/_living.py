"""Who is there: objects that others hold, listed for as long as they do."""

from __future__ import annotations

import weakref
from typing import Generic, TypeVar

T = TypeVar("T")


class Living(Generic[T]):
    """A set of objects that does not keep them. Thread-safe.

    Not a `WeakSet`: that is changed under who iterates over it, by a thread that adds to it, or in
    which the garbage collector takes something away, and iterating ends with a RuntimeError. This
    one is copied in a single step of C code.
    """

    def __init__(self) -> None:
        self._refs: weakref.WeakValueDictionary[int, T] = weakref.WeakValueDictionary()

    def add(self, one: T) -> None:
        """Lists it from now on; again, does nothing."""
        self._refs[id(one)] = one

    def all(self) -> list[T]:
        """Returns those that are there."""
        return [one for ref in self._refs.valuerefs() if (one := ref()) is not None]
