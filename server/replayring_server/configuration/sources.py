"""Where settings come from: flags, environment variables and a TOML file, each read by itself.

Only names are checked here; what a value has to be is the setting's affair. Variables that begin
with REPLAYRING_SERVE_ are the server's, and have to be known. Others that begin with REPLAYRING_
are the client's, or nobody's; but one that would be known with the SERVE_ is taken for a slip.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from replayring_proto.errors import InvalidRequestError
from replayring_proto.tls import read_file
from replayring_server.configuration.declaring import LIMITS, PREFIX
from replayring_server.configuration.settings import DECLARED

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIG = "config"
"""Key of the file's own path: in no file itself, so it is no setting."""

CONFIG_VARIABLE = f"{PREFIX}{CONFIG.upper()}"

_VARIABLES = {
    CONFIG_VARIABLE: CONFIG,
    **{setting.variable: setting.key for setting in DECLARED.values()},
}
_SLIPS = ("REPLAYRING_SERVER_", "REPLAYRING_")
_CLIENT_VARIABLES = {"REPLAYRING_TOKEN_FILE"}


@dataclass(frozen=True)
class Given:
    """What a source says about one setting.

    Attributes:
        value: text, or what a TOML file can hold.
        origin: the name under which the source says so.
    """

    value: object
    origin: str


Source: TypeAlias = Mapping[str, Given]


def from_flags(flags: Mapping[str, Any], limits: Iterable[str]) -> Source:
    """Returns what the command line says.

    Args:
        flags: values by the names of settings; None for those that were not given.
        limits: what the flags --limit say, NAME=VALUE each.

    Raises:
        InvalidRequestError: there is no such limit, or it is given no value.
    """
    given = {
        key: Given(flags[key], setting.flag)
        for key, setting in DECLARED.items()
        if flags.get(key) is not None
    }
    for text in limits:
        name, given_one, value = text.partition("=")
        key = _limit(name, "--limit")
        if not given_one:
            raise InvalidRequestError(f"--limit {name} has no value; give NAME=VALUE")
        given[key] = Given(value, DECLARED[key].flag)
    return given


def from_environment(environment: Mapping[str, str]) -> Source:
    """Returns what the environment says; an empty variable says nothing.

    Raises:
        InvalidRequestError: a variable is meant for the server and no setting has it.
    """
    given = {}
    for variable, text in environment.items():
        if variable in _VARIABLES:
            if text:
                given[_VARIABLES[variable]] = Given(text, variable)
        elif _is_mistaken(variable):
            raise InvalidRequestError(
                f"there is no variable {variable} for `serve`; {_nearest(variable, _VARIABLES)}"
            )
    return given


def from_file(path: str) -> Source:
    """Returns what a TOML file says. Paths in it are relative to the working directory.

    Raises:
        StorageError: it cannot be read.
        InvalidRequestError: it is no TOML, or has a key that no setting has.
    """
    try:
        content = tomllib.loads(read_file(path).decode())
    except ValueError as error:  # of the encoding, or of the syntax
        raise InvalidRequestError(f"{path} is not valid TOML: {error}") from None
    limits = content.pop(LIMITS, {})
    if not isinstance(limits, dict):
        raise InvalidRequestError(f"{path}: {LIMITS} is a table; write [{LIMITS}] above its keys")
    given = {}
    known = [key for key, setting in DECLARED.items() if setting.table is None]
    for key, value in content.items():
        if f"{LIMITS}.{key}" in DECLARED:
            raise InvalidRequestError(f"{path}: {key} is a limit; write it below [{LIMITS}]")
        if key not in known:
            raise InvalidRequestError(
                f"{path}: there is no setting {key!r}; {_nearest(key, [*known, LIMITS])}"
            )
        given[key] = Given(value, f"file {path!r}")
    for name, value in limits.items():
        given[_limit(name, path)] = Given(value, f"file {path!r}")
    return given


def _limit(name: str, origin: str) -> str:
    """Returns the key of a limit."""
    key = f"{LIMITS}.{name}"
    if name in DECLARED:
        raise InvalidRequestError(
            f"{origin}: {name} is no limit; give {DECLARED[name].flag}, or its key above [{LIMITS}]"
        )
    if key not in DECLARED:
        known = [setting.name for setting in DECLARED.values() if setting.table == LIMITS]
        raise InvalidRequestError(f"{origin}: there is no limit {name!r}; {_nearest(name, known)}")
    return key


def _is_mistaken(variable: str) -> bool:
    """Whether a variable that no setting has was meant for one."""
    if variable.startswith(PREFIX):
        return True
    if variable in _CLIENT_VARIABLES:
        return False
    meant = {PREFIX + variable.removeprefix(slip) for slip in _SLIPS if variable.startswith(slip)}
    return not meant.isdisjoint(_VARIABLES)


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(name, names, 1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
