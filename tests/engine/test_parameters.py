"""Published parameters: the newest version of each name, on disk before it is seen."""

from __future__ import annotations

import errno
import os
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replayring_proto.errors import (
    InvalidRequestError,
    LimitExceededError,
    NotFoundError,
    StorageError,
)
from replayring_proto.limits import ServerLimits
from replayring_proto.pack import Pack
from replayring_server.engine import Store, parameter_files
from replayring_server.engine.parameter_files import content_of
from replayring_server.engine.parameters import FOLDER
from replayring_server.inspection import describe
from tests.engine.frames import checked_spec
from tests.engine.lives import die


def weights(value: float) -> Pack:
    return Pack.of({"layer.weight": np.full((3, 4), value, np.float32), "step": np.array(7)})


def value_of(pack: Pack) -> float:
    values = np.unique(pack.arrays["layer.weight"])
    assert len(values) == 1
    assert pack.arrays["step"] == 7
    return float(values[0])


def test_versions_grow_from_1_for_each_name(store: Store) -> None:
    for version in (1, 2, 3):
        assert store.parameters.publish("policy", weights(version)) == version
        newest = store.parameters.get("policy")
        assert (newest.version, value_of(newest.pack)) == (version, version)
    assert store.parameters.publish("critic", weights(0)) == 1


