"""How a setting is declared, and what follows from that: its flag, variable, key and values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import MISSING, dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from replayring_proto.errors import InvalidRequestError
from replayring_server.configuration.address import Address

PREFIX = "REPLAYRING_SERVE_"
LIMITS = "limits"

_WORDS = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def setting(
    placeholder: str | None,
    text: str,
    *,
    default: Any = MISSING,
    group: str | None = None,
    secret: bool = False,
) -> Any:
    """Returns a dataclass's field that is a setting.

    Args:
        placeholder: what stands for its value in help; None for what is on or off, or a choice.
        text: what it is, for help and README.
        default: its value where nobody sets it; without one it has to be set.
        group: title under which help lists it.
        secret: its value is never printed.
    """
    metadata = {"placeholder": placeholder, "help": text, "group": group, "secret": secret}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting, as declared.

    Attributes:
        name: of its field.
        table: the file's table that it stands in; None for the top level.
        kind: str, int, float, bool or Address.
        choices: the words it takes; empty for any.
        default: MISSING for one that has to be set.
        placeholder, help, group, secret: as in `setting`.
    """

    name: str
    kind: type
    default: Any
    table: str | None = None
    choices: tuple[str, ...] = ()
    placeholder: str | None = None
    help: str = ""
    group: str | None = None
    secret: bool = False

    @property
    def key(self) -> str:
        """Its key in the file, with its table."""
        return self.name if self.table is None else f"{self.table}.{self.name}"

    @property
    def flag(self) -> str:
        """Its flag; a limit's stands before an equals sign."""
        if self.table is None:
            return f"--{self.name.replace('_', '-')}"
        return f"--limit {self.name}"

    @property
    def variable(self) -> str:
        """Its environment variable."""
        name = self.name if self.table is None else f"limit_{self.name}"
        return PREFIX + name.upper()

    def read(self, given: object, origin: str) -> Any:
        """Returns the value that a source gives: text, or what a TOML file can hold.

        Raises:
            InvalidRequestError: it is none of this setting's.
        """
        try:
            return self._read(given)
        except InvalidRequestError as error:
            raise InvalidRequestError(f"{origin}: {error}") from None
        except (ValueError, TypeError, LookupError):
            shown = "not valid" if self.secret else repr(given)
            raise InvalidRequestError(
                f"{origin}: {self.name} is {shown}; it must be {self._expected()}"
            ) from None

    def _read(self, given: object) -> Any:
        if self.kind is bool and isinstance(given, bool):
            return given
        if self.kind in (int, float):
            return self._number(given)
        if not isinstance(given, str) or (self.choices and given not in self.choices):
            raise TypeError
        if self.kind is bool:
            return _WORDS[given.lower()]
        if not given:  # as of a shell's variable that is not set
            raise InvalidRequestError(f"{self.name} is empty; leave it out, or give it a value")
        if "\0" in given:  # which only the file can hold
            raise InvalidRequestError(
                f"{self.name} is {given!r}; no path or address has a zero byte"
            )
        return Address.parse(given) if self.kind is Address else given

    def _number(self, given: object) -> Any:
        whole = isinstance(given, int) and not isinstance(given, bool)
        fraction = isinstance(given, float) and self.kind is float
        if not (isinstance(given, str) or whole or fraction):
            raise TypeError
        value = self.kind(given)
        if not 0 <= value < math.inf:
            raise ValueError
        return value

    def _expected(self) -> str:
        if self.choices:
            return " or ".join(self.choices)
        seconds = self.placeholder == "SECONDS" or self.name.endswith("_s")
        return {
            bool: "true or false",
            int: "a number, whole, not negative, without a unit",
            float: "a number, not negative" + (", in seconds" if seconds else ""),
        }.get(self.kind, "text")


def declared(settings: type, table: str | None = None) -> Iterator[Setting]:
    """Yields the settings that a dataclass declares, in order."""
    hints = get_type_hints(settings)
    for field in dataclasses.fields(settings):
        kind, choices = _kind_of(hints[field.name])
        yield Setting(
            name=field.name,
            table=table,
            kind=kind,
            choices=choices,
            default=field.default,
            **field.metadata,
        )


def _kind_of(hint: Any) -> tuple[type, tuple[str, ...]]:
    """Returns a type hint without None, and the words of a Literal."""
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (each for each in get_args(hint) if each is not type(None))
    if get_origin(hint) is Literal:
        return str, get_args(hint)
    return hint, ()
