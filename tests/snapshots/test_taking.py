"""What a snapshot holds, what is copied again and what is not, and what may not be lost by it."""

from __future__ import annotations

import gc
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replayring_proto import layout
from replayring_proto.errors import (
    AlreadyExistsError,
    DirectoryLockedError,
    InvalidRequestError,
    NotFoundError,
    StorageError,
)
from replayring_proto.pack import Pack
from replayring_server.engine import Origin, Store, files
from replayring_server.engine.lock import DirectoryLock
from replayring_server.inspection import verify
from replayring_server.snapshots import restore, snapshot
from replayring_server.snapshots.places import FolderPlace
from replayring_server.snapshots.source import Source
from tests.engine.folders import fingerprint
from tests.engine.lives import die
from tests.snapshots.comparing import moment, restored_moment
from tests.snapshots.conftest import SPEC, episode, fill


def names(destination: Path) -> set[str]:
    """The files of a destination, without the lock."""
    return {name for name, what in fingerprint(destination, ("lock",)).items() if what != "folder"}


def test_a_buffer_made_anew_while_its_files_are_opened_is_not_taken_for_the_one_before(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its frames would lie under the id of the other, whose snapshots go on from there."""
    check_sizes = files.check_sizes

    def replaced(*which: Any) -> None:
        monkeypatch.setattr(files, "check_sizes", check_sizes)
        store.delete("empty")
        store.create("empty", SPEC)
        check_sizes(*which)

    monkeypatch.setattr(files, "check_sizes", replaced)
    gc.collect()  # or what earlier tests left open would be closed meanwhile
    held = len(os.listdir("/proc/self/fd"))
    taken = snapshot(store.data_dir, str(tmp_path / "to"), buffers=["empty"])
    assert "was deleted or replaced while it was opened" in taken.failed["buffer empty"]
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == held


def test_a_snapshot_beside_a_server_changes_nothing_and_comes_back_whole(
    store: Store, tmp_path: Path
) -> None:
    before, found = moment(store.get("ring")), fingerprint(store.data_dir)
    taken = snapshot(store.data_dir, str(tmp_path / "to"))
    assert fingerprint(store.data_dir) == found
    ring = taken.buffers[1]
    assert (ring.name, ring.next_index - ring.oldest_index, ring.overwritten) == ("ring", 300, 0)
    assert (taken.failed, taken.gone, taken.parameters) == ({}, [], {"policy": 1})
    fill(store.get("ring"), 100, 5)
    done = restore(str(tmp_path / "to"), tmp_path / "back")
    assert restored_moment(tmp_path / "back") == before
    assert [one.name for one in done.buffers] == ["empty", "ring"]
    with Store(tmp_path / "back") as back:
        assert back.get("ring").buffer_id == done.buffers[1].buffer_id
        assert back.get("ring").buffer_id != store.get("ring").buffer_id
        assert back.get("ring").spec == SPEC
        assert back.get("empty").info().num_frames == 0
        np.testing.assert_array_equal(
            back.parameters.get("policy").pack.arrays["b.bytes"], episode(1, 3)["b.bytes"]
        )
        assert back.parameters.publish("policy", Pack.of(episode(2, 3))) == 2


def test_versions_as_high_as_clients_may_ask_for_are_restored(store: Store, tmp_path: Path) -> None:
    for _ in range(2):
        last = store.parameters.publish("policy", Pack.of(episode(2, 3)), 1 << 62)
    snapshot(store.data_dir, str(tmp_path / "to"))
    restore(str(tmp_path / "to"), tmp_path / "back")
    with Store(tmp_path / "back") as back:
        assert back.parameters.get("policy").version == last == (1 << 62) + 1


def test_a_restored_buffer_lives_on_as_the_first_one_does(store: Store, tmp_path: Path) -> None:
    snapshot(store.data_dir, str(tmp_path / "to"))
    restore(str(tmp_path / "to"), tmp_path / "back")
    with Store(tmp_path / "back") as back:
        for buffer in (store.get("ring"), back.get("ring")):
            fill(buffer, 61, 70)
        assert moment(back.get("ring")) == moment(store.get("ring"))
    assert verify(tmp_path / "back").findings == []


def test_done_again_nothing_is_copied_and_later_only_what_is_new(
    store: Store, tmp_path: Path
) -> None:
    to = tmp_path / "to"
    first = snapshot(store.data_dir, str(to)).buffers[1]
    assert (first.copied_parts, first.parts) == (9, 9)
    found = fingerprint(to)
    again = snapshot(store.data_dir, str(to)).buffers[1]
    assert (again.copied_parts, again.copied_bytes) == (0, 0)
    assert fingerprint(to) == found
    ring = store.get("ring")
    ring.append(episode(1000, 50))
    later = snapshot(store.data_dir, str(to)).buffers[1]
    assert later.copied_parts == 2, "the part that was not full, and the next"
    assert found.keys() < fingerprint(to).keys()
    pruned = snapshot(store.data_dir, str(to), prune=True)
    assert pruned.pruned == 2, "the part before the oldest frame, and the one that grew"
    assert pruned.buffers[1].copied_parts == 0
    assert snapshot(store.data_dir, str(to), prune=True).pruned == 0
    before = moment(ring)
    restore(str(to), tmp_path / "back")
    assert restored_moment(tmp_path / "back") == before


def test_without_a_server_it_is_the_same(store: Store, tmp_path: Path) -> None:
    before = moment(store.get("ring"))
    store.close()
    snapshot(store.data_dir, str(tmp_path / "to"))
    restore(str(tmp_path / "to"), tmp_path / "back")
    assert restored_moment(tmp_path / "back") == before


@pytest.mark.parametrize("durability", ["none", "interval", "commit"])
def test_after_a_restart_of_the_machine_it_is_what_an_opening_would_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    """Without a server, the frames that had been synced; and they stay good afterwards."""
    spec = replace(SPEC, durability=durability)
    store, to = Store(tmp_path / "data"), str(tmp_path / "to")
    store._syncer.stop()
    ring, _ = store.create("ring", spec)
    fill(ring, 1, 60)
    ring.sync()
    synced = moment(ring)
    fill(ring, 61, 3)
    written = moment(ring)
    snapshot(store.data_dir, to)
    die(store)
    monkeypatch.setattr(layout, "machine_boot_id", lambda: b"another boot id.")
    taken = snapshot(tmp_path / "data", to, replace=True).buffers[0]
    restore(to, tmp_path / "back")
    lost = durability != "commit"
    expected = synced if lost else written
    found = restored_moment(tmp_path / "back")
    assert (found.next_index, found.next_episode) == (expected.next_index, expected.next_episode)
    with Store(tmp_path / "data") as store:
        ring = store.get("ring")
        assert found == moment(ring)
        # The same numbers are now other frames: what was copied of the lost ones must not count.
        for tag in range(200, 210):
            ring.append(episode(tag, 23))
        assert snapshot(tmp_path / "data", to).failed == {}
        now = moment(ring)
    restore(to, tmp_path / "later")
    assert restored_moment(tmp_path / "later") == now
    assert taken.overwritten == 0


def test_parts_of_frames_that_a_power_loss_took_back_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if nobody knows of them: the snapshot that copied them was interrupted."""
    store, to = Store(tmp_path / "data"), tmp_path / "to"
    store._syncer.stop()
    ring, _ = store.create("ring", SPEC)
    ring.append(episode(1, 10))
    ring.sync()
    ring.append(episode(2, 70))
    snapshot(store.data_dir, str(to))
    (to / "manifest.json").unlink()
    die(store)
    monkeypatch.setattr(layout, "machine_boot_id", lambda: b"another boot id.")
    with Store(tmp_path / "data") as store:
        ring = store.get("ring")
        assert ring.info().next_index == 10
        ring.append(episode(3, 70))
        snapshot(store.data_dir, str(to))
        now = moment(ring)
    restore(str(to), tmp_path / "back")
    assert restored_moment(tmp_path / "back") == now


@pytest.mark.parametrize("cause", ["power loss", "failed disk"])
def test_frames_that_came_after_a_loss_and_end_like_the_lost_ones_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    """Episodes often end in frames that are all alike, black ones say."""
    black = episode(9, 10)

    def to_black(tag: int) -> dict:
        return {key: np.concatenate([v, black[key]]) for key, v in episode(tag, 20).items()}

    store, to = Store(tmp_path / "data"), str(tmp_path / "to")
    store._syncer.stop()
    ring, _ = store.create("ring", SPEC)
    ring.append(episode(1, 10))
    ring.sync()
    ring.append(to_black(2))
    snapshot(store.data_dir, to)
    if cause == "failed disk":
        ring._cursor.distrust()
    else:
        monkeypatch.setattr(layout, "machine_boot_id", lambda: b"another boot id.")
    die(store)
    with Store(tmp_path / "data") as store:
        ring = store.get("ring")
        assert ring.info().next_index == 10
        ring.append(to_black(3))
        assert snapshot(store.data_dir, to).failed == {}
        now = moment(ring)
    restore(to, tmp_path / "back")
    assert restored_moment(tmp_path / "back") == now


def test_an_interrupted_snapshot_is_taken_up_where_it_was(store: Store, tmp_path: Path) -> None:
    """Without a manifest; and a file that is not whole, as some stores leave, is written anew."""
    to = tmp_path / "to"
    snapshot(store.data_dir, str(to))
    (to / "manifest.json").unlink()
    parts = sorted(path for path in to.glob("buffers/*/0*"))
    parts[3].write_bytes(parts[3].read_bytes()[:-1])
    parts[5].unlink()
    taken = snapshot(store.data_dir, str(to)).buffers[1]
    assert (taken.parts, taken.copied_parts) == (9, 2)
    restore(str(to), tmp_path / "back")
    assert restored_moment(tmp_path / "back") == moment(store.get("ring"))


def test_chosen_buffers_alone(store: Store, tmp_path: Path) -> None:
    to = str(tmp_path / "to")
    taken = snapshot(store.data_dir, to, buffers=["ring", "ring"])
    assert [one.name for one in taken.buffers] == ["ring"]
    assert taken.parameters == {}
    with pytest.raises(NotFoundError, match="did you mean 'ring'"):
        snapshot(store.data_dir, to, buffers=["rings"])
    restore(to, tmp_path / "back")
    with Store(tmp_path / "back") as back:
        assert back.names() == ["ring"]


def test_one_that_cannot_be_taken_keeps_no_other_from_it(store: Store, tmp_path: Path) -> None:
    store.close()
    to = str(tmp_path / "to")
    snapshot(store.data_dir, to)
    shutil.copytree(store.data_dir / "ring", store.data_dir / "second")
    (store.data_dir / "ring" / "columns" / "c.words").unlink()
    (store.data_dir / ".parameters" / "policy").write_bytes(b"none")
    taken = snapshot(store.data_dir, to)
    assert [one.name for one in taken.buffers] == ["empty", "second"]
    assert taken.failed.keys() == {"buffer ring", "parameters policy"}
    assert "its last snapshot stays" in "\n".join(taken.lines())
    done = restore(to, tmp_path / "back")
    assert [one.name for one in done.buffers] == ["empty", "ring", "second"]
    assert done.parameters == {"policy": 1}


def test_what_is_gone_stays_at_the_destination_until_it_is_let_go(
    store: Store, tmp_path: Path
) -> None:
    """A cron job on a machine that was set up anew must not empty the snapshot."""
    to = str(tmp_path / "to")
    snapshot(store.data_dir, to)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "lock").touch()
    taken = snapshot(tmp_path / "new", to, prune=True)
    assert taken.gone == ["buffer empty", "buffer ring", "parameters policy"]
    assert taken.pruned == 0
    assert len(restore(to, tmp_path / "back").buffers) == 2
    taken = snapshot(tmp_path / "new", to, prune=True, replace=True)
    assert (taken.gone, taken.pruned) == ([], 12)
    assert names(tmp_path / "to") == {"manifest.json"}


