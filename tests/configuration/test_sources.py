"""Flags, variables and the file: who goes first, and how what is wrong is refused."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from replayring._credentials import TOKEN_FILE_VARIABLE, TOKEN_VARIABLE
from replayring_proto import cli
from replayring_proto.errors import InvalidRequestError, StorageError
from replayring_proto.limits import ServerLimits
from replayring_server.configuration import Configuration, Settings, add_arguments, configure
from replayring_server.configuration.address import Address
from replayring_server.configuration.declaring import Setting
from replayring_server.configuration.settings import DECLARED


def configured(*flags: str, **environment: str) -> Configuration:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return configure(parser.parse_args(flags), environment)


def in_effect(configuration: Configuration) -> dict[str, str]:
    """Values by key, as text."""
    return {
        each.setting.key: str(each.value).lower() if each.setting.kind is bool else str(each.value)
        for each in configuration.values
    }


def example(setting: Setting, number: int) -> str:
    """The first or second value of a setting that differ from each other, the first not default."""
    if setting.choices:
        return next(word for word in setting.choices if (word == setting.default) is (number == 2))
    if setting.table is not None:  # which have to fit to each other
        return str(setting.kind(setting.default * 10 * number))
    by_kind = {
        str: f"text {number}",
        float: f"{number}.5",
        int: f"{number}",
        bool: "true" if number == 1 else "false",
        Address: f"localhost:{number}",
    }
    return by_kind[setting.kind]


def examples(number: int) -> dict[str, str]:
    return {key: example(setting, number) for key, setting in DECLARED.items()}


def as_flags(values: Mapping[str, str]) -> list[str]:
    flags = []
    for key, text in values.items():
        setting = DECLARED[key]
        if setting.table is not None:
            flags += ["--limit", f"{setting.name}={text}"]
        elif setting.kind is bool:
            flags += [setting.flag if text == "true" else setting.flag.replace("--", "--no-")]
        else:
            flags += [setting.flag, text]
    return flags


def as_variables(values: Mapping[str, str]) -> dict[str, str]:
    return {DECLARED[key].variable: text for key, text in values.items()}


def as_file(values: Mapping[str, str], path: Path) -> list[str]:
    """Writes a file, and returns the flags that name it."""
    lines, limits = [], ["[limits]"]
    for key, text in values.items():
        setting = DECLARED[key]
        bare = setting.kind in (bool, int, float)
        (lines if setting.table is None else limits).append(
            f"{setting.name} = {text if bare else repr(text)}"
        )
    path.write_text("\n".join([*lines, *limits]))
    return ["--config", str(path)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "replay.toml"


def test_without_anything_the_defaults_are_in_effect() -> None:
    nothing = configured("--data-dir", "data")
    assert nothing.settings() == Settings(data_dir="data")
    assert nothing.limits == ServerLimits()


def test_every_setting_and_limit_can_stand_in_the_file(path: Path) -> None:
    made = configured(*as_file(examples(1), path))
    assert in_effect(made) == examples(1)
    assert {each.origin for each in made.values} == {f"file {str(path)!r}"}


def test_every_setting_and_limit_has_a_variable_which_goes_before_the_file(path: Path) -> None:
    made = configured(*as_file(examples(2), path), **as_variables(examples(1)))
    assert in_effect(made) == examples(1)
    assert [each.origin for each in made.values] == list(as_variables(examples(1)))


def test_every_setting_and_limit_has_a_flag_which_goes_before_the_variable(path: Path) -> None:
    for first, second in ((1, 2), (2, 1)):
        file, flags = as_file(examples(second), path), as_flags(examples(first))
        made = configured(*file, *flags, **as_variables(examples(second)))
        assert in_effect(made) == examples(first)
        origins = [each.origin for each in made.values]
        assert origins == [setting.flag for setting in DECLARED.values()]


def test_names_follow_from_each_other() -> None:
    listen, calls = DECLARED["health_listen"], DECLARED["limits.max_calls"]
    assert (listen.flag, listen.variable) == ("--health-listen", "REPLAYRING_SERVE_HEALTH_LISTEN")
    assert calls.variable == "REPLAYRING_SERVE_LIMIT_MAX_CALLS"


def test_file_is_named_by_a_flag_or_a_variable(path: Path, tmp_path: Path) -> None:
    path.write_text("grace = 1")
    other = tmp_path / "other.toml"
    other.write_text("grace = 2")
    variable = {"REPLAYRING_SERVE_CONFIG": str(path)}
    assert in_effect(configured(**variable))["grace"] == "1.0"
    assert in_effect(configured("--config", str(other), **variable))["grace"] == "2.0"


def test_empty_variable_says_nothing(path: Path) -> None:
    """Compose files and units write them for what is not set."""
    path.write_text("grace = 1")
    made = configured("--config", str(path), REPLAYRING_SERVE_GRACE="")
    assert in_effect(made)["grace"] == "1.0"
    assert configured(REPLAYRING_SERVE_CONFIG="").values[0].origin is None


@pytest.mark.parametrize(
    ("variable", "near"),
    [
        ("REPLAYRING_SERVE_LISEN", "did you mean REPLAYRING_SERVE_LISTEN?"),
        ("REPLAYRING_SERVE_LIMIT_MAX_CALL", "did you mean REPLAYRING_SERVE_LIMIT_MAX_CALLS?"),
        ("REPLAYRING_SERVE_MAX_CALLS", "did you mean REPLAYRING_SERVE_LIMIT_MAX_CALLS?"),
        ("REPLAYRING_SERVER_DATA_DIR", "did you mean REPLAYRING_SERVE_DATA_DIR?"),
        ("REPLAYRING_DATA_DIR", "did you mean REPLAYRING_SERVE_DATA_DIR?"),
        ("REPLAYRING_CONFIG", "did you mean REPLAYRING_SERVE_CONFIG?"),
        ("REPLAYRING_SERVE_", "did you mean REPLAYRING_SERVE_"),
    ],
)
def test_unknown_variable_is_refused_with_the_nearest(variable: str, near: str) -> None:
    with pytest.raises(InvalidRequestError, match=re.escape(near)) as refused:
        configured(**{variable: "the value"})
    assert f"no variable {variable} " in str(refused.value)
    assert "the value" not in str(refused.value)  # of whatever was misspelt, perhaps a secret


@pytest.mark.parametrize(
    "variable",
    [
        *(TOKEN_VARIABLE, TOKEN_FILE_VARIABLE, "REPLAYRING_SAME_HOST"),
        *("REPLAYRING_SERVICE_HOST", "REPLAYRING_SERVER_PORT", "REPLAYRING_SERVER_SERVICE_PORT"),
        *("REPLAYRING_EXPLORE", "LISTEN", "replayring_serve_listen"),
    ],
)
def test_variables_of_others_are_left_alone(variable: str) -> None:
    """The client's, those that Kubernetes makes of a service's name, and anybody's."""
    assert variable not in as_variables(examples(1))
    assert configured(**{variable: "x"}) == configured()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lisen = 'h:1'", "no setting 'lisen'; did you mean listen?"),
        ("zzz = 1", "no setting 'zzz'; there are data_dir, listen, "),
        ("max_calls = 7", "max_calls is a limit; write it below [limits]"),
        ("[limit]\nmax_calls = 7", "no setting 'limit'; did you mean limits?"),
        ("[limits]\ngrace = 7", "grace is no limit; give --grace, or its key above [limits]"),
        ("[limits]\nmax_cals = 7", "no limit 'max_cals'; did you mean max_calls?"),
        ("[limits.max_calls]\nx = 7", "max_calls is {'x': 7}; it must be a number, whole"),
        ("limits = 7", "limits is a table"),
        ("config = 'x'", "no setting 'config'"),
        ("grace", "is not valid TOML"),
        ("grace = 1\ngrace = 2", "is not valid TOML"),
        ("data_dir = '\xff'", "is not valid TOML"),
        ("data_dir = 7", "data_dir is 7; it must be text"),
        ("data_dir = ['x']", "data_dir is ['x']; it must be text"),
        ("insecure = 1", "insecure is 1; it must be true or false"),
        ("grace = true", "grace is True; it must be a number"),
        ("grace = nan", "grace is nan; it must be a number, not negative, in seconds"),
        ("grace = 2001-01-01", "it must be a number"),
        ("[limits]\nmax_calls = 7.0", "max_calls is 7.0; it must be a number, whole"),
        ('token_file = ""', "token_file is empty; leave it out"),
        ('data_dir = ""', "data_dir is empty; leave it out"),
        ('data_dir = "a\\u0000b"', r"data_dir is 'a\x00b'; no path or address has a zero byte"),
        ("[limits]\nmax_calls = 0", "max_calls is 0; it must be above zero"),
    ],
)
def test_wrong_file_is_refused(path: Path, text: str, words: str) -> None:
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidRequestError, match=re.escape(words)) as refused:
        configured("--config", str(path))
    assert str(path) in str(refused.value) or "above zero" in words


