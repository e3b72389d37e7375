"""A configuration as TOML that can be fed back; secrets are left out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import MISSING
from typing import Any

from replayring_proto.errors import InvalidRequestError
from replayring_server.configuration.effective import Configuration, Value


def to_toml(configuration: Configuration) -> str:
    """Returns the configuration as a TOML file, with where each value came from as comment.

    Raises:
        InvalidRequestError: a value cannot be written as TOML.
    """
    return "\n".join(_lines(configuration)) + "\n"


def _lines(configuration: Configuration) -> Iterator[str]:
    table = None
    for value in configuration.values:
        if value.setting.table != table:
            table = value.setting.table
            yield f"\n[{table}]"
        yield _line(value)


def _line(value: Value) -> str:
    name = value.setting.name
    if value.value is MISSING or value.value is None:
        return f"# {name} is not set"
    origin = value.origin or "default"
    if value.setting.secret:
        return f"# {name} is set, and not shown  # {origin}"
    return f"{name} = {_literal(value.value)}  # {origin}"


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, (int, float)) else _text(str(value))


def _text(text: str) -> str:
    """Returns a TOML string: a JSON one, but that DEL is escaped and surrogates are not valid."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequestError(
            f"{text!r} is not valid UTF-8 and cannot stand in a TOML file; use another name"
        ) from None
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
