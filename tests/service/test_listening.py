"""An address that is taken: the error says who has it, as far as that can be known."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from replayring_server import listening
from replayring_server.listening import cannot_listen
from tests.support import ServerProcess, refusal_of

NOBODY = 65534


def said_of(host: str, port: int) -> str:
    return str(cannot_listen("--listen", host, port, RuntimeError("told no reason")))


def port_of(taken: socket.socket) -> int:
    return int(taken.getsockname()[1])


@contextmanager
def foreign_listener(host: str = "127.0.0.1") -> Iterator[tuple[int, int]]:
    """Yields the pid of a process that is no server of ours, and the port it listens on."""
    script = (
        "import socket, sys\n"
        f"family = socket.{'AF_INET6' if ':' in host else 'AF_INET'}\n"
        f"taken = socket.create_server(({host!r}, 0), family=family)\n"
        "print(taken.getsockname()[1], flush=True)\n"
        "sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    try:
        yield process.pid, int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("flag", ["--listen", "--health-listen", "--metrics-listen"])
def test_second_server_on_a_port_names_the_first(tmp_path: Path, flag: str) -> None:
    with ServerProcess(tmp_path / "data") as server:
        flags = [] if flag == "--listen" else ["--listen", "127.0.0.1:0"]
        line = refusal_of("--data-dir", str(tmp_path / "other"), *flags, flag, server.address)
        assert f"cannot listen on {server.address} (Address already in use)" in line
        program = Path(f"/proc/{server.pid}/comm").read_text().strip()  # "python", "python3.11"
        assert f"it is held by pid {server.pid} ({program}); stop it" in line
        assert f"or give {flag} another port (0 takes a free one)" in line


def test_a_foreign_process_is_named() -> None:
    with foreign_listener() as (pid, port):
        assert f"pid {pid} (" in said_of("127.0.0.1", port)
        assert f"pid {pid} (" in said_of("localhost", port)
        assert f"pid {pid} (" in said_of("0.0.0.0", port)


def test_several_processes_that_share_a_socket_are_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        child = subprocess.Popen(["sleep", "60"], pass_fds=[taken.fileno()])
        try:
            said = said_of("127.0.0.1", port_of(taken))
        finally:
            child.kill()
            child.wait()
    assert f"pid {os.getpid()} (" in said
    assert f"pid {child.pid} (sleep)" in said


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_port_that_is_taken_under_one_of_a_names_addresses_is_taken(
    tmp_path: Path, address: str
) -> None:
    """To gRPC "localhost" is two, and it is content with either alone."""
    if address == "::1" and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    with foreign_listener(address) as (pid, port):
        line = refusal_of("--data-dir", str(tmp_path), "--listen", f"localhost:{port}")
    assert f"cannot listen on localhost:{port} (Address already in use)" in line
    assert f"it is held by pid {pid} (" in line


def test_a_port_of_this_very_process_is_no_other_ones() -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours:
        listening.check_alone("--listen", "localhost", port_of(ours))


def test_one_on_another_address_of_this_machine_is_not_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = port_of(taken)
        with socket.create_server(("127.0.0.2", port)):
            (other,) = listening._listeners("127.0.0.2", port)
            (first,) = listening._listeners("127.0.0.1", port)
        assert other != first
        assert listening._listeners("127.0.0.3", port) == []


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(("host", "bound"), [("[::1]", "::1"), ("[::]", "::"), ("127.0.0.1", "::")])
def test_ipv6_is_understood(host: str, bound: str) -> None:
    if not has_ipv6():
        pytest.skip("this machine has no IPv6")
    family = socket.AF_INET6
    with socket.create_server((bound, 0), family=family, dualstack_ipv6=True) as taken:
        said = said_of(host, port_of(taken))
    assert f"cannot listen on {host}:" in said
    assert f"pid {os.getpid()} (" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_who_may_not_look_into_a_process_is_told_whose_it_is() -> None:
    with foreign_listener() as (pid, port):
        os.seteuid(NOBODY)
        try:
            said = said_of("127.0.0.1", port)
        finally:
            os.seteuid(0)
    assert "held by a process of user root, and which one cannot be told" in said
    assert str(pid) not in said.replace(str(port), "")


def test_a_process_that_is_not_to_be_seen_is_told_by_its_user(tmp_path: Path) -> None:
    """As in a container that shares the network of its host."""
    (tmp_path / "net").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        lines = Path("/proc/net/tcp").read_text().replace(f" {os.geteuid()} ", " 4242424 ")
        (tmp_path / "net" / "tcp").write_text(lines)
        found = listening._listeners("127.0.0.1", port_of(taken), tmp_path)
        assert "held by a process of uid 4242424" in listening._who(found, tmp_path)


def test_one_that_is_bound_and_does_not_listen_cannot_be_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert "it cannot be told which process uses it" in said_of("127.0.0.1", port_of(taken))


def test_without_proc_it_cannot_be_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert listening._listeners("127.0.0.1", port_of(taken), tmp_path) == []


def test_an_address_of_another_machine_is_no_process_of_this_one() -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        said = said_of("192.0.2.1", port_of(taken))
    assert "(Cannot assign requested address); give --listen an address of this machine" in said


def test_a_name_that_nobody_knows_is_said_to_be_one() -> None:
    said = said_of("host.invalid", 1)
    assert "told no reason" not in said
    assert "give --listen an address of this machine" in said


@pytest.mark.parametrize("flag", ["--listen", "--health-listen", "--metrics-listen"])
@pytest.mark.parametrize("host", ["127.0.0..1", f"{'a' * 64}.example.org"])
def test_a_name_that_cannot_be_is_said_to_be_none(tmp_path: Path, flag: str, host: str) -> None:
    flags = [] if flag == "--listen" else ["--listen", "127.0.0.1:0"]
    line = refusal_of("--data-dir", str(tmp_path), *flags, flag, f"{host}:0", "--insecure")
    assert f"cannot listen on {host}:0 (no name that a host can have)" in line
    assert f"give {flag} an address of this machine" in line


def test_a_process_cannot_forge_a_line_of_the_log(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "comm").write_bytes(b"a\nERROR \x1b[31m\xff\n")
    name = listening._name(tmp_path, 7)
    assert name.isprintable()
    assert name.startswith("a?ERROR ?[31m")
