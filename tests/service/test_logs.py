"""The log: for people, or one JSON object a line."""

from __future__ import annotations

import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from replayring_server.logs import JsonFormatter
from tests.service.frames import SPEC
from tests.support import ServerProcess, command
from tests.wire import Refused, Wire

MOMENT = 1_600_000_000.25  # 2020-09-13 12:26:40.250 UTC


def logged(message: str, *values: object, error: bool = False, **fields: object) -> dict[str, Any]:
    """What becomes of a call that logs."""
    exception = sys.exc_info() if error else None
    logger = logging.getLogger("replayring.some")
    record = logger.makeRecord(
        logger.name, logging.WARNING, __file__, 1, message, values, exception, extra=fields
    )
    record.created, record.msecs = MOMENT, 250.0
    line = JsonFormatter().format(record)
    assert "\n" not in line
    object_: dict[str, Any] = json.loads(line, parse_constant=pytest.fail)
    return object_


def test_record_is_one_object() -> None:
    assert logged("took %d\nlines", 2) == {
        "time": "2020-09-13T12:26:40.250Z",
        "level": "warning",
        "logger": "replayring.some",
        "message": "took 2\nlines",
    }


def test_fields_are_what_the_call_supplied() -> None:
    supplied = {"method": "GetItem", "frames": 3, "ratio": 0.5, "kept": None, "ok": True}
    odd = {"nan": float("nan"), "path": Path("/data"), "lone": "\udcff", "time": "theirs"}
    object_ = logged("m", **supplied, **odd)
    assert object_["fields"] == supplied | {"nan": "nan", "path": "/data"} | {
        "lone": "\udcff",
        "time": "theirs",
    }
    assert object_["time"] == "2020-09-13T12:26:40.250Z"


def test_exception_comes_with_its_traceback() -> None:
    try:
        raise ValueError("no such thing")
    except ValueError:
        text = logged("failed", error=True)["exception"]
    assert text.startswith("Traceback")
    assert text.endswith("ValueError: no such thing")


def test_server_logs_json_and_nothing_else(tmp_path: Path) -> None:
    flags = ["--log-format", "json", "--insecure"]
    with ServerProcess(tmp_path / "data", *flags) as server, Wire(server.address) as wire:
        wire.create("b", SPEC)
        with pytest.raises(Refused):
            wire.info("nope")
        assert server.stop() == 0
        lines = [json.loads(line) for line in server.log_text().splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    (refusal,) = (line for line in lines if "NOT_FOUND" in line["message"])
    assert refusal["fields"].keys() == {"method", "peer", "code"}
    assert (refusal["fields"]["method"], refusal["fields"]["code"]) == ("GetBuffer", "NOT_FOUND")
    assert lines[-1]["message"] == "stopped"


def test_error_that_ends_the_server_is_json_too() -> None:
    done = command("serve", "--data-dir", "/proc", "--log-format", "json")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["level"] == "error"


@pytest.mark.parametrize(
    ("level", "levels"), [("warning", set()), ("info", {"INFO"}), ("debug", {"INFO", "DEBUG"})]
)
def test_level_decides_what_is_logged(tmp_path: Path, level: str, levels: set[str]) -> None:
    with ServerProcess(tmp_path / "data", "--log-level", level) as server:
        assert server.stop() == 0
        assert set(re.findall(r" (DEBUG|INFO) ", server.log_text())) == levels
