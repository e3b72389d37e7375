"""Damaged files under a running server: a status of their own, and everything else served."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from replayring_server.engine.parameters import FOLDER
from tests.service.frames import SPEC, episode, refused
from tests.support import LocalServer, ServerProcess
from tests.wire import Wire


def test_a_damaged_buffer_is_data_loss_for_every_call_until_it_is_deleted(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with LocalServer(data_dir) as server, Wire(server.address) as wire:
        for name in ("bad", "good"):
            wire.create(name, SPEC)
            wire.add(name, episode(3))
    os.truncate(data_dir / "bad" / "cursor", 5)
    with ServerProcess(data_dir) as process, Wire(process.address) as wire:
        for call in (
            lambda: wire.info("bad"),
            lambda: wire.get("bad", [0]),
            lambda: wire.add("bad", episode(3)),
            lambda: wire.create("bad", SPEC),
        ):
            with refused("DATA_LOSS", "StorageError", f"replayring verify {data_dir}"):
                call()
        assert [buffer.name for buffer in wire.ask("ListBuffers", b"").buffers] == ["good"]
        assert wire.info("good").next_index == 3
        assert "buffer 'bad' cannot be served" in process.log_text()
        wire.delete("bad")
        assert not (data_dir / "bad").exists()
        assert wire.create("bad", SPEC).created
        assert "Traceback" not in process.log_text()


def test_damaged_parameters_are_data_loss_and_the_others_are_served(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with LocalServer(data_dir) as server, Wire(server.address) as wire:
        for name in ("policy", "critic"):
            wire.publish(name, {"w": np.ones(2)})
    os.truncate(data_dir / FOLDER / "policy", 70)
    with LocalServer(data_dir) as server, Wire(server.address) as wire:
        with refused("DATA_LOSS", "StorageError", "remove it, and publish"):
            wire.publish("policy", {"w": np.ones(2)})
        with refused("DATA_LOSS", "StorageError", "policy is damaged"):
            wire.latest("policy")
        assert wire.publish("critic", {"w": np.ones(2)}) == 2
