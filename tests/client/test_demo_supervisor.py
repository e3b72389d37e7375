"""Processes and signals of the demo, with children that only pretend."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from replayring.demo import supervisor as supervisor_module
from replayring.demo.supervisor import Ended, Event, Line, StopSignals, Supervisor
from replayring.demo.tether import tethered

PATIENCE_SECONDS = 20.0


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code]


WAIT = "print('ready', flush=True); import signal; signal.pause()"


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    with Supervisor(tmp_path) as supervisor:
        yield supervisor


def next_events(supervisor: Supervisor, count: int) -> list[Event]:
    events: list[Event] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(events) < count:
        assert time.monotonic() < deadline, f"only {events}"
        events += supervisor.events(0.1)
    return events


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_child_may_have_another_environment_also_when_it_is_started_again(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLAYRING_ODD", "here")
    show = python("import os; print(os.environ.get('REPLAYRING_ODD'))")
    supervisor.start("like this one", show)
    assert next_events(supervisor, 2)[0] == Line("like this one", "here")
    supervisor.start("other", show, restart=True, environment={"REPLAYRING_ODD": "there"})
    lines = [event for event in next_events(supervisor, 4) if isinstance(event, Line)]
    assert lines[:2] == [Line("other", "there")] * 2


def test_lines_arrive_before_the_end(supervisor: Supervisor) -> None:
    supervisor.start("child", python("print('one'); print('two')"))

    assert next_events(supervisor, 3) == [
        Line("child", "one"),
        Line("child", "two"),
        Ended("child", "ended with exit code 0", succeeded=True, restarted=False),
    ]
    assert supervisor.pids() == {}


def test_a_killed_child_is_reported_once_and_started_again(supervisor: Supervisor) -> None:
    supervisor.start("child", python(WAIT), restart=True)
    for _ in range(4):  # more often than a child may fail by itself
        assert next_events(supervisor, 1) == [Line("child", "ready")]
        killed = supervisor.pids()["child"]
        os.kill(killed, signal.SIGKILL)
        assert next_events(supervisor, 1) == [
            Ended("child", "was killed by SIGKILL", succeeded=False, restarted=True)
        ]
        assert supervisor.pids()["child"] != killed
        assert not alive(killed)


def test_a_child_that_keeps_failing_is_given_up(supervisor: Supervisor) -> None:
    code = "import sys; print('reason', file=sys.stderr); sys.exit(3)"
    supervisor.start("child", python(code), restart=True)

    ends = next_events(supervisor, 3)

    how = "ended with exit code 3: reason"
    again, given_up = Ended("child", how, False, True), Ended("child", how, False, False)
    assert ends == [again, again, given_up]
    assert supervisor.log("child").read_text() == 3 * "reason\n"


def test_the_reason_is_not_that_of_an_earlier_life(supervisor: Supervisor) -> None:
    supervisor.start("child", python("import sys; sys.exit('first')"))
    supervisor.restart_with("child", python("import os; os._exit(1)"))

    ends = next_events(supervisor, 3)

    assert [end.how for end in ends if isinstance(end, Ended)][:2] == [
        "ended with exit code 1: first",
        "ended with exit code 1",
    ]


def test_a_child_can_be_started_again_with_another_command(supervisor: Supervisor) -> None:
    supervisor.start("child", python("print('first')"))
    supervisor.restart_with(
        "child", python("print('second', flush=True); import signal; signal.pause()")
    )

    assert Line("child", "second") in next_events(supervisor, 3)


def test_closing_stdout_is_no_end(supervisor: Supervisor) -> None:
    supervisor.start("child", python("import os, signal; os.close(1); signal.pause()"))
    supervisor.start("other", python("print('ready', flush=True); input()"))

    assert next_events(supervisor, 1)[0] == Line("other", "ready")
    assert "child" in supervisor.pids()


def test_close_leaves_no_process(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        for number in range(3):
            supervisor.start(f"child-{number}", python(WAIT), restart=True)
        next_events(supervisor, 3)
        pids = list(supervisor.pids().values())

    assert not any(alive(pid) for pid in pids)


def test_close_kills_what_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "SECONDS_TO_END", 0.2)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + WAIT
    with Supervisor(tmp_path) as supervisor:
        supervisor.start("child", python(deaf))
        next_events(supervisor, 1)
        pid = supervisor.pids()["child"]

    assert not alive(pid)


def test_children_are_out_of_reach_of_the_terminal(supervisor: Supervisor) -> None:
    supervisor.start("child", python(WAIT))
    next_events(supervisor, 1)

    assert os.getsid(supervisor.pids()["child"]) != os.getsid(0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_children_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    pipe = tmp_path / "held-open-by-the-child"
    os.mkfifo(pipe)
    child = f"file = open({str(pipe)!r}, 'wb', 0); file.write(b'ready'); {WAIT}"
    parent = (
        "import sys; from pathlib import Path;"
        "from replayring.demo.supervisor import Supervisor;"
        f"s = Supervisor(Path({str(tmp_path)!r})); s.start('child', {python(child)!r});"
        "[s.events(1.0) for _ in iter(int, 1)]"
    )
    with subprocess.Popen([sys.executable, "-c", parent]) as process, pipe.open("rb", 0) as held:
        assert held.read(5) == b"ready"
        process.kill()
        readable, _, _ = select.select([held], [], [], PATIENCE_SECONDS)
        assert readable, "the child lives on"
        assert held.read() == b""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_a_tether_to_a_parent_that_is_gone_holds_nothing() -> None:
    command = tethered(python("print('ran')"))
    command[command.index(str(os.getpid()))] = "1"

    result = subprocess.run(command, capture_output=True, timeout=PATIENCE_SECONDS)

    assert result.returncode == 1
    assert result.stdout == b""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_become_a_flag_and_handlers_are_put_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopSignals() as stop:
        assert stop.received is None
        signal.raise_signal(number)
        assert stop.received == number

    assert signal.getsignal(number) is before
