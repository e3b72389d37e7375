"""`replayring top` of several servers: sums, who is there, one that is killed and returns."""

from __future__ import annotations

import argparse
import json
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import astuple
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import replayring
from replayring.sharded.statuses import ShardedServerStatus, total
from replayring.top import command
from replayring.top.rates import Rates
from replayring.top.readings import Outcome, readings
from replayring_proto.server_status import LimitUse
from tests.observability.made import GIB, buffer, method, server
from tests.observability.terminals import Terminal, drawn, once, row, top
from tests.sharded.conftest import SPEC, Shards, add_to, shards
from tests.support import PATIENCE, ServerProcess, eventually

__all__ = ["shards"]


def told(*names: str, **there: Any) -> ShardedServerStatus:
    """Returns what shards say together, of whom only those given by their first letter answered."""
    return total(names, {name: there[name[0]] for name in names if name[0] in there})


def test_the_screen_has_the_sums_and_each_shard() -> None:
    old = told("a:1", "b:2", a=server(), b=server())
    added = buffer(next_index=450, frames_sampled=900)
    now = told("a:1", "b:2", a=server(uptime_s=4002), b=server(uptime_s=4002, buffers=(added,)))
    lines = drawn(now, old)
    assert lines[0].startswith("replayring 1.2.3 at 2 of 2 shards  6 connections, 2 calls")
    found = row(lines, "online")
    assert (found["frames"], found["capacity"], found["writers"]) == ("700", "2,000", "4")
    assert (found["frames/s"], found["sampled/s"]) == ("100", "200")
    assert row(lines, "a:1")["frames/s"] == "0"
    found = row(lines, "b:2")
    assert (found["state"], found["frames"]) == ("up 1 h 6 m", "450")
    assert (found["frames/s"], found["sampled/s"], found["clients"]) == ("100", "200", "3")


def test_one_that_is_away_is_shown_as_such() -> None:
    old = told("a:1", "b:2", a=server(), b=server())
    now = told("a:1", "b:2", a=server(uptime_s=4002))
    lines = drawn(now, old, away={"b:2": 75.0})
    assert "at 1 of 2 shards" in lines[0]
    assert "away, and not counted: b:2 (1 min)" in lines
    found = row(lines, "b:2")
    assert found.pop("shard") == "b:2"
    assert found.pop("state") == "away 1 min"
    assert set(found.values()) == {"-"}
    assert row(lines, "a:1")["state"] == "up 1 h 6 m"
    assert row(lines, "online")["frames"] == "250"


def test_one_that_refuses_is_shown_as_such() -> None:
    now = total(["a:1", "b:2"], {"a:1": server()}, {"b:2": "the token is wrong"})
    lines = drawn(now)
    assert "at 1 of 2 shards" in lines[0]
    assert "not counted: b:2: the token is wrong" in lines
    assert not any("away" in line for line in lines)
    found = row(lines, "b:2")
    assert found["state"] == "refuses"
    assert row(lines, "online")["frames"] == "250"


def test_when_all_are_away_none_looks_as_if_it_were_there() -> None:
    last = told("a:1", "b:2", a=server(), b=server())
    lines = drawn(last, trouble="all shards are away", away={"a:1": 3.0, "b:2": 9.0})
    assert "all shards are away" in lines
    assert row(lines, "a:1")["state"] == "away 3 s"
    assert row(lines, "b:2")["state"] == "away 9 s"


def test_what_is_scarce_is_told_of_the_shard_that_lacks_it() -> None:
    full = server(
        limits=(LimitUse("max_calls", 90, 100),), warnings=("it smokes",), disk_free_bytes=GIB
    )
    lines = drawn(told("a:1", "b:2", a=server(), b=full))
    assert "b:2: it smokes" in lines
    assert "b:2: max_calls: 90 of 100 are in use (90%)" in lines
    assert "b:2: the disk has 1.0 GiB left: new buffers may be refused" in lines
    assert not any(line.startswith(("a:1: ", "max_calls", "the disk")) for line in lines)


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("height", [8, 12, 24, 50])
def test_many_shards_fit_any_terminal(width: int, height: int) -> None:
    many = server(
        buffers=tuple(buffer(f"buffer-{number}" * 5) for number in range(30)),
        methods=tuple(method(f"Method{number}") for number in range(11)),
    )
    names = [f"replay-{number:02}.example.org:50051" for number in range(40)]
    lines = drawn(total(names, dict.fromkeys(names[:30], many)), width=width, height=height)
    assert max(map(len, lines)) <= width
    for what in ("buffer-0", "replay-00", "Method"):
        assert any(line.startswith(what) for line in lines)
    if height >= 24 and width >= 80:
        assert len(lines) <= height


