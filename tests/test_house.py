"""The house: who may import whom, what is installed, and what lies at the top level."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib.metadata import entry_points, metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROTO = ROOT / "proto" / "replayring_proto"
SERVER = ROOT / "server" / "replayring_server"
CLIENT = ROOT / "client" / "replayring"

TOP_LEVEL = {
    *("proto", "server", "client", "tests", "docker", "pyproject.toml", "README.md"),
    *("LICENSE", "CHANGELOG.md"),
}

# Who reads what is counted is no affair of those who count.
EXPORTERS = {"prometheus_client", "opentelemetry", "replayring_server.telemetry"}

# What each part must never import, whichever way: at the top of a module, in a function, or for
# type checking only. `replayring` means the client.
FORBIDDEN = {
    PROTO: {"replayring", "replayring_server", "torch"},
    SERVER: {"replayring", "torch"},
    CLIENT: {"replayring_server"},
    SERVER / "inspection": {
        "grpc",
        "grpc_health",
        "asyncio",
        "uvloop",
        "replayring_server.service",
    },
    SERVER / "snapshots": {
        "grpc",
        "grpc_health",
        "asyncio",
        "uvloop",
        "replayring_server.service",
    },
    SERVER / "engine": {
        *("grpc", "grpc_health", "asyncio", "uvloop", "replayring_server.service"),
        *EXPORTERS,
    },
    SERVER / "service": EXPORTERS,
}


def modules(folder: Path) -> list[Path]:
    found = sorted(p for p in folder.rglob("*.py") if "_pb2" not in p.name)
    assert found, f"no modules in {folder}"
    return found


def imports(path: Path) -> Iterator[str]:
    """Yields every module, or name of a module, that a file imports anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_of(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def loaded_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after a statement."""
    script = f"{textwrap.dedent(statement)}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("folder", FORBIDDEN, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_arrows_point_to_the_contract(folder: Path) -> None:
    """From client and server to proto; and the engine knows neither grpc nor the service."""
    for path in modules(folder):
        for module in imports(path):
            for package in FORBIDDEN[folder]:
                assert not is_of(module, package), f"{path} imports {module}"


def test_in_the_contract_grpc_is_known_to_the_error_table_and_generated_code_alone() -> None:
    for path in modules(PROTO):
        if path.name != "status.py":
            assert not any(is_of(module, "grpc") for module in imports(path)), path


def test_the_engine_loads_neither_grpc_nor_torch() -> None:
    loaded = loaded_by("import replayring_server.engine")
    assert not loaded & {"grpc", "torch", "replayring", "asyncio", "uvloop"}


def test_the_contract_loads_neither_grpc_nor_torch_until_it_must() -> None:
    names = [path.stem for path in PROTO.glob("*.py") if path.stem not in ("status", "__init__")]
    statement = "\n".join(f"import replayring_proto.{name}" for name in names)
    loaded = loaded_by(f"{statement}\nimport replayring_proto.ring")
    assert not loaded & {"grpc", "torch", "replayring", "replayring_server"}


def test_the_server_loads_neither_torch_nor_the_client() -> None:
    loaded = loaded_by("import replayring_server.server, replayring_server.commands.serve")
    assert "grpc" in loaded
    assert not loaded & {"torch", "replayring", "prometheus_client", "opentelemetry"}


def test_the_client_loads_torch_only_where_a_tensor_is_made() -> None:
    loaded = loaded_by("import replayring")
    assert not loaded & {"torch", "replayring_server", "gymnasium", "matplotlib", "rich"}


def test_the_client_works_without_torch() -> None:
    """The base install has none: connecting, and everything in numpy, must not miss it."""
    loaded_by(
        """
        import sys
        sys.modules["torch"] = None
        import replayring
        replayring.connect("127.0.0.1:1").close()
        """
    )


@pytest.mark.parametrize("package", [PROTO, SERVER, CLIENT], ids=lambda path: path.name)
def test_a_package_is_typed_and_every_module_says_what_it_owns(package: Path) -> None:
    assert (package / "py.typed").exists()
    for path in modules(package):
        assert ast.get_docstring(ast.parse(path.read_text())), path


@pytest.mark.parametrize(
    "name", ["replayring_proto.errors", "replayring_proto.ring", "replayring_server.engine"]
)
def test_public_names_exist(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__all__
    for public in module.__all__:
        assert hasattr(module, public), public


def test_the_top_level_holds_what_the_design_says_and_no_more() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("this is no git checkout")
    found = {name.split("/")[0] for name in listed.stdout.splitlines()}
    assert {name for name in found if not name.startswith(".")} <= TOP_LEVEL
    assert found >= {"proto", "server", "client", "tests", "pyproject.toml", "README.md", "LICENSE"}


def test_the_console_script_and_its_commands_are_installed() -> None:
    scripts = {entry.name: entry.value for entry in entry_points(group="console_scripts")}
    assert scripts["replayring"] == "replayring_proto.cli:main"
    commands = {entry.name: entry.value for entry in entry_points(group="replayring.commands")}
    assert commands.keys() >= {"serve", "demo"}
    for module in map(importlib.import_module, commands.values()):
        assert module.HELP
        assert callable(module.add_arguments)
        assert callable(module.run)


def test_the_console_script_answers() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("replayring"), "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "serve" in done.stdout
    assert "demo" in done.stdout


def test_the_base_install_is_light() -> None:
    """Neither torch nor anything else that is heavy, unless an extra asks for it."""
    required = metadata("replayring").get_all("Requires-Dist") or []
    base = [line for line in required if "extra ==" not in line]
    names = {re.split("[<>=]", line)[0] for line in base if ";" not in line}
    assert names == {"grpcio", "grpcio-health-checking", "numpy", "protobuf", "xxhash"}
    # What newer Pythons have themselves, as tomllib.
    assert [line for line in base if ";" in line] == ["tomli>=2; python_version < '3.11'"]


def test_the_extras_are_the_documented_ones() -> None:
    extras = set(metadata("replayring").get_all("Provides-Extra") or [])
    assert extras >= {"torch", "demo", "dev"}
    pins = [
        line for line in metadata("replayring").get_all("Requires-Dist") or [] if "torch" in line
    ]
    assert any(line.replace(" ", "").startswith("torch==2.13.0") for line in pins)
