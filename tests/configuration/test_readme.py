"""README's section on configuration agrees with the declarations."""

from __future__ import annotations

import re
from dataclasses import MISSING
from pathlib import Path

from replayring_proto.limits import ServerLimits
from replayring_server.configuration.declaring import Setting
from replayring_server.configuration.settings import DECLARED
from tests.configuration.test_sources import configured

README = (Path(__file__).parents[2] / "README.md").read_text()


def default_of(setting: Setting) -> str:
    if setting.default is MISSING:
        return "has to be set"
    if setting.default is None:
        return "none"
    return "off" if setting.default is False else f"`{setting.default}`"


def row(setting: Setting) -> str:
    words = f" ({' or '.join(setting.choices)})" if setting.choices else ""
    unit = " (seconds)" if setting.placeholder == "SECONDS" else ""
    return f"| `{setting.name}` | {default_of(setting)} | {setting.help}{words}{unit} |"


def test_table_has_every_setting() -> None:
    rows = [row(setting) for setting in DECLARED.values() if setting.table is None]
    table = "\n".join(["| key | default | what it is |", "|---|---|---|", *rows, ""])
    assert table in README, f"README's table has to be:\n\n{table}"


def test_file_in_readme_is_valid(tmp_path: Path) -> None:
    (block,) = re.findall(r"^```toml\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    path = tmp_path / "replayring.toml"
    path.write_text(block)
    made = configured("--config", str(path))
    assert made.settings().data_dir == "/data"
    assert made.limits != ServerLimits()


def test_names_in_readme_exist() -> None:
    text = README[README.index("## Configuration") :].partition("\n## ")[0]
    known = {setting.variable for setting in DECLARED.values()} | {"REPLAYRING_SERVE_CONFIG"}
    named = set(re.findall(r"`(REPLAYRING_SERVE_\w+[A-Z])`", text))
    assert named
    assert named <= known