def test_another_buffer_of_the_name_takes_its_place_on_request_only(
    store: Store, tmp_path: Path
) -> None:
    to = str(tmp_path / "to")
    snapshot(store.data_dir, to)
    before = moment(store.get("ring"))
    store.delete("ring")
    ring, _ = store.create("ring", SPEC)
    fill(ring, 500, 5)
    taken = snapshot(store.data_dir, to)
    assert "another buffer of that name" in taken.failed["buffer ring"]
    assert "--replace" in taken.failed["buffer ring"]
    restore(to, tmp_path / "back")
    assert restored_moment(tmp_path / "back") == before
    assert snapshot(store.data_dir, to, replace=True, prune=True).failed == {}
    restore(to, tmp_path / "later")
    assert restored_moment(tmp_path / "later") == moment(ring)


def test_parameters_of_any_size_are_taken_and_restored(store: Store, tmp_path: Path) -> None:
    weights = {"w": np.arange(3 << 20, dtype=np.uint8)}
    store.parameters.publish("policy", Pack.of(weights))
    assert snapshot(store.data_dir, str(tmp_path / "to")).parameters == {"policy": 2}
    for _ in range(2):  # the second finds it there
        done = restore(str(tmp_path / "to"), tmp_path / "back")
        assert done.parameters == {"policy": 2}
    with Store(tmp_path / "back") as back:
        np.testing.assert_array_equal(back.parameters.get("policy").pack.arrays["w"], weights["w"])
        back.parameters.publish("policy", Pack.of({"w": np.zeros(2 << 20)}))
    with pytest.raises(AlreadyExistsError, match="move it away"):
        restore(str(tmp_path / "to"), tmp_path / "back")


