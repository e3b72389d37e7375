"""The package's face: what it exports, and that it is light."""

from __future__ import annotations

import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import replayring
from replayring_proto import errors

ROOT = Path(__file__).parents[2]


def run(code: str) -> str:
    """Runs code in a fresh interpreter, as this one would import; returns what it prints."""
    setup = f"import sys; sys.path[:] = {sys.path!r}\n"
    ran = subprocess.run(
        [sys.executable, "-c", setup + code], capture_output=True, text=True, timeout=100
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_all_names_exist_and_are_listed() -> None:
    for name in replayring.__all__:
        assert getattr(replayring, name) is not None
    assert set(replayring.__all__) <= set(dir(replayring))
    assert sorted(replayring.__all__) == sorted(set(replayring.__all__))


def test_nothing_else_is_listed() -> None:
    listed = {name for name in dir(replayring) if not name.startswith("__")}
    assert listed == {*replayring.__all__, "sharded"} - {"__version__"}
    assert "__doc__" in dir(replayring)


def test_what_is_listed_without_torch_is_found_once_it_is_named() -> None:
    code = (
        "import replayring; "
        "assert 'torch' not in sys.modules and 'WeightedSampler' in dir(replayring); "
        "print(replayring.WeightedSampler.__name__, dir(replayring).count('WeightedSampler'))"
    )
    assert run(code) == "WeightedSampler 1"


def test_every_error_is_exported() -> None:
    assert set(errors.__all__) <= set(replayring.__all__)
    for name in errors.__all__:
        assert getattr(replayring, name) is getattr(errors, name)


def test_unknown_names() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        replayring.nothing  # noqa: B018


def test_is_typed() -> None:
    assert resources.files("replayring").joinpath("py.typed").is_file()


def test_importing_it_imports_nothing_heavy() -> None:
    code = (
        "import replayring; "
        "print([m for m in ('torch', 'pandas', 'matplotlib', 'gymnasium', 'replayring_server') "
        "if m in sys.modules])"
    )
    assert run(code) == "[]"


def test_the_client_works_without_torch(core_server: str) -> None:
    code = f"""
sys.modules["torch"] = None
import numpy as np, replayring
with replayring.connect({core_server!r}) as client:
    buffer = client.create_buffer("no-torch", {{"x": {{"shape": (), "dtype": "float32"}}}}, 100)
    buffer.add_episode({{"x": [1, 2, 3]}})
    print(buffer.sample(4)["x"].shape)
"""
    assert run(code) == "(4,)"


def test_without_torch_all_that_is_there_can_be_imported() -> None:
    code = """
sys.modules["torch"] = None
from replayring import *
import replayring
assert "connect" in replayring.__all__ and connect is replayring.connect
print(sorted(replayring._TORCH.keys() & replayring.__all__))
"""
    assert run(code) == "[]"


@pytest.mark.parametrize("name", sorted(replayring._TORCH))
def test_without_torch_its_names_say_what_to_install(name: str) -> None:
    code = f"""
sys.modules["torch"] = None
import replayring
assert {name!r} in dir(replayring)
try:
    replayring.{name}
except ImportError as error:
    print(error)
"""
    text = run(code)
    assert name in text
    assert 'pip install "replayring[torch]"' in text