def test_file_that_is_not_there_is_refused(path: Path) -> None:
    with pytest.raises(StorageError, match=re.escape(f"cannot read {path}")):
        configured("--config", str(path))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--grace", "soon"], "--grace: grace is 'soon'; it must be a number"),
        (["--grace", "-1"], "grace is '-1'"),
        (["--grace", "inf"], "grace is 'inf'"),
        (["--listen", "here"], "--listen: address 'here' is not HOST:PORT"),
        (["--limit", "max_cals=7"], "no limit 'max_cals'; did you mean max_calls?"),
        (["--limit", "=7"], "no limit ''; there are max_buffers, "),
        (["--limit", "max_calls=2.5"], "max_calls is '2.5'; it must be a number, whole"),
        (["--limit", "max_calls=1e3"], "max_calls is '1e3'; it must be a number, whole"),
        (["--limit", "max_calls"], "--limit max_calls has no value; give NAME=VALUE"),
        (["--limit", "grace=7"], "grace is no limit; give --grace"),
        (["--limit", "stall_timeout_s=soon"], "it must be a number, not negative, in seconds"),
    ],
)
def test_wrong_flag_is_refused(flags: list[str], words: str) -> None:
    with pytest.raises(InvalidRequestError, match=re.escape(words)):
        configured(*flags)