def test_older_files_put_back_by_hand_do_not_take_the_place_of_newer_frames(
    store: Store, tmp_path: Path
) -> None:
    to = str(tmp_path / "to")
    store.close()
    shutil.copytree(store.data_dir, tmp_path / "copy")
    with Store(tmp_path / "data") as store:
        fill(store.get("ring"), 61, 3)
        store.parameters.publish("policy", Pack.of(episode(2, 3)))
        snapshot(store.data_dir, to)
    taken = snapshot(tmp_path / "copy", to)
    assert "newer frames" in taken.failed["buffer ring"]
    assert "has version 2, this is 1" in taken.failed["parameters policy"]
    assert snapshot(tmp_path / "copy", to, replace=True).failed == {}


def test_frames_that_got_the_numbers_of_others_are_copied(store: Store, tmp_path: Path) -> None:
    """Older files were put back, and the buffer went on from there before the next snapshot."""
    to = str(tmp_path / "to")
    store.get("ring").sync()
    store.close()
    shutil.copytree(store.data_dir, tmp_path / "copy")
    with Store(tmp_path / "data") as store:
        fill(store.get("ring"), 61, 20)
        snapshot(store.data_dir, to)
    with Store(tmp_path / "copy") as store:
        ring = store.get("ring")
        for tag in range(301, 321):  # as long as the others
            ring.append(episode(tag, 1 + (tag - 240) * 7 % 23))
        now = moment(ring)
        taken = snapshot(store.data_dir, to).buffers[1]
    assert 0 < taken.copied_parts < taken.parts
    restore(to, tmp_path / "back", buffers=["ring"])
    assert restored_moment(tmp_path / "back") == now


