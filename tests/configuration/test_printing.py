"""`--print-config`: what is in effect, where it came from, and never a secret."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replayring_proto.errors import InvalidRequestError
from replayring_proto.limits import ServerLimits
from replayring_server.configuration import Configuration
from replayring_server.configuration.address import Address
from replayring_server.configuration.declaring import declared, setting
from replayring_server.configuration.effective import Value
from replayring_server.configuration.sources import tomllib
from replayring_server.configuration.toml import to_toml
from tests.configuration.test_sources import as_flags, configured, examples, in_effect
from tests.support import command


def test_what_is_printed_can_be_fed_back(tmp_path: Path) -> None:
    for first in (configured(), configured(*as_flags(examples(1)))):
        path = tmp_path / "printed.toml"
        path.write_text(to_toml(first))
        again = configured("--config", str(path))
        assert in_effect(again) == in_effect(first)


@dataclass(frozen=True, kw_only=True)
class Samples:
    text: str = setting("TEXT", "any")
    where: Address | None = setting("HOST:PORT", "any", default=None)
    number: float = setting("N", "any", default=1.0)
    password: str | None = setting("TEXT", "any", default=None, secret=True)


SAMPLES = {each.name: each for each in declared(Samples)}


def printed(**values: object) -> str:
    """What is printed of settings that were given by flags."""
    effective = tuple(Value(SAMPLES[name], value, "--flag") for name, value in values.items())
    return to_toml(Configuration(effective, ServerLimits()))


@given(text=st.text(), number=st.floats(0, allow_infinity=False), port=st.integers(0, 65_535))
def test_any_value_comes_back(text: str, number: float, port: int) -> None:
    back = tomllib.loads(printed(text=text, number=number, where=Address("[::1]", port)))
    assert back == {"text": text, "number": number, "where": f"[::1]:{port}"}


def test_what_toml_cannot_hold_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"'a\\udcff' is not valid UTF-8"):
        printed(text="a\udcff")


def test_secret_is_neither_printed_nor_in_an_error() -> None:
    assert printed(password="hunter2") == "# password is set, and not shown  # --flag\n"
    with pytest.raises(InvalidRequestError) as refused:
        SAMPLES["password"].read(["hunter2"], "file")
    assert str(refused.value) == "file: password is not valid; it must be text"


def test_what_is_not_set_is_said() -> None:
    assert printed(text=MISSING, where=None) == "# text is not set\n# where is not set\n"


def test_command_prints_values_with_their_origins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "my replay.toml"
    path.write_text("grace = 9\n[limits]\nmax_calls = 7\n")
    monkeypatch.setenv("REPLAYRING_SERVE_LISTEN", "127.0.0.1:0")
    line = ["--print-config", "--config", str(path), "--data-dir", str(tmp_path / "data")]
    done = command("serve", *line, "--limit", "max_buffers=3")
    assert (done.returncode, done.stderr) == (0, "")
    for words in (
        f'data_dir = "{tmp_path}/data"  # --data-dir\n',
        'listen = "127.0.0.1:0"  # REPLAYRING_SERVE_LISTEN\n',
        f"grace = 9.0  # file {str(path)!r}\n",
        "# token_file is not set\n",
        "insecure = false  # default\n",
        "\n[limits]\nmax_buffers = 3  # --limit max_buffers\n",
        f"max_calls = 7  # file {str(path)!r}\n",
    ):
        assert words in done.stdout
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("arguments", [["--limit", "max_calls=0"], ["--config", "/nowhere"]])
def test_command_prints_nothing_that_would_not_be_served(arguments: list[str]) -> None:
    done = command("serve", "--print-config", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
