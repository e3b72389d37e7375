"""DeleteBuffer: at once, for everybody, and nothing of it stays."""

from __future__ import annotations

import contextlib
import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from replayring_proto.pack import Pack
from replayring_proto.ring import UniformSampler
from replayring_proto.v1 import replay_pb2
from replayring_server.service import workers
from tests.service.frames import SPEC, episode, refused, state
from tests.support import LocalServer, ServerProcess, eventually
from tests.wire import Refused, Wire, episode_messages, start_message


def test_deleted_buffer_is_gone_with_its_files(
    server: ServerProcess, wire: Wire, name: str
) -> None:
    before = set(server.data_dir.iterdir())
    wire.create(name, SPEC)
    wire.add(name, episode(3))
    folder = Path(wire.info(name).path)
    assert folder.is_dir()
    wire.delete(name)
    assert not folder.exists()
    assert set(server.data_dir.iterdir()) == before
    for ask in (wire.info, wire.delete, lambda name: wire.get(name, [0])):
        with refused("NOT_FOUND", "NotFoundError", repr(name)):
            ask(name)
    assert name not in [buffer.name for buffer in wire.ask("ListBuffers", b"").buffers]


def test_buffer_made_anew_is_another_one(wire: Wire, name: str) -> None:
    first = wire.create(name, SPEC).buffer
    wire.add(name, episode(3))
    wire.delete(name)
    second = wire.create(name, SPEC)
    assert second.created
    assert second.buffer.buffer_id != first.buffer_id
    assert second.buffer.next_index == 0
    assert not wire.add(name, episode(3))[0].duplicate


def received_bytes(wire: Wire) -> int:
    return wire.ask("GetServerStatus", b"").status.received_bytes


def test_calls_in_flight_on_a_deleted_buffer_end(wire: Wire, name: str) -> None:
    wire.create(name, SPEC)
    learner = wire.stream("SampleBatch")
    spec = replay_pb2.SampleSpec(buffer=name, batch_size=2)
    learner.send(replay_pb2.SampleBatchRequest(spec=spec))
    actor = wire.stream("AddEpisodes")
    actor.send(start_message(name), *episode_messages(1, episode(2)))
    actor.receive()
    learner.receive_pack(replay_pb2.SampleBatchResponse)
    waiting = wire.stream("SampleBatch")
    spec = replay_pb2.SampleSpec(buffer=name, batch_size=2, min_frames=10)
    before = received_bytes(wire)
    waiting.send(replay_pb2.SampleBatchRequest(spec=spec))
    eventually(lambda: received_bytes(wire) > before, "it waits")
    wire.delete(name)
    for call in (waiting, actor, learner):  # two of which have nothing to do at the moment
        with refused("NOT_FOUND", "NotFoundError", "was deleted"):
            call.receive()


def test_a_call_at_work_meanwhile_ends_when_it_comes_to_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawing, go_on = threading.Event(), threading.Event()
    draw = UniformSampler.batch

    def slow(sampler: UniformSampler, batches: int) -> Pack:
        drawing.set()
        assert go_on.wait(30)
        return draw(sampler, batches)

    monkeypatch.setattr(UniformSampler, "batch", slow)
    monkeypatch.setattr(workers, "INLINE_BYTES", -1)
    monkeypatch.setattr(workers, "_INLINE_BYTES_WHILE_ADDING", -1)
    with LocalServer(tmp_path / "data") as server, Wire(server.address) as wire:
        wire.create("b", SPEC)
        wire.add("b", episode(3))
        learner = wire.stream("SampleBatch")
        spec = replay_pb2.SampleSpec(buffer="b", batch_size=2)
        learner.send(replay_pb2.SampleBatchRequest(spec=spec))
        assert drawing.wait(30)
        wire.delete("b")
        go_on.set()
        learner.receive_pack(replay_pb2.SampleBatchResponse)
        with refused("NOT_FOUND", "NotFoundError", "was deleted"):
            learner.receive()


def test_a_call_at_rest_on_another_buffer_goes_on(wire: Wire, name: str) -> None:
    for buffer in (name, f"{name}-other"):
        wire.create(buffer, SPEC)
    actor = wire.stream("AddEpisodes")
    actor.send(start_message(name), *episode_messages(1, episode(2)))
    actor.receive()
    wire.delete(f"{name}-other")
    actor.send(*episode_messages(2, episode(2)))
    actor.receive()


def test_other_buffers_are_listed_by_name_and_untouched(wire: Wire, name: str) -> None:
    for suffix in ("-c", "-a", "-b"):
        wire.create(name + suffix, SPEC)
        wire.add(name + suffix, episode(4))
    before = state(wire, name + "-a")
    wire.delete(name + "-b")
    names = [b.name for b in wire.ask("ListBuffers", b"").buffers if b.name.startswith(name)]
    assert names == [name + "-a", name + "-c"]
    assert state(wire, name + "-a") == before


def rest_after_adding(wire: Wire) -> None:
    actor = wire.stream("AddEpisodes")
    actor.send(start_message("b", "another"), *episode_messages(1, episode(2)))
    actor.receive()


def rest_after_sampling(wire: Wire) -> None:
    learner = wire.stream("SampleBatch")
    spec = replay_pb2.SampleSpec(buffer="b", batch_size=2)
    learner.send(replay_pb2.SampleBatchRequest(spec=spec))
    learner.receive_pack(replay_pb2.SampleBatchResponse)


def rest_after_reading(wire: Wire) -> None:
    reader = wire.stream("GetItem")
    reader.send(replay_pb2.GetItemRequest(buffer="b", positions=[0]))
    reader.receive_pack(replay_pb2.GetItemResponse)


USES: dict[str, Callable[[Wire], object]] = {
    "kept by an actor at rest": rest_after_adding,
    "kept by a learner at rest": rest_after_sampling,
    "kept by a reader at rest": rest_after_reading,
    "added to": lambda wire: wire.add("b", episode(3), sequence=2),
    "sampled": lambda wire: wire.sample("b", 2),
    "read": lambda wire: wire.get("b", [0]),
    "read whole": lambda wire: wire.columns("b", "pixel"),
    "refused an episode": lambda wire: wire.add("b", episode(99), sequence=2),
    "refused a sample": lambda wire: wire.sample("b", 0),
    "refused a read": lambda wire: wire.get("b", [99]),
    "refused a column": lambda wire: wire.columns("b", "nope"),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_deleted_buffer_is_let_go_of_at_once(tmp_path: Path, use: Callable[[Wire], object]) -> None:
    # A reference left in a cycle kept its files, and so its disk space, until the garbage
    # collector came by, which in a quiet server takes hours.
    with LocalServer(tmp_path / "data") as server, Wire(server.address) as wire:
        wire.create("b", SPEC)
        wire.add("b", episode(3))
        buffer = weakref.ref(server.store.get("b"))
        gc.disable()
        try:
            with contextlib.suppress(Refused):
                use(wire)
            wire.delete("b")
            eventually(lambda: buffer() is None, "the buffer is let go of", patience=10)
        finally:
            gc.enable()
