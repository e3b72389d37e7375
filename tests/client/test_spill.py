"""What finds no room in memory waits in files: in order, bounded, and sent exactly once."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replayring
from replayring import _spill
from replayring._spill import Spill
from tests.client import fake_store
from tests.client.conftest import SPEC
from tests.client.fake_server import FakeServer
from tests.client.fake_store import FakeStore
from tests.client.forking import succeeds_in_child
from tests.client.spilling_actor import episode
from tests.client.writing import store
from tests.support import PATIENCE, ServerProcess, read_line

pytestmark = pytest.mark.usefixtures("no_threads_left")

FILE_BYTES = 164  # what one of these episodes takes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "robots" / "7"


def files(folder: Path) -> list[int]:
    return sorted(int(path.stem) for path in folder.glob("*.episode"))


def values(stored: FakeStore) -> list[Any]:
    return [kept.arrays["reward"][0] for kept in stored.stored]


def writer_on(buffer: replayring.Buffer, folder: Path, **options: Any) -> replayring.Writer:
    return buffer.writer(spill_dir=folder, max_in_flight_bytes=1, **options)


class TestOneProcess:
    def test_episodes_keep_their_order_and_files_go_with_acknowledgements(
        self, fake: FakeServer, impatient: replayring.Buffer, folder: Path
    ) -> None:
        with writer_on(impatient, folder) as writer:
            assert [writer.add_episode(episode(n)) for n in range(1, 6)] == [1, 2, 3, 4, 5]
            assert files(folder) == [2, 3, 4, 5]
            assert writer.pending == [1, 2, 3, 4, 5]
            stored = store(fake, at_3=fake_store.LOST_AFTER, at_5=fake_store.LOST_MIDWAY)
            writer.flush(timeout=PATIENCE)
            assert (writer.pending, writer.acknowledged, files(folder)) == ([], 5, [])
            writer.add_episode(episode(6))
            writer.flush(timeout=PATIENCE)
        assert values(stored) == [1, 2, 3, 4, 5, 6]
        assert stored.sequences() == [1, 2, 3, 4, 5, 6]

    def test_with_room_in_memory_nothing_is_written(
        self, impatient: replayring.Buffer, folder: Path, fake: FakeServer
    ) -> None:
        with impatient.writer(spill_dir=folder) as writer:
            writer.add_episode(episode(1))
            assert files(folder) == []
            store(fake)
            writer.flush(timeout=PATIENCE)

    def test_only_its_owner_and_group_may_read_it(
        self, impatient: replayring.Buffer, folder: Path
    ) -> None:
        before = os.umask(0)
        try:
            writer = writer_on(impatient, folder)
            for number in (1, 2):
                writer.add_episode(episode(number))
        finally:
            os.umask(before)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o750
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o640}
        with pytest.raises(replayring.ServerUnavailableError):
            writer.close()

    def test_sequences_are_reserved_also_if_that_failed_at_first(
        self, fake: FakeServer, impatient: replayring.Buffer, folder: Path
    ) -> None:
        """Or the next process would number its own episodes alike."""
        store(fake)
        with impatient.writer(spill_dir=folder) as writer:
            (folder / "writer.tmp").mkdir()  # where its state is written
            for _ in range(2):
                with pytest.raises(replayring.StorageError, match="cannot write to"):
                    writer.add_episode(episode(1))
            (folder / "writer.tmp").rmdir()
            sequence = writer.add_episode(episode(1))
            assert json.loads((folder / "writer").read_text())["reserved"] > sequence
            writer.flush(timeout=PATIENCE)

    @pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
    def test_a_forked_child_may_use_it_once_its_parent_does_not(
        self, fake: FakeServer, impatient: replayring.Buffer, folder: Path
    ) -> None:
        store(fake)
        reading, writing = os.pipe()

        def work() -> None:
            with pytest.raises(replayring.DirectoryLockedError, match="another process"):
                Spill(folder, "fake", None, 1)
            os.write(there, b"x")
            os.read(reading, 1)
            Spill(folder, "fake", None, 1).close()

        told, there = os.pipe()
        with impatient.writer(spill_dir=folder) as writer, ThreadPoolExecutor(1) as threads:
            child = threads.submit(succeeds_in_child, work)
            os.read(told, 1)
            writer.close()
            os.write(writing, b"x")
            assert child.result(PATIENCE)
        for end in (reading, writing, told, there):
            os.close(end)

    def test_full_it_waits_and_loses_nothing(
        self,
        fake: FakeServer,
        impatient: replayring.Buffer,
        folder: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        writer = writer_on(impatient, folder, max_spill_bytes=3 * FILE_BYTES)
        for number in (1, 2, 3, 4):
            writer.add_episode(episode(number))
        assert files(folder) == [2, 3, 4]
        with pytest.raises(
            replayring.ServerUnavailableError, match=r"4 episodes still wait .*1 to 4"
        ):
            writer.add_episode(episode(5))
        assert writer.pending == [1, 2, 3, 4]
        assert [path.stat().st_size for path in folder.glob("*.episode")] == [FILE_BYTES] * 3
        stored = store(fake)
        writer.flush(timeout=PATIENCE)
        assert writer.add_episode(episode(5)) == 5
        writer.flush(timeout=PATIENCE)
        writer.close()
        assert values(stored) == [1, 2, 3, 4, 5]
        assert caplog.text.count("spills what is more") == 1
        assert caplog.text.count("waits until there is room") == 1
        assert f"{3 * FILE_BYTES} of {3 * FILE_BYTES} bytes in {folder}" in caplog.text
        assert "the server has been away for" in caplog.text
        assert caplog.text.count("has nothing left to send") == 1

    def test_a_disk_that_takes_no_more_is_an_error_and_the_steps_are_kept(
        self,
        fake: FakeServer,
        impatient: replayring.Buffer,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def full(fd: int, *args: Any, **kwargs: Any) -> Any:
            os.close(fd)
            raise OSError(28, "No space left on device")

        writer = writer_on(impatient, folder)
        writer.add_episode(episode(1))
        writer.append({"state": [2, 2], "reward": 2})
        with monkeypatch.context() as patched:
            patched.setattr("builtins.open", full)
            with pytest.raises(replayring.StorageError, match=r"No space left.*make room"):
                writer.end_episode()
        assert files(folder) == []
        writer.end_episode()
        stored = store(fake)
        writer.flush(timeout=PATIENCE)
        writer.close()
        assert values(stored) == [1, 2]
        assert stored.sequences() == [1, 2]

    @pytest.mark.parametrize("damage", ["cut", "bit", "magic", "gone"])
    def test_a_damaged_file_is_named_and_set_aside_and_the_others_are_sent(
        self, damage: str, fake: FakeServer, impatient: replayring.Buffer, folder: Path
    ) -> None:
        writer = writer_on(impatient, folder)
        for number in (1, 2, 3):
            writer.add_episode(episode(number))
        victim = folder / f"{2:020d}.episode"
        content = bytearray(victim.read_bytes())
        if damage == "cut":
            victim.write_bytes(content[:-1])
        elif damage == "gone":
            victim.unlink()
        else:
            content[0 if damage == "magic" else -20] ^= 1
            victim.write_bytes(content)
        stored = store(fake)
        with pytest.raises(replayring.StorageError, match=f"sequence 2 of writer .*{victim}"):
            writer.flush(timeout=PATIENCE)
        writer.flush(timeout=PATIENCE)  # the error may have been there before the third was sent
        assert values(stored) == [1, 3]
        assert files(folder) == []
        assert victim.with_suffix(".damaged").exists() == (damage != "gone")
        writer.close()

    @pytest.mark.parametrize(
        "failure", [OSError(errno.EMFILE, "Too many open files"), MemoryError()]
    )
    def test_a_file_that_cannot_be_read_at_present_is_sent_later(
        self,
        failure: Exception,
        fake: FakeServer,
        impatient: replayring.Buffer,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Once another part of the program has let go of what it has too much of."""
        opened = _spill._open

        def open_later(path: Path, flags: int) -> int:
            if flags == os.O_RDONLY and "keeps trying" not in caplog.text:
                raise failure
            return opened(path, flags)

        monkeypatch.setattr(_spill, "_open", open_later)
        with writer_on(impatient, folder) as writer:
            for number in (1, 2, 3):
                writer.add_episode(episode(number))
            stored = store(fake)
            writer.flush(timeout=PATIENCE)
        assert values(stored) == [1, 2, 3]
        assert f"{2:020d}.episode cannot be read at present" in caplog.text
        assert list(folder.glob("*.damaged")) == []

    def test_a_refused_episode_is_dropped_but_not_one_whose_buffer_is_gone(
        self, fake: FakeServer, impatient: replayring.Buffer, folder: Path
    ) -> None:
        writer = writer_on(impatient, folder)
        for number in range(1, 5):
            writer.add_episode(episode(number))
        store(fake, at_2=fake_store.REFUSED, at_3=fake_store.GONE)
        with pytest.raises(replayring.InvalidEpisodeError, match="sequence 2 of writer"):
            writer.flush(timeout=PATIENCE)
        with pytest.raises(replayring.NotFoundError, match=f"3 to 4 .*stays in {folder}"):
            writer.close()
        assert files(folder) == [3, 4]
        stored = store(fake)  # the right server, this time
        with impatient.writer(spill_dir=folder) as writer:
            writer.flush(timeout=PATIENCE)
        assert values(stored) == [3, 4]