def test_eighty_columns_show_what_matters_of_a_shard() -> None:
    found = row(drawn(told("a:1", "b:2", a=server(), b=server()), width=80), "a:1")
    assert {"state", "frames", "frames/s", "sampled/s"} <= found.keys()


@pytest.mark.parametrize("width", [80, 200])
def test_blocks_that_shards_send_ahead_are_not_shown_as_batches(width: int) -> None:
    old = told("a:1", "b:2", a=server(), b=server())
    ahead = server(uptime_s=4002, buffers=(buffer(batches_sampled=5000, frames_sampled=900),))
    lines = drawn(told("a:1", "b:2", a=ahead, b=ahead), old, width=width)
    found = row(lines, "online")
    assert "batches/s" not in found
    assert found["sampled/s"] == "400"


# The command


@pytest.fixture
def running(shards: Shards) -> Shards:
    """Two shards with a buffer, of 3 and 4 frames."""
    with replayring.connect(shards.address, timeout=20) as client:
        there = client.create_buffer("online", SPEC, 2000, fps=10)
        add_to(there, 0, 3)
        add_to(there, 1, 4)
    return shards


def test_once_prints_sums_and_shards(running: Shards) -> None:
    code, out, err = once(running.address, "--interval", "0.2", COLUMNS="120")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert "at 2 of 2 shards" in lines[0]
    found = row(lines, "online")
    assert (found["frames"], found["frames/s"], found["capacity"]) == ("7", "0", "2,000")
    assert [row(lines, name)["frames"] for name in running.addresses] == ["3", "4"]


def test_a_shard_that_is_away_from_the_start_is_shown(running: Shards) -> None:
    running.kill(0)
    code, out, err = once(running.address, "--interval", "0.2", COLUMNS="120")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert row(lines, running.addresses[0])["state"].startswith("away ")
    assert row(lines, running.addresses[1])["frames"] == "4"
    assert row(lines, "online")["frames"] == "4"


def test_no_shard_at_all_is_an_error() -> None:
    code, out, err = once("127.0.0.1:1,127.0.0.1:2")
    assert (code, out) == (1, "")
    assert "could not be reached" in err
    assert err.count("\n") == 1


def test_json_has_the_sums_and_each_shard(running: Shards) -> None:
    code, out, err = once(running.address, "--json")
    assert (code, err) == (0, "")
    (line,) = out.splitlines()
    status = json.loads(line)
    assert status["buffers"][0]["next_index"] == 7
    there = [status["shards"][name]["buffers"][0]["next_index"] for name in running.addresses]
    assert there == [3, 4]


def test_json_goes_on_without_a_shard_and_takes_it_back(running: Shards) -> None:
    first, second = running.addresses
    with top(running.address, "--json", "--interval", "0.2") as process:
        assert process.stdout is not None
        told = map(json.loads, process.stdout)
        assert next(told)["shards"][first] is not None
        running.kill(0)
        alone = next(one for one in told if one["shards"][first] is None)
        assert alone["buffers"][0]["next_index"] == 4
        assert alone["shards"][second] is not None
        running.revive(0)
        back = next(one for one in told if one["shards"][first] is not None)
        assert back["buffers"][0]["next_index"] == 7
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_no_rate_is_wrong_while_a_shard_leaves_and_returns(how: str, running: Shards) -> None:
    """Nothing is added or sampled meanwhile, so whatever is said at all must be 0."""
    leave, come_back = {
        "kill": (lambda: running.kill(0), lambda: running.revive(0)),
        "freeze": (
            lambda: running.signal(0, signal.SIGSTOP),
            lambda: running.signal(0, signal.SIGCONT),
        ),
    }[how]
    name = running.addresses[0]
    with replayring.connect(running.address, timeout=20, same_host=False) as client:
        assert isinstance(client, replayring.ShardedClient)
        for shard in client._shards:
            shard.client.buffer("online").sample(1000)
        outcomes = readings(client, 0.1)
        seen = taken(outcomes, lambda outcome: not outcome.away)
        leave()
        seen += taken(outcomes, lambda outcome: name in outcome.away)
        assert seen[-1].away[name] < 60
        come_back()
        seen += taken(outcomes, lambda outcome: not outcome.away)
        seen += taken(outcomes, lambda outcome: not outcome.away)
    told = [each.reading for each in seen if each.reading is not None]
    known = [
        rates
        for before, now in pairwise(told)
        if (rates := Rates(before, now).of_buffer(now.status.buffers[0])) is not None
    ]
    assert known
    assert {figure for rates in known for figure in astuple(rates)} == {0.0}
    assert Rates(told[-2], told[-1]).of_shard(name) is not None, "it is compared again"


