"""Refused calls in the log: the first of a kind whole, those like it as a number now and then."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from replayring_server import refusals as module
from replayring_server.refusals import RefusalLog
from replayring_server.security.tokens import Tokens
from tests.certificates import token_file
from tests.support import LocalServer
from tests.wire import Refused, Wire

NOT_FOUND, ABORTED = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ABORTED


class Turns:
    """What a log has asked to be called later. `pass_by` calls all of it."""

    def __init__(self) -> None:
        self.due: list[Callable[[], object]] = []

    def later(self, seconds: float, call: Callable[[], object]) -> None:
        assert seconds == module.EVERY_S
        self.due.append(call)

    def pass_by(self) -> None:
        due, self.due = self.due, []
        for call in due:
            call()


@pytest.fixture
def turns() -> Turns:
    return Turns()


@pytest.fixture
def log(turns: Turns, caplog: pytest.LogCaptureFixture) -> RefusalLog:
    caplog.set_level(logging.INFO)
    return RefusalLog(turns.later)


def test_a_peer_that_loops_gets_one_line_and_one_more_each_minute(
    log: RefusalLog, turns: Turns, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1000):  # on a new connection now and then
        log.add("GetItem", f"ipv4:10.0.0.1:{number}", NOT_FOUND, f"no buffer {number}")
    assert caplog.messages == ["GetItem from ipv4:10.0.0.1:0: NOT_FOUND: no buffer 0"]
    turns.pass_by()
    log.add("GetItem", "ipv4:10.0.0.1:5", NOT_FOUND, "no buffer")
    turns.pass_by()
    assert caplog.messages[1:] == [
        "GetItem from ipv4:10.0.0.1: NOT_FOUND: 999 more within 60 s, the last: no buffer 999",
        "GetItem from ipv4:10.0.0.1: NOT_FOUND: 1 more within 60 s, the last: no buffer",
    ]
    turns.pass_by()  # a minute without any
    assert not turns.due
    log.add("GetItem", "ipv4:10.0.0.1:6", NOT_FOUND, "no buffer")
    assert caplog.messages[3:] == ["GetItem from ipv4:10.0.0.1:6: NOT_FOUND: no buffer"]


def test_another_method_code_or_host_is_news(
    log: RefusalLog, caplog: pytest.LogCaptureFixture
) -> None:
    for method in ("GetItem", "GetBuffer"):
        for code in (NOT_FOUND, ABORTED):
            for host in ("ipv4:10.0.0.1", "ipv6:%5B::1%5D"):
                log.add(method, f"{host}:1", code, "no")
    assert len(caplog.messages) == 8


def test_what_was_counted_is_said_at_the_end(
    log: RefusalLog, turns: Turns, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        log.add("GetItem", "unix:", ABORTED, "no")
    log.close()
    assert caplog.messages[1:] == ["GetItem from unix: ABORTED: 2 more within 60 s, the last: no"]
    turns.pass_by()
    log.close()
    assert len(caplog.messages) == 2


def test_many_hosts_take_neither_memory_nor_lines_without_end(
    log: RefusalLog, turns: Turns, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3000):
        log.add("GetItem", f"ipv4:{number}:1", NOT_FOUND, "no")
    assert len(turns.due) == len(caplog.messages) == module.MAX_KINDS + 1
    turns.pass_by()
    (said,) = caplog.messages[module.MAX_KINDS + 1 :]
    more = 3000 - module.MAX_KINDS - 1
    assert said == f"GetItem from other hosts: NOT_FOUND: {more} more within 60 s, the last: no"


@pytest.mark.parametrize("code", ["NOT_FOUND", "UNAUTHENTICATED"])
def test_a_server_bounds_the_lines_of_what_it_refuses_and_of_whom_it_does_not_let_in(
    code: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tokens = Tokens(token_file(tmp_path / "tokens")) if code == "UNAUTHENTICATED" else None
    with LocalServer(tmp_path / "data", tokens=tokens) as server, Wire(server.address) as wire:
        for _ in range(5):
            with pytest.raises(Refused):
                wire.info("nope")
    first, last = (line for line in caplog.messages if code in line)
    assert first.startswith("GetBuffer from ipv4:127.0.0.1:")
    assert "4 more within 60 s, the last: " in last
