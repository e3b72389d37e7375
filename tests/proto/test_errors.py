"""The tree of errors is the one that its docstring draws."""

from __future__ import annotations

import builtins
import pickle
import re

import pytest

from replayring_proto import errors
from replayring_proto.errors import ReplayRingError

_LINE = re.compile(r"^ {4}(?P<indent>[│├└─ ]*)(?P<name>\w+Error)(?: +(?P<builtin>[A-Z]\w+Error))?")


def drawn() -> dict[str, tuple[str | None, str | None]]:
    """Every class in the drawing, with its parent and the built-in beside it."""
    tree: dict[str, tuple[str | None, str | None]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = _LINE.match(line)
        if match:
            del path[len(match["indent"]) // 4 :]
            tree[match["name"]] = (path[-1] if path else None, match["builtin"])
            path.append(match["name"])
    return tree


def tree_of(cls: type[ReplayRingError]) -> list[type[ReplayRingError]]:
    return [cls, *(each for child in cls.__subclasses__() for each in tree_of(child))]


CLASSES = [cls for cls in tree_of(ReplayRingError) if cls.__module__ == errors.__name__]


def test_the_docstring_draws_every_class_once() -> None:
    assert sorted(drawn()) == sorted(cls.__name__ for cls in CLASSES)
    assert sorted(errors.__all__) == sorted(drawn())
    assert len(CLASSES) >= 19


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_class_stands_where_it_is_drawn(cls: type[ReplayRingError]) -> None:
    parent, builtin = drawn()[cls.__name__]
    assert cls.__bases__[0].__name__ == (parent or "Exception")
    if builtin:
        assert issubclass(cls, getattr(builtins, builtin))
    elif parent not in (None, "ReplayRingError"):
        assert len(cls.__bases__) == 1
    assert cls.__doc__


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_message_is_shown_as_it_is_and_survives_pickling(cls: type[ReplayRingError]) -> None:
    """KeyError would quote it; a DataLoader's worker sends its errors to the parent by pickle."""
    error = cls("received 'a', the limit is 3")
    assert str(error) == "received 'a', the limit is 3"
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls
    assert str(copy) == str(error)
    assert str(cls()) == ""