class TestNextProcess:
    def test_goes_on_with_what_was_left_under_the_same_identity(
        self,
        fake: FakeServer,
        impatient: replayring.Buffer,
        folder: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        first = impatient.writer(spill_dir=folder, writer_id="robot-7")
        for number in (1, 2, 3):
            first.add_episode(episode(number))
        assert files(folder) == []
        with pytest.raises(
            replayring.ServerUnavailableError,
            match=f"0 episodes are acknowledged, 3 are not; sequences 1 to 3 kept in {folder}",
        ):
            first.close()
        assert first.pending == [1, 2, 3]
        stored = store(fake)
        with impatient.writer(spill_dir=folder) as second:
            assert second.writer_id == "robot-7"
            sequence = second.add_episode(episode(4))
            second.flush(timeout=PATIENCE)
            assert second.acknowledged == 4
        assert sequence > 3
        assert stored.sequences() == [1, 2, 3, sequence]
        assert {kept.writer_id for kept in stored.stored} == {"robot-7"}
        assert values(stored) == [1, 2, 3, 4]
        assert "goes on with what an earlier one left" in caplog.text

    def test_what_found_no_room_is_named(self, impatient: replayring.Buffer, folder: Path) -> None:
        writer = impatient.writer(spill_dir=folder, max_spill_bytes=2 * FILE_BYTES)
        for number in range(1, 5):
            writer.add_episode(episode(number))
        text = f"sequences 3 to 4 may be lost; sequences 1 to 2 kept in {folder}"
        with pytest.raises(replayring.ServerUnavailableError, match=text):
            writer.close()
        assert files(folder) == [1, 2]

    def test_never_uses_a_sequence_again(
        self, fake: FakeServer, impatient: replayring.Buffer, folder: Path
    ) -> None:
        stored = store(fake)
        for _ in range(3):
            with impatient.writer(spill_dir=folder, timeout=PATIENCE) as writer:
                writer.add_episode(episode(1))
        assert len(set(stored.sequences())) == 3
        assert stored.sequences() == sorted(stored.sequences())

    def test_what_was_acknowledged_but_not_deleted_is_recognised(
        self, buffer: replayring.Buffer, folder: Path
    ) -> None:
        with buffer.writer(spill_dir=folder) as writer:
            sequence = writer.add_episode(episode(1))
            kept = writer._sender._backlog._spill.add(sequence, _pack(episode(1)))  # type: ignore[union-attr]
            writer.flush()
        assert kept.path.exists()
        with buffer.writer(spill_dir=folder) as writer:
            writer.flush()
            assert writer.last_acknowledgement is not None
            assert writer.last_acknowledgement.duplicate
        assert buffer.info().num_episodes == 1
        assert files(folder) == []

    def test_one_writer_at_a_time(self, buffer: replayring.Buffer, folder: Path) -> None:
        with (
            buffer.writer(spill_dir=folder),
            pytest.raises(replayring.DirectoryLockedError, match="another writer of this process"),
        ):
            buffer.writer(spill_dir=folder)
        with buffer.writer(spill_dir=folder) as writer:
            lock = f"import fcntl; fcntl.lockf(open({str(folder / 'lock')!r}, 'r+'), 6)"
            done = subprocess.run([sys.executable, "-c", lock], capture_output=True, text=True)
            assert "Error" in done.stderr, "the lock keeps other processes out"
            writer.add_episode(episode(1))

    def test_another_process_is_named(self, buffer: replayring.Buffer, folder: Path) -> None:
        folder.mkdir(parents=True)
        program = (
            "import fcntl, os, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, 2);"
            "print(f'pid {os.getpid()}', file=f, flush=True); print(flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program, folder / "lock"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as other:
            assert other.stdout is not None
            read_line(other.stdout.fileno())
            with pytest.raises(replayring.DirectoryLockedError, match=f"pid {other.pid}"):
                buffer.writer(spill_dir=folder)
            other.kill()
        buffer.writer(spill_dir=folder).close()

    @pytest.mark.parametrize(
        ("state", "kind", "text"),
        [
            ({"buffer": "other"}, replayring.InvalidRequestError, "belongs to buffer 'other'"),
            ({"writer_id": "you"}, replayring.InvalidRequestError, "belongs to writer_id 'you'"),
            ({"writer_id": "../x"}, replayring.InvalidRequestError, "writer_id"),
            ({"format": 2}, replayring.StorageError, "of another version"),
            ({"reserved": "9"}, replayring.StorageError, "is damaged"),
            (None, replayring.StorageError, "is damaged"),
        ],
    )
    def test_a_directory_of_somebody_else_is_refused(
        self,
        state: dict[str, Any] | None,
        kind: type[Exception],
        text: str,
        buffer: replayring.Buffer,
        folder: Path,
    ) -> None:
        buffer.writer(spill_dir=folder, writer_id="me").close()
        path = folder / "writer"
        path.write_text(json.dumps({**json.loads(path.read_text()), **state}) if state else "")
        identity = None if state and "/" in state.get("writer_id", "") else "me"
        with pytest.raises(kind, match=text):
            buffer.writer(spill_dir=folder, writer_id=identity)
        path.unlink()
        buffer.writer(spill_dir=folder).close()  # a refusal keeps no lock

    def test_a_link_is_not_followed(self, buffer: replayring.Buffer, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "lock").symlink_to("/etc/passwd")
        with pytest.raises(replayring.StorageError, match="symbolic links"):
            buffer.writer(spill_dir=folder)

    def test_a_file_is_no_directory(self, buffer: replayring.Buffer, folder: Path) -> None:
        folder.parent.mkdir()
        folder.write_text("")
        with pytest.raises(replayring.StorageError, match="cannot spill to"):
            buffer.writer(spill_dir=folder)


def test_a_killed_actor_loses_nothing_that_was_spilled(tmp_path: Path) -> None:
    data, spill = tmp_path / "data", tmp_path / "spill"
    with ServerProcess(data) as server:
        with replayring.connect(server.address) as client:
            client.create_buffer("b", SPEC, 1000)
        command = [sys.executable, "-m", "tests.client.spilling_actor", server.address, spill, "9"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as actor:
            assert actor.stdin is not None
            assert actor.stdout is not None
            try:
                assert read_line(actor.stdout.fileno()) == "go\n"
                server.kill()
                actor.stdin.write(b"\n")
                actor.stdin.flush()
                assert read_line(actor.stdout.fileno()) == "held 2 3 4 5 6 7 8 9\n"
            finally:
                actor.kill()
    assert files(spill) == [3, 4, 5, 6, 7, 8, 9]  # 2 was in memory, and died with the process
    with (
        ServerProcess(data) as server,
        replayring.connect(server.address) as client,
        client.buffer("b").writer(spill_dir=spill) as writer,
    ):
        writer.add_episode(episode(10))
        writer.flush()
        rewards = client.buffer("b").read_columns(["reward"])["reward"]
        assert rewards[::3].tolist() == [1, 3, 4, 5, 6, 7, 8, 9, 10]
        assert files(spill) == []


def _pack(data: dict[str, Any]) -> Any:
    from replayring_proto.pack import Pack

    return Pack.of({name: np.asarray(value, np.float32) for name, value in data.items()})