def taken(outcomes: Iterator[Outcome], until: Callable[[Outcome], bool]) -> list[Outcome]:
    """Returns what comes of asking, up to the first that is as wanted."""
    found = []
    for outcome in outcomes:
        found.append(outcome)
        if until(outcome):
            break
    return found


def test_since_when_a_shard_is_away_goes_on_while_all_are(running: Shards) -> None:
    first, second = running.addresses
    with replayring.connect(running.address, timeout=20) as client:
        outcomes = readings(client, 0.1)
        next(outcomes)
        running.kill(0)
        taken(outcomes, lambda outcome: first in outcome.away)
        running.kill(1)
        nobody = taken(outcomes, lambda outcome: outcome.reading is None)[-1]
        assert nobody.trouble is not None
        assert nobody.trouble.startswith("all shards are away, for ")
        assert nobody.away[first] > nobody.away[second]
        running.revive(1)
        back = taken(outcomes, lambda outcome: outcome.reading is not None)[-1]
        assert back.trouble is None
        assert back.away.keys() == {first}
        assert back.away[first] > nobody.away[first]


@pytest.fixture
def terminal(running: Shards) -> Iterator[Terminal]:
    terminal = Terminal(running.address, "--interval", "0.2", columns=100)
    yield terminal
    terminal.close()


def test_the_terminal_shows_one_that_is_away_and_takes_it_back(
    running: Shards, terminal: Terminal
) -> None:
    def last_screen() -> str:
        return ["", *terminal.seen().split("\x1b[H")[1:-1]][-1]

    eventually(lambda: "at 2 of 2 shards" in last_screen(), "both are there")
    running.kill(0)
    eventually(lambda: "at 1 of 2 shards" in last_screen(), "one is missed")
    assert f"away, and not counted: {running.addresses[0]}" in last_screen()
    eventually(lambda: "away 1 s" in last_screen(), "and for how long")
    running.kill(1)
    eventually(lambda: "all shards are away" in last_screen(), "both are missed")
    running.revive(0)
    running.revive(1)
    eventually(lambda: "at 2 of 2 shards" in last_screen(), "both are back")
    eventually(lambda: "away" not in last_screen(), "and nothing says otherwise")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.process.wait(PATIENCE) == 0
    assert "Traceback" not in terminal.seen()
    assert "cannot be reached" not in terminal.seen()  # which the client logs


def test_a_name_with_several_addresses_is_several_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def look_up(host: str, port: int, family: int, kind: int) -> list[Any]:
        assert (host, family) == ("replay", socket.AF_INET)
        return [(family, kind, 6, "", (at, port)) for at in ("127.0.0.1", "127.0.0.2")]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with ServerProcess(tmp_path / "a") as one:
        port = one.address.rpartition(":")[2]
        with ServerProcess(tmp_path / "b", listen=f"127.0.0.2:{port}") as two:
            parser = argparse.ArgumentParser()
            command.add_arguments(parser)
            given = [f"dns:///replay:{port}", "--once", "--json"]
            assert command.run(parser.parse_args(given)) == 0
            shown = json.loads(capsys.readouterr().out)["shards"]
            assert list(shown) == [one.address, two.address]
            assert None not in shown.values()


def test_a_name_with_one_address_is_one_server(running: Shards) -> None:
    address = running.addresses[0].replace("127.0.0.1", "dns:///localhost")
    code, out, err = once(address, "--interval", "0.2", COLUMNS="120")
    assert (code, err) == (0, "")
    assert f"at {address}" in out.splitlines()[0]
    assert "shard" not in out