@pytest.mark.parametrize(("text", "value"), [("YES", True), ("off", False), ("maybe", None)])
def test_variable_is_on_or_off(text: str, value: bool | None) -> None:
    if value is None:
        with pytest.raises(InvalidRequestError, match="INSECURE: insecure is 'maybe'; it must be"):
            configured(REPLAYRING_SERVE_INSECURE=text)
    else:
        made: Any = configured("--data-dir", "d", REPLAYRING_SERVE_INSECURE=text).settings()
        assert made.insecure is value


def test_what_has_to_be_set_is_asked_for_in_all_ways() -> None:
    with pytest.raises(InvalidRequestError) as refused:
        configured().settings()
    for words in ("data_dir is not set", "--data-dir DIR", "REPLAYRING_SERVE_DATA_DIR", "--config"):
        assert words in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["./replay"], "arguments: ./replay; did you mean --data-dir ./replay?\n"),
        (["--data-dir", "a", "./b"], "arguments: ./b\n"),
        (["--lisen", "a:1"], "; did you mean --listen?\n"),
        (["--xyzzy", "a"], "arguments: --xyzzy a\n"),
    ],
)
def test_a_directory_without_its_flag_is_answered_with_it(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.run({"serve": "replayring_server.commands.serve"}, ["serve", *arguments])
    assert exit_.value.code == 2
    assert capsys.readouterr().err.endswith(told)
