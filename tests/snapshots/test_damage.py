"""A damaged snapshot is refused in plain words, and nothing of the damage is restored."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from replayring_proto import layout
from replayring_proto.errors import (
    AlreadyExistsError,
    DirectoryLockedError,
    DiskSpaceError,
    InvalidRequestError,
    NotFoundError,
    StorageError,
)
from replayring_proto.pack import Pack
from replayring_server.engine import Origin, Store
from replayring_server.snapshots import restore, snapshot
from tests.engine.folders import fingerprint
from tests.inspection.spoiling import flip
from tests.snapshots.comparing import moment, restored_moment
from tests.snapshots.conftest import SPEC, episode, fill


@pytest.fixture
def to(store: Store, tmp_path: Path) -> Path:
    """A snapshot."""
    snapshot(store.data_dir, str(tmp_path / "to"))
    return tmp_path / "to"


def part(to: Path, number: int) -> Path:
    return sorted(to.glob("buffers/*/0*"))[number]


def records(to: Path) -> Path:
    return next(part(to, 0).parent.glob("records-*"))


def edit(change: Callable[[dict], None], *, honest: bool) -> Callable[[Path], None]:
    """Edits the manifest; honestly, if its checksum is made right again."""

    def spoil(to: Path) -> None:
        path = to / "manifest.json"
        document = json.loads(path.read_text())
        change(document)
        if honest:
            document["checksum"] = layout.meta_checksum(document)
        path.write_text(json.dumps(document))

    return spoil


def ring(document: dict) -> dict:
    return document["buffers"]["ring"]


def swap(to: Path) -> None:
    one, other = part(to, 2), part(to, 3)
    held = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(held)


def link(to: Path) -> None:
    one = part(to, 2)
    one.rename(to / "elsewhere")
    one.symlink_to(to / "elsewhere")


SPOILS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (lambda to: flip(part(to, 4), 77, 4), "is not what was written: its checksum"),
    "a part cut short": (lambda to: os.truncate(part(to, 4), 100), "has 100 bytes, it should have"),
    "a missing part": (lambda to: part(to, 4).unlink(), "is missing"),
    "parts in each other's place": (swap, "is not what was written"),
    "a part that is a link": (link, "is missing"),
    "records": (lambda to: flip(records(to), 3, 1), "is not what was written"),
    "parameters": (
        lambda to: flip(next(to.glob("parameters/*")), 50, 1),
        "is not what was written",
    ),
    "no manifest": (lambda to: (to / "manifest.json").unlink(), "no snapshot in"),
    "a manifest of noise": (
        lambda to: (to / "manifest.json").write_bytes(b"\0" * 9),
        "is not a replayring manifest of a snapshot",
    ),
    "a manifest cut short": (
        lambda to: os.truncate(to / "manifest.json", 300),
        "is not a replayring manifest of a snapshot",
    ),
    "an edited manifest": (
        edit(lambda found: ring(found).update(next_index=1), honest=False),
        "its checksum does not match",
    ),
    "a later format": (
        edit(lambda found: found.update(format=2), honest=True),
        "has format version 2; this replayring reads 1",
    ),
    "a gap": (edit(lambda found: ring(found)["parts"].pop(3), honest=True), "do not fit together"),
    "a head beyond the frames": (
        edit(lambda found: ring(found).update(next_index=10**6), honest=True),
        "do not fit together",
    ),
    "a name that leads elsewhere": (
        edit(lambda found: ring(found)["parts"].append("../../secret"), honest=True),
        "is no part",
    ),
    "an id that leads elsewhere": (
        edit(lambda found: ring(found)["buffer"].update(id="../x"), honest=True),
        "do not fit together",
    ),
    "a buffer's name that leads elsewhere": (
        edit(lambda found: found["buffers"].update({"../x": ring(found)}), honest=True),
        "names that are none",
    ),
    "a field that is missing": (
        edit(lambda found: ring(found).pop("oldest_index"), honest=True),
        "describes no valid snapshot",
    ),
    "a number beyond all": (
        edit(lambda found: ring(found).update(next_index=1 << 70), honest=True),
        "1180591620717411303424 is no number of anything",
    ),
    "a number below none": (
        edit(lambda found: ring(found).update(next_episode_index=-1), honest=True),
        "-1 is no number of anything",
    ),
    "a number without end": (
        edit(lambda found: ring(found).update(oldest_index=math.inf), honest=True),
        "describes no valid snapshot (cannot convert float infinity to integer)",
    ),
    "records that lead elsewhere": (
        edit(lambda found: ring(found)["records"].__setitem__(2, "../../x"), honest=True),
        "'../../x' is no checksum",
    ),
    "records of fewer than none": (
        edit(lambda found: ring(found)["records"].__setitem__(0, -1), honest=True),
        "-1 is no number of anything",
    ),
    "parameters that lead elsewhere": (
        edit(lambda found: found["parameters"]["policy"].__setitem__(2, "a/../../x"), honest=True),
        "'a/../../x' is no checksum",
    ),
    "a spec that is none": (
        edit(lambda found: ring(found)["buffer"].update(capacity=0), honest=True),
        "describes no valid buffer",
    ),
}


@pytest.mark.parametrize("kind", SPOILS)
def test_damage_is_refused_and_named(to: Path, tmp_path: Path, kind: str) -> None:
    spoil, words = SPOILS[kind]
    spoil(to)
    with pytest.raises((StorageError, NotFoundError)) as refused:
        restore(str(to), tmp_path / "back")
    assert words in str(refused.value)
    assert str(to) in str(refused.value)
    if (tmp_path / "back").exists():
        left = {path.name for path in (tmp_path / "back").iterdir()}
        assert left <= {"lock", ".parameters", "empty", "ring"}
        assert ("ring" in left) == (kind == "parameters")


def test_every_byte_counts(store: Store, tmp_path: Path) -> None:
    """Of every file of a small snapshot, each byte in turn is changed."""
    to = tmp_path / "small"
    buffer, _ = store.create("small", replace(SPEC, capacity=2))
    buffer.append(episode(1, 2), Origin("w", 1))
    snapshot(store.data_dir, str(to), buffers=["small"])
    tried = 0
    for path in sorted(path for path in to.rglob("*") if path.is_file() and path.name != "lock"):
        size = path.stat().st_size
        for at in range(0, size, max(1, size // 60)):
            flip(path, at, 1 << at % 8)
            with pytest.raises((StorageError, NotFoundError)):
                restore(str(to), tmp_path / "back")
            tried += 1
            flip(path, at, 1 << at % 8)
    assert tried > 150
    restore(str(to), tmp_path / "back")


def test_after_damage_the_snapshot_is_taken_anew_and_restored(
    store: Store, to: Path, tmp_path: Path
) -> None:
    """As the message says: remove the file, and take it again; what is whole is not copied."""
    flip(part(to, 4), 77, 4)
    with pytest.raises(StorageError):
        restore(str(to), tmp_path / "back")
    part(to, 4).unlink()
    assert snapshot(store.data_dir, str(to)).buffers[1].copied_parts == 1
    restore(str(to), tmp_path / "back")
    assert restored_moment(tmp_path / "back") == moment(store.get("ring"))


def test_a_damaged_manifest_is_replaced_on_request_only(
    store: Store, to: Path, tmp_path: Path
) -> None:
    os.truncate(to / "manifest.json", 300)
    with pytest.raises(StorageError, match="begin anew here with --replace"):
        snapshot(store.data_dir, str(to))
    assert snapshot(store.data_dir, str(to), replace=True).buffers[1].copied_parts == 0
    restore(str(to), tmp_path / "back")


def test_nothing_that_exists_is_overwritten(store: Store, to: Path, tmp_path: Path) -> None:
    store.close()
    before = fingerprint(store.data_dir, ("lock",))
    with pytest.raises(AlreadyExistsError, match="is not overwritten; use another name"):
        restore(str(to), store.data_dir)
    assert fingerprint(store.data_dir, ("lock",)) == before
    restore(str(to), store.data_dir, buffers=["ring"], name="second")
    with Store(store.data_dir) as store:
        assert moment(store.get("second")) == moment(store.get("ring"))
        assert store.get("second").buffer_id != store.get("ring").buffer_id


def test_other_parameters_are_not_overwritten(to: Path, tmp_path: Path) -> None:
    with Store(tmp_path / "back") as back:
        back.parameters.publish("policy", Pack.of(episode(9, 9)))
    with pytest.raises(AlreadyExistsError, match=r"policy exists and is not overwritten"):
        restore(str(to), tmp_path / "back")
    with Store(tmp_path / "back") as back:
        assert back.names() == []
    restore(str(to), tmp_path / "back", buffers=["ring"])


def test_what_was_restored_before_stays_and_the_rest_is_restored(
    store: Store, to: Path, tmp_path: Path
) -> None:
    first = restore(str(to), tmp_path / "back", buffers=["ring"])
    with Store(tmp_path / "back") as back:
        fill(back.get("ring"), 500, 3)
        now = moment(back.get("ring"))
    second = restore(str(to), tmp_path / "back")
    assert [(one.name, one.already) for one in second.buffers] == [("empty", False), ("ring", True)]
    assert second.buffers[1].buffer_id == first.buffers[0].buffer_id
    assert second.buffers[1].next_index == now.next_index, "as it is now"
    assert "is left as it is" in "\n".join(second.lines())
    assert restored_moment(tmp_path / "back") == now
    fill(store.get("ring"), 700, 1)
    snapshot(store.data_dir, str(to))
    with pytest.raises(AlreadyExistsError):  # that is another snapshot
        restore(str(to), tmp_path / "back")


def test_what_was_restored_before_and_is_damaged_is_not_said_to_be_restored(
    to: Path, tmp_path: Path
) -> None:
    """Who restores because of the damage is told what stands in the way."""
    restore(str(to), tmp_path / "back")
    ring = tmp_path / "back" / "ring"
    os.truncate(ring / layout.WRITERS, 100)
    with pytest.raises(StorageError, match=r"'ring' is not served: .* deleting the buffer frees"):
        restore(str(to), tmp_path / "back")
    shutil.rmtree(ring)
    assert [one.already for one in restore(str(to), tmp_path / "back").buffers] == [True, False]


def test_a_served_directory_is_refused(store: Store, to: Path) -> None:
    with pytest.raises(DirectoryLockedError):
        restore(str(to), store.data_dir, buffers=["ring"], name="second")


def test_a_name_is_for_one_buffer(to: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="--name is for one buffer, these are 2"):
        restore(str(to), tmp_path / "back", name="x")
    with pytest.raises(InvalidRequestError, match="is not valid"):
        restore(str(to), tmp_path / "back", buffers=["ring"], name="../x")
    with pytest.raises(NotFoundError, match="in the snapshot there is no buffer 'rang'; did you"):
        restore(str(to), tmp_path / "back", buffers=["rang"])
    with pytest.raises(NotFoundError, match="no directory"):
        restore(str(tmp_path / "nowhere"), tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_there_must_be_room(to: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.engine.test_disk_space import pretend

    pretend(monkeypatch, free=10_000)
    with pytest.raises(DiskSpaceError, match="no room for buffer 'empty'"):
        restore(str(to), tmp_path / "back")
    assert not list((tmp_path / "back").glob(".creating-*"))
