"""The flags of `replayring serve`, made from the declarations."""

from __future__ import annotations

import argparse
from dataclasses import MISSING
from typing import Any

from replayring_server.configuration.declaring import Setting
from replayring_server.configuration.settings import DECLARED, GROUPS
from replayring_server.configuration.sources import CONFIG_VARIABLE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds a flag for each setting, and those that are about the configuration itself.

    What is not given is None: another source may have it.
    """
    groups = {title: parser.add_argument_group(title, text) for title, text in GROUPS.items()}
    for setting in DECLARED.values():
        if setting.table is None:
            _add(groups.get(setting.group or "", parser), setting)
    parser.set_defaults(stray=DECLARED["data_dir"].flag)
    parser.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change one of the limits that --print-config lists, such as max_calls=10000; may be "
        "repeated",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="TOML file with any of these settings, and limits in its table [limits]; what flags "
        f"and REPLAYRING_SERVE_... variables say goes first (variable: {CONFIG_VARIABLE})",
    )
    parser.add_argument(
        "--print-config",
        action="store_true",
        help="print the configuration in effect as such a file, with where each value came from, "
        "and exit",
    )


def _add(group: argparse._ActionsContainer, setting: Setting) -> None:
    text = setting.help.replace("%", "%%")
    if setting.kind is not bool and setting.default not in (MISSING, None):
        text += f" (default: {setting.default})"
    options: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
    if setting.kind is not bool:
        words = f"{{{','.join(setting.choices)}}}" if setting.choices else None
        options = {"metavar": words or setting.placeholder}
    group.add_argument(setting.flag, dest=setting.name, default=None, help=text, **options)