def test_a_destination_in_the_data_directory_is_refused(store: Store) -> None:
    before = fingerprint(store.data_dir)
    for where in (store.data_dir, store.data_dir / "to", f"file://{store.data_dir}/to"):
        with pytest.raises(InvalidRequestError, match="outside"):
            snapshot(store.data_dir, str(where))
    assert fingerprint(store.data_dir) == before


def test_one_snapshot_at_a_time_goes_to_a_folder(store: Store, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with (
        DirectoryLock(tmp_path / "other"),
        pytest.raises(DirectoryLockedError, match="is at work in"),
    ):
        snapshot(store.data_dir, str(tmp_path / "other"))


def test_what_is_no_data_directory_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no directory"):
        snapshot(tmp_path / "nowhere", str(tmp_path / "to"))
    assert not (tmp_path / "to").exists()


def test_a_destination_that_is_a_file_is_an_error_in_words(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write to"):
        snapshot(store.data_dir, str(tmp_path / "file"))


def test_a_buffer_that_is_deleted_meanwhile_is_taken_all_the_same(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, real = moment(store.get("ring")), Source.read

    def read(self: Source, first: int, arrays: Any) -> int:
        if "ring" in store.names():
            store.delete("ring")
        return real(self, first, arrays)

    monkeypatch.setattr(Source, "read", read)
    assert snapshot(store.data_dir, str(tmp_path / "to"), buffers=["ring"]).failed == {}
    restore(str(tmp_path / "to"), tmp_path / "back")
    assert restored_moment(tmp_path / "back") == before


def test_text_and_json_say_the_same(store: Store, tmp_path: Path) -> None:
    taken = snapshot(store.data_dir, str(tmp_path / "to"))
    found = json.loads(json.dumps(taken.as_json()))
    assert found["buffers"][1]["copied_parts"] == 9
    text = "\n".join(taken.lines())
    assert "buffer ring: 300 frames before index " in text
    assert "parameters policy: version 1" in text


def test_numbers_go_on_in_a_ring_that_a_power_loss_left_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No frame says how far its episodes were numbered; the cursor does."""
    store = Store(tmp_path / "data")
    store._syncer.stop()
    ring, _ = store.create("ring", replace(SPEC, capacity=3, durability="none"))
    ring.append(episode(1, 3), Origin("w", 1))
    ring.append(episode(2, 2), Origin("w", 2))
    ring.sync()
    for tag in range(3, 90):
        ring.append(episode(tag, 3), Origin("w", tag))
    die(store)
    monkeypatch.setattr(layout, "machine_boot_id", lambda: b"another boot id.")
    snapshot(tmp_path / "data", str(tmp_path / "to"))
    restore(str(tmp_path / "to"), tmp_path / "back")
    with Store(tmp_path / "data") as store, Store(tmp_path / "back") as back:
        assert len(store.get("ring").reader.live) == 0
        assert moment(back.get("ring")) == moment(store.get("ring"))
        assert back.get("ring").append(episode(5, 1)).episode_index == 2


def test_a_manifest_that_cannot_be_written_costs_nothing_that_the_one_before_needs(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = str(tmp_path / "to")
    snapshot(store.data_dir, to)
    before, real = moment(store.get("ring")), FolderPlace.write
    fill(store.get("ring"), 61, 20)

    def write(self: FolderPlace, name: str, content: Any) -> None:
        if name == "manifest.json":
            raise StorageError("the store is away")
        real(self, name, content)

    monkeypatch.setattr(FolderPlace, "write", write)
    taken = snapshot(store.data_dir, to, prune=True)
    assert taken.failed == {"buffer ring": "the store is away"}
    restore(to, tmp_path / "back")
    assert restored_moment(tmp_path / "back") == before
