"""`replayring top`: rates, what is drawn at which size, restarts, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import replayring
from replayring.top.rates import Rates, Reading
from replayring_proto.server_status import Durations, LimitUse
from tests.certificates import READ, Authority, Pair, token_file
from tests.observability.made import GIB, buffer, method, server
from tests.observability.terminals import Terminal, drawn, once, row, top
from tests.support import PATIENCE, ServerProcess, eventually


def test_rates_are_differences_over_the_time_between_two_readings() -> None:
    old = server(methods=(method(work=Durations((0.001, 1.0), (10, 0, 0), 0.01)),))
    new = server(
        uptime_s=4002.0,
        received_bytes=4 << 20,
        sent_bytes=1 << 10,
        buffers=(buffer(next_index=450, frames_sampled=900, batches_sampled=8),),
        methods=(
            method(
                finished={"OK": 2, "CANCELLED": 5, "NOT_FOUND": 6},
                work=Durations((0.001, 1.0), (10, 4, 0), 1.0),
            ),
        ),
    )
    lines = drawn(new, old)
    assert "in 2.0 MiB/s" in lines[0]
    assert "out 512 B/s" in lines[0]
    found = row(lines, "online")
    assert (found["frames/s"], found["sampled/s"], found["batches/s"]) == ("100", "200", "4")
    assert found["per insert"] == "2.0"
    assert found["fill"] == "45%"
    assert (found["writers"], found["quietest"]) == ("2", "1 min")
    calls = row(lines, "SampleBatch")
    assert (calls["done/s"], calls["refused/s"]) == ("2", "3")
    assert calls["half below"] == "1 s"  # of these four; the ten before were fast


def test_the_first_reading_has_no_rates() -> None:
    assert row(drawn(server()), "online")["frames/s"] == "-"
    assert row(drawn(server()), "SampleBatch")["done/s"] == "-"


def test_a_restarted_server_has_none_either() -> None:
    lines = drawn(server(uptime_s=1.0), server(buffers=(buffer(next_index=900),)))
    assert row(lines, "online")["frames/s"] == "-"
    assert "in -" in lines[0]


def test_nor_has_a_buffer_made_anew_under_the_same_name() -> None:
    old = server(buffers=(buffer(buffer_id="another", next_index=900),))
    assert row(drawn(server(), old), "online")["frames/s"] == "-"


def test_a_reading_of_the_same_moment_gives_none() -> None:
    reading = Reading(1.0, 1.0, server())
    assert Rates(reading, reading).received_bytes is None


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (LimitUse("max_calls", 81, 100), "max_calls: 81 of 100 are in use (81%)"),
        (LimitUse("max_staging_bytes", 2 * GIB, 2 * GIB, 7), "2.0 GiB of 2.0 GiB"),
        (LimitUse("max_sending_bytes", 0, GIB, 1), "calls that wait: 1"),
    ],
)
def test_limits_that_are_near_are_warned_of(limit: LimitUse, words: str) -> None:
    assert any(words in line for line in drawn(server(limits=(limit,))))


def test_others_are_not() -> None:
    assert not any("in use" in line for line in drawn(server()))


def test_warnings_and_a_full_disk_are_shown() -> None:
    lines = drawn(server(warnings=("the disk smokes",), disk_free_bytes=GIB), trouble="away")
    assert {"the disk smokes", "away"} <= set(lines)
    assert any("1.0 GiB left" in line for line in lines)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 132, 200])
@pytest.mark.parametrize("height", [8, 12, 24, 50])
def test_it_fits_any_terminal(width: int, height: int) -> None:
    many = server(
        buffers=tuple(buffer(f"buffer-{number}" * 5) for number in range(30)),
        methods=tuple(method(f"Method{number}") for number in range(11)),
        warnings=("x" * 300,),
    )
    lines = drawn(many, server(), width=width, height=height)
    assert max(map(len, lines)) <= width
    assert any(line.startswith("buffer-0") for line in lines)
    assert any(line.startswith("Method") for line in lines)
    if height >= 24 and width >= 60:
        assert len(lines) <= height
        assert any("more" in line for line in lines) == (height == 24)


def test_eighty_columns_show_what_matters() -> None:
    found = row(drawn(server(), server(uptime_s=1.0), width=80), "online")
    wanted = {"fill", "frames/s", "batches/s", "per insert", "writers", "quietest"}
    assert wanted <= found.keys()


# The command


@pytest.fixture
def running(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "data") as server, replayring.connect(server.address) as client:
        buffer = client.create_buffer("online", {"x": {"shape": (), "dtype": "int64"}}, 50, fps=10)
        buffer.add_episode({"x": range(20)})
        yield server


def test_once_prints_one_screen_with_rates(running: ServerProcess) -> None:
    code, out, err = once(running.address, "--interval", "0.2", COLUMNS="120")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert sum(line.startswith("replayring ") for line in lines) == 1
    found = row(lines, "online")
    assert (found["fill"], found["frames/s"], found["frames"]) == ("40%", "0", "20")


def test_json_is_the_status(running: ServerProcess) -> None:
    code, out, err = once(running.address, "--json")
    assert (code, err) == (0, "")
    (line,) = out.splitlines()
    status = json.loads(line)
    assert status["buffers"][0]["next_index"] == 20
    assert status["methods"][0]["finished"] == {"OK": 1}


def test_json_needs_no_rich_and_the_screen_says_so(running: ServerProcess) -> None:
    code = "import sys; sys.modules['rich'] = None; sys.argv = ['replayring', 'top', *sys.argv[1:]]"
    code += "; from replayring_proto.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, running.address, "--once"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert 'pip install "replayring[top]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_readings_go_on_over_a_restart(running: ServerProcess) -> None:
    with top(running.address, "--json", "--interval", "0.2") as process:
        assert process.stdout is not None
        process.stdout.readline()
        running.kill()
        with ServerProcess(running.data_dir, listen=running.address):
            readings = map(json.loads, process.stdout)
            assert next(one for one in readings if one["buffers"][0]["opened_index"] == 20)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_whoever_has_seen_enough_may_go(running: ServerProcess) -> None:
    with top(running.address, "--json", "--interval", "0.1") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(PATIENCE) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_server_that_is_not_there_is_an_error() -> None:
    code, out, err = once("127.0.0.1:1")
    assert (code, out) == (1, "")
    assert "replayring top: " in err
    assert "could not be reached" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "fast", "1e9"])
def test_an_interval_is_a_sensible_number_of_seconds(interval: str) -> None:
    code, _, err = once("127.0.0.1:1", f"--interval={interval}")
    assert code == 2
    assert "not a number of seconds" in err


def test_it_connects_as_the_client_does(tmp_path: Path, authority: Authority, pair: Pair) -> None:
    tokens = token_file(tmp_path / "tokens")
    (tmp_path / "token").write_text(READ)
    flags = [*pair.flags, "--token-file", str(tokens)]
    with ServerProcess(tmp_path / "data", *flags) as server:
        address = server.address.replace("127.0.0.1", "localhost")
        options = ["--json", "--tls-ca", str(authority.cert)]
        code, out, err = once(address, *options, "--token-file", str(tmp_path / "token"))
        assert (code, err) == (0, "")
        assert json.loads(out)["version"] == replayring.__version__
        assert once(address, *options, REPLAYRING_TOKEN=READ)[0] == 0
        code, _, err = once(address, *options)
        assert code == 1
        assert "without one: --token-file FILE" in err
        code, _, err = once(address, "--json")
        assert code == 1
        assert "connect with --tls, or with --tls-ca FILE" in err


@pytest.fixture
def terminal(running: ServerProcess) -> Iterator[Terminal]:
    terminal = Terminal(running.address, "--interval", "0.2")
    yield terminal
    terminal.close()


def test_on_a_terminal_it_is_redrawn_and_leaves_it_as_it_was(
    running: ServerProcess, terminal: Terminal
) -> None:
    eventually(lambda: terminal.seen().count("online") >= 3, "it is redrawn")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.process.wait(PATIENCE) == 0
    seen = terminal.seen()
    enter, leave = "\x1b[?1049h", "\x1b[?1049l"
    assert seen.index(enter) < seen.index("online") < seen.rindex(leave)
    assert "\x1b[?25h" in seen[seen.rindex("online") :]  # the cursor is back
    assert "Traceback" not in seen


def test_it_says_that_the_server_is_away_and_finds_it_again(
    running: ServerProcess, terminal: Terminal
) -> None:
    eventually(lambda: "online" in terminal.seen(), "it is drawn")
    running.kill()
    eventually(lambda: "the server is away" in terminal.seen(), "it is said")
    with ServerProcess(running.data_dir, listen=running.address):
        end = len(terminal.seen())

        def back() -> bool:
            screens = terminal.seen()[end:].split("\x1b[H")[1:-1]
            return bool(screens) and "the server is away" not in screens[-1]

        eventually(back, "it is back")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.process.wait(PATIENCE) == 0
    assert "cannot be reached" not in terminal.seen()  # which the client logs
