"""One server per data directory, held by a lock that dies with the server (invariant 6)."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from replayring_proto.errors import DirectoryLockedError, StorageError
from replayring_proto.layout import LOCK
from replayring_server.engine import Store
from replayring_server.engine.lock import DirectoryLock, holder_of
from tests.engine.folders import fingerprint


@contextmanager
def holder(data_dir: Path, then: str = "sys.stdin.read()") -> Iterator[subprocess.Popen[str]]:
    """A process that opens the store, says so, and goes on with `then`."""
    script = f"""
        import os, sys
        from replayring_server.engine import Store
        store = Store({str(data_dir)!r})
        store.lock.describe(f"pid {{os.getpid()}}, 127.0.0.1:50051")
        print("open", flush=True)
        {then}
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    try:
        assert process.stdout.readline() == "open\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_second_store_in_this_process_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path):
        with pytest.raises(DirectoryLockedError, match="already open in this process"):
            Store(tmp_path)
        # Being turned away must not have dropped the lock, as closing its file would.
        with pytest.raises(DirectoryLockedError):
            Store(tmp_path)
        refused = subprocess.run(
            [
                sys.executable,
                "-c",
                f"from replayring_server.engine import Store; Store({str(tmp_path)!r})",
            ],
            capture_output=True,
            text=True,
        )
        assert "DirectoryLockedError" in refused.stderr
    Store(tmp_path).close()


def test_the_same_directory_under_another_name_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    with Store(tmp_path / "data"), pytest.raises(DirectoryLockedError):
        Store(tmp_path / "link")


def test_a_store_in_another_process_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        before = fingerprint(tmp_path)
        with pytest.raises(DirectoryLockedError) as refused:
            Store(tmp_path)
        assert f"pid {process.pid}, 127.0.0.1:50051" in str(refused.value)
        assert "use another data directory" in str(refused.value)
        assert fingerprint(tmp_path) == before


def test_the_lock_is_free_when_its_holder_was_killed(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        Store(tmp_path).close()


def test_the_lock_is_free_when_its_holder_was_killed_although_a_forked_child_lives_on(
    tmp_path: Path,
) -> None:
    """The child has every descriptor of its parent, but no right to the directory."""
    fork = "os.fork() or (print('child', os.getpid(), flush=True), sys.stdin.read(), os._exit(0))"
    wait = "\n        os.wait()"
    with holder(tmp_path, fork + wait) as process:
        assert process.stdout
        child = int(process.stdout.readline().split()[1])
        with pytest.raises(DirectoryLockedError):
            Store(tmp_path)
        process.send_signal(signal.SIGKILL)
        process.wait()
        os.kill(child, 0)  # it lives
        Store(tmp_path).close()
        os.kill(child, 0)


def test_a_forked_child_that_ends_does_not_free_its_parents_lock(tmp_path: Path) -> None:
    fork = "os.fork() or (store.lock.release(), os._exit(0))"
    wait = "\n        os.wait(); print('alone', flush=True); sys.stdin.read()"
    with holder(tmp_path, fork + wait) as process:
        assert process.stdout
        assert process.stdout.readline() == "alone\n"
        with pytest.raises(DirectoryLockedError):
            Store(tmp_path)


def test_closing_frees_the_lock_and_releasing_twice_is_harmless(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.close()
    with Store(tmp_path):
        store.close()
        store.lock.release()
        with pytest.raises(DirectoryLockedError):
            Store(tmp_path)


def test_a_store_that_cannot_open_frees_the_lock(tmp_path: Path) -> None:
    (tmp_path / ".parameters").write_text("mine")
    for _ in range(2):
        with pytest.raises(StorageError, match="parameters: Not a directory; move it away"):
            Store(tmp_path)
    (tmp_path / ".parameters").unlink()
    Store(tmp_path).close()


def test_the_holder_is_named_without_taking_the_lock(tmp_path: Path) -> None:
    assert holder_of(tmp_path) is None
    with holder(tmp_path) as process:
        assert holder_of(tmp_path) == f"pid {process.pid}, 127.0.0.1:50051"
        with pytest.raises(DirectoryLockedError):  # asking has changed nothing
            Store(tmp_path)
    assert holder_of(tmp_path) is None
    with Store(tmp_path):
        assert holder_of(tmp_path) == f"pid {os.getpid()}, this process"
        # Nor does asking drop the lock of this very process, as closing its file would.
        script = f"""
            import pathlib
            from replayring_server.engine.lock import holder_of
            print(holder_of(pathlib.Path({str(tmp_path)!r})))
        """
        command = [sys.executable, "-c", textwrap.dedent(script)]
        asked = subprocess.run(command, capture_output=True, text=True)
        assert asked.stdout == f"pid {os.getpid()}\n"


def test_a_holder_of_fewer_words_is_told_in_the_same_room(tmp_path: Path) -> None:
    """What was given back to a full disk might not be had again."""
    with DirectoryLock(tmp_path) as lock:
        lock.describe("pid 4711, " + "far away, " * 30)
        size = (tmp_path / LOCK).stat().st_size
        lock.describe("pid 4711")
        assert (tmp_path / LOCK).stat().st_size == size
        assert (tmp_path / LOCK).read_text().split() == ["pid", "4711"]


def test_a_file_system_without_locks_is_said_to_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that another process has the directory."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.lockf", refuse)
    with pytest.raises(StorageError, match="a file system that has locks") as refused:
        DirectoryLock(tmp_path)
    assert not isinstance(refused.value, DirectoryLockedError)


@pytest.mark.parametrize("obstacle", ["folder", "link", "pipe"])
def test_a_lock_that_cannot_be_one_is_refused(tmp_path: Path, obstacle: str) -> None:
    """A link, say, would have the server write into a file of somebody else's choice."""
    target = tmp_path / "target"
    target.write_text("mine")
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    if obstacle == "folder":
        (data_dir / "lock").mkdir()
    elif obstacle == "link":
        (data_dir / "lock").symlink_to(target)
    else:
        os.mkfifo(data_dir / "lock")
    with pytest.raises(StorageError, match=r"cannot open .*/lock|not a regular file"):
        DirectoryLock(data_dir)
    assert target.read_text() == "mine"