def test_the_newest_version_survives_reopening_and_versions_go_on(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.parameters.publish("policy", weights(1))
        store.parameters.publish("policy", weights(2))
        store.parameters.publish("empty", Pack.of({}))
    with Store(tmp_path) as store:
        newest = store.parameters.get("policy")
        assert (newest.version, value_of(newest.pack)) == (2, 2)
        assert store.parameters.get("empty").pack.arrays == {}
        assert store.parameters.publish("policy", weights(3)) == 3


def test_parameters_are_on_disk_when_they_are_acknowledged(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.parameters.publish("policy", weights(5))
    die(store)
    with Store(tmp_path) as successor:
        assert value_of(successor.parameters.get("policy").pack) == 5


def test_an_unknown_name_is_answered_with_those_there_are(store: Store) -> None:
    with pytest.raises(NotFoundError, match="there are none"):
        store.parameters.get("policy")
    store.parameters.publish("policy", weights(1))
    with pytest.raises(NotFoundError, match="there are policy"):
        store.parameters.get("critic")


@pytest.mark.parametrize("name", ["", "../x", ".part", "a/b", "_x", "x" * 65])
def test_a_name_that_is_not_valid_is_refused(store: Store, name: str) -> None:
    with pytest.raises(InvalidRequestError):
        store.parameters.publish(name, weights(1))
    assert not list((store.data_dir / FOLDER).iterdir())


def test_names_are_limited_in_number(tmp_path: Path) -> None:
    with Store(tmp_path, ServerLimits(max_parameter_sets=2)) as store:
        for name in ("a", "b", "a"):
            store.parameters.publish(name, weights(1))
        with pytest.raises(LimitExceededError, match="received 3, the limit is 2; reuse a name"):
            store.parameters.publish("c", weights(1))


def test_a_buffer_and_parameters_may_have_the_same_name(store: Store) -> None:
    store.create("policy", checked_spec(5))
    store.parameters.publish("policy", weights(1))
    assert store.names() == ["policy"]


def test_threads_that_publish_get_a_version_each(store: Store) -> None:
    versions: list[int] = []

    def publish() -> None:
        for _ in range(10):
            versions.append(store.parameters.publish("policy", weights(1)))

    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(versions) == list(range(1, 41))


# Deaths and damage


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_failure_while_publishing_keeps_the_version_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """In memory and on disk, with nothing left beside it."""

    def fail(*_: Any) -> None:
        raise OSError(5, "broken disk")

    with Store(tmp_path) as store:
        store.parameters.publish("policy", weights(1))
        with monkeypatch.context() as patch:
            if step == "write":
                patch.setattr("replayring_server.engine.parameters.encode", fail)
            else:
                patch.setattr(os, step, fail)
            with pytest.raises(OSError, match="broken disk"):
                store.parameters.publish("policy", weights(2))
        assert value_of(store.parameters.get("policy").pack) == 1
        assert os.listdir(tmp_path / FOLDER) == ["policy"]
    with Store(tmp_path) as store:
        assert store.parameters.get("policy").version == 1
        assert store.parameters.publish("policy", weights(2)) == 2


def test_a_file_half_written_by_a_death_goes_at_the_next_start(tmp_path: Path) -> None:
    folder = tmp_path / FOLDER
    with Store(tmp_path) as store:
        store.parameters.publish("policy", weights(1))
    for name in (".policy.part", ".never-published-again.part"):
        (folder / name).write_bytes(b"half of it")
    with Store(tmp_path) as store:
        assert os.listdir(folder) == ["policy"]
        assert store.parameters.get("policy").version == 1
        assert store.parameters.publish("policy", weights(2)) == 2


def test_whatever_else_lies_among_parameters_stays(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "data" / FOLDER, tmp_path / "mine"
    elsewhere.write_text("mine")
    with Store(tmp_path / "data"):
        pass
    (folder / ".link.part").symlink_to(elsewhere)
    (folder / ".folder.part").mkdir()
    names = ("notes.part", "..part", ".part", ".a b.part", ".a.parts", ".hidden", "a b")
    for name in names:
        (folder / name).write_text("mine")
    with Store(tmp_path / "data"):
        assert set(os.listdir(folder)) == {*names, ".link.part", ".folder.part"}
    assert elsewhere.read_text() == "mine"


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The file of a published set; the store is closed."""
    with Store(tmp_path) as store:
        store.parameters.publish("policy", weights(1))
    return tmp_path / FOLDER / "policy"


def test_a_file_with_any_bit_changed_or_cut_anywhere_is_refused(published: Path) -> None:
    whole = published.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [whole[:cut] for cut in (0, 1, 20, 35, 36, 50, len(whole) - 1)]
    damaged.append(whole + b"x")
    for at in [*range(40), *rng.integers(40, len(whole), 20)]:
        changed = bytearray(whole)
        changed[at] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(changed))
    for content in damaged:
        published.write_bytes(content)
        with (
            Store(published.parents[1]) as store,
            pytest.raises(StorageError, match=r"policy is damaged .*; remove it, and publish"),
        ):
            store.parameters.get("policy")
    published.write_bytes(whole)
    with Store(published.parents[1]) as store:
        assert value_of(store.parameters.get("policy").pack) == 1


def test_a_file_that_another_program_made_endless_is_not_read(published: Path) -> None:
    os.truncate(published, 1 << 40)
    with Store(published.parents[1]) as store, pytest.raises(StorageError, match="fit its size"):
        store.parameters.get("policy")
    (what,) = describe(published.parents[1]).unreadable.values()
    assert "fit its size" in what
    with pytest.raises(StorageError, match="fit its size"):
        content_of(published)


def test_what_is_larger_than_the_limit_is_served_once_that_is_raised(published: Path) -> None:
    """It was published under a higher one. Who only looks at the directory knows of none."""
    size = weights(1).layout.nbytes
    lowered = ServerLimits(max_parameters_bytes=size - 1)
    with Store(published.parents[1], lowered) as store:
        with pytest.raises(StorageError, match="raise max_parameters_bytes, or remove it"):
            store.parameters.get("policy")
        with pytest.raises(StorageError, match="raise max_parameters_bytes"):
            store.parameters.publish("policy", weights(2))
    with Store(published.parents[1], ServerLimits(max_parameters_bytes=size)) as store:
        assert value_of(store.parameters.get("policy").pack) == 1
    (found,) = describe(published.parents[1]).parameters
    assert (found.version, found.disk_bytes) == (1, published.stat().st_size)


def test_a_look_at_large_parameters_keeps_none_of_them(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.parameters.publish("policy", Pack.of({"w": np.zeros(32 << 20, np.uint8)}))
    tracemalloc.start()
    try:
        (found,) = describe(tmp_path).parameters
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert found.disk_bytes > 32 << 20


def test_a_file_that_is_a_link_or_a_folder_is_refused(published: Path) -> None:
    elsewhere = published.parents[1] / "elsewhere"
    published.rename(elsewhere)
    published.symlink_to(elsewhere)
    with Store(published.parents[1]) as store, pytest.raises(StorageError, match="symbolic link"):
        store.parameters.get("policy")
    published.unlink()
    published.mkdir()
    with Store(published.parents[1]) as store, pytest.raises(StorageError, match="not a regular"):
        store.parameters.get("policy")


def test_a_file_in_another_names_place_is_refused(published: Path) -> None:
    published.rename(published.with_name("critic"))
    with Store(published.parents[1]) as store, pytest.raises(StorageError, match="critic is damag"):
        store.parameters.get("critic")


def test_a_damaged_file_keeps_nothing_else_from_being_served(
    published: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not replaced: versions would begin anew. Once it is out of the way they may."""
    published.write_bytes(b"damaged")
    with Store(published.parents[1], ServerLimits(max_parameter_sets=2)) as store:
        assert "'policy' cannot be served" in caplog.text
        store.create("a", checked_spec(5))
        assert store.parameters.publish("critic", weights(2)) == 1
        with pytest.raises(StorageError, match="policy is damaged"):
            store.parameters.publish("policy", weights(3))
        assert published.read_bytes() == b"damaged"
        with pytest.raises(LimitExceededError, match="received 3"):
            store.parameters.publish("more", weights(3))
        published.unlink()
        assert store.parameters.publish("policy", weights(4)) == 1
        assert value_of(store.parameters.get("policy").pack) == 4


def test_a_file_that_the_disk_cannot_read_keeps_nothing_else_from_being_served(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(parameter_files, "parse_header", fail)
    with Store(published.parents[1]) as store:
        store.create("a", checked_spec(5))
        with pytest.raises(StorageError, match=r"cannot read .*policy: Input/output error; check"):
            store.parameters.get("policy")


@pytest.mark.parametrize("name", ["a b", "ünï", "x" * 65, "_x"])
def test_files_that_no_parameters_could_have_made_are_left_alone(
    published: Path, name: str
) -> None:
    published.with_name(name).write_bytes(b"mine")
    with Store(published.parents[1]) as store, pytest.raises(NotFoundError, match="are policy"):
        store.parameters.get(name)
    assert published.with_name(name).read_bytes() == b"mine"


def test_a_linked_folder_of_parameters_is_refused(published: Path) -> None:
    folder = published.parent
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to("elsewhere")
    with pytest.raises(StorageError, match="parameters is a symbolic link"):
        Store(folder.parent)
