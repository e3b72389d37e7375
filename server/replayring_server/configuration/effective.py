"""The configuration in effect: what the sources say, in their order of precedence."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from typing import Any

from replayring_proto.errors import InvalidRequestError
from replayring_proto.limits import ServerLimits
from replayring_server.configuration.declaring import LIMITS, Setting
from replayring_server.configuration.settings import DECLARED, Settings
from replayring_server.configuration.sources import (
    CONFIG,
    Source,
    from_environment,
    from_file,
    from_flags,
)


@dataclass(frozen=True)
class Value:
    """One setting's value.

    Attributes:
        setting: its declaration.
        value: MISSING where it has to be set and is not.
        origin: where the value came from; None for the default.
    """

    setting: Setting
    value: Any
    origin: str | None


@dataclass(frozen=True)
class Configuration:
    """What a server is configured to.

    Attributes:
        values: of every setting, in the order of their declarations.
        limits: those among them that are limits.
    """

    values: tuple[Value, ...]
    limits: ServerLimits

    def settings(self) -> Settings:
        """Returns all others.

        Raises:
            InvalidRequestError: one that has to be set is not.
        """
        for each in self.values:
            if each.value is MISSING:
                setting = each.setting
                raise InvalidRequestError(
                    f"{setting.name} is not set; give {setting.flag} {setting.placeholder}, or set "
                    f"{setting.variable}, or {setting.key} in the file that --config names"
                )
        return Settings(**_of_table(self.values, None))


def configure(arguments: argparse.Namespace, environment: Mapping[str, str]) -> Configuration:
    """Returns what flags, environment and file make together.

    Args:
        arguments: what `add_arguments` is about, parsed.
        environment: the process's variables.

    Raises:
        InvalidRequestError: a name or a value is wrong; the error says where it stands.
        StorageError: the file cannot be read.
    """
    flags = from_flags(vars(arguments), arguments.limit)
    variables = from_environment(environment)
    path = arguments.config or (str(variables[CONFIG].value) if CONFIG in variables else None)
    sources = (flags, variables, from_file(path) if path is not None else {})
    values = tuple(_effective(setting, sources) for setting in DECLARED.values())
    return Configuration(values, ServerLimits(**_of_table(values, LIMITS)))


def _effective(setting: Setting, sources: tuple[Source, ...]) -> Value:
    for source in sources:
        if (given := source.get(setting.key)) is not None:
            return Value(setting, setting.read(given.value, given.origin), given.origin)
    return Value(setting, setting.default, None)


def _of_table(values: tuple[Value, ...], table: str | None) -> dict[str, Any]:
    return {each.setting.name: each.value for each in values if each.setting.table == table}
