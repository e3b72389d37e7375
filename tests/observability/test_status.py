"""GetServerStatus: every number is that of what was done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import pytest

import replayring
from replayring_proto import limits
from replayring_proto.limits import ServerLimits
from replayring_proto.server_status import (
    BufferStatus,
    MethodStatus,
    ServerStatus,
    status_from_message,
    status_to_message,
)
from replayring_proto.v1 import replay_pb2
from replayring_server.service import reporting
from replayring_server.telemetry.families import families_of
from tests.service.frames import CAPACITY, SPEC, episode
from tests.support import LocalServer, ServerProcess, eventually
from tests.wire import METHODS, Refused, Wire, episode_messages, start_message


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalServer]:
    with LocalServer(tmp_path / "data", ServerLimits(max_buffers=4, max_watchers=2)) as server:
        yield server


@pytest.fixture
def wire(local: LocalServer) -> Iterator[Wire]:
    with Wire(local.address) as wire:
        wire.create("b", SPEC)
        yield wire


def status(wire: Wire) -> ServerStatus:
    return status_from_message(
        wire.ask("GetServerStatus", replay_pb2.GetServerStatusRequest()).status
    )


def buffer(wire: Wire, name: str = "b") -> BufferStatus:
    (found,) = (each for each in status(wire).buffers if each.name == name)
    return found


def method(wire: Wire, name: str) -> MethodStatus:
    (found,) = (each for each in status(wire).methods if each.name == name)
    return found


def test_message_says_the_same(wire: Wire) -> None:
    wire.add("b", episode(4))
    wire.publish("p", {"w": np.zeros(3)})
    message = wire.ask("GetServerStatus", b"").status
    assert message.buffers
    assert message.buffers[0].writers
    assert message.parameters
    assert status_to_message(status_from_message(message)) == message


def test_what_was_added_is_counted(wire: Wire) -> None:
    wire.add("b", episode(4), episode(3), writer_id="w", sequence=5)
    wire.add("b", episode(4), writer_id="w", sequence=5)
    found = buffer(wire)
    assert (found.next_index, found.num_frames, found.capacity) == (7, 7, CAPACITY)
    assert (found.num_episodes, found.next_episode_index, found.duplicates) == (2, 2, 1)
    (writer,) = found.writers
    assert (writer.writer_id, writer.sequence, writer.connected) == ("w", 6, False)
    assert 0 <= writer.quiet_s < 60
    assert method(wire, "AddEpisodes").work.count == 3
    wire.add("b", *(episode(4),) * 3, writer_id="x")
    assert buffer(wire).num_frames == CAPACITY


def test_what_was_sampled_is_counted_by_frames_and_batches(wire: Wire) -> None:
    wire.add("b", episode(4))
    wire.sample("b", 5, batches=3)
    wire.sample("b", 2, batches=4, batches_per_pack=4)
    wire.refusal(
        "SampleBatch",
        replay_pb2.SampleBatchRequest(spec=replay_pb2.SampleSpec(buffer="none", batch_size=1)),
    )
    found = buffer(wire)
    assert (found.batches_sampled, found.frames_sampled) == (7, 23)
    assert found.samples_per_insert == 23 / 4
    assert method(wire, "SampleBatch").work.count == 4  # the last four share one draw


def has_answered(wire: Wire, times: int) -> bool:
    return method(wire, "GetItem").work.count == times


def test_every_answer_of_a_call_is_work(wire: Wire) -> None:
    wire.add("b", episode(4))
    call = wire.stream("GetItem")
    for done in range(1, 4):
        call.send(replay_pb2.GetItemRequest(buffer="b", positions=[0]))
        call.receive_pack(replay_pb2.GetItemResponse)
        eventually(partial(has_answered, wire, done), "it is counted")
    assert method(wire, "GetItem").in_flight == 1
    call.done_sending()
    assert not list(call)
    eventually(lambda: method(wire, "GetItem").finished == {"OK": 1}, "the call has ended")
    assert has_answered(wire, 3)


def test_waiting_for_frames_is_no_work(wire: Wire) -> None:
    stream = wire.stream("SampleBatch")
    spec = replay_pb2.SampleSpec(buffer="b", batch_size=2, min_frames=4)
    stream.send(replay_pb2.SampleBatchRequest(spec=spec))
    eventually(lambda: method(wire, "SampleBatch").in_flight, "the call has begun")
    assert method(wire, "SampleBatch").work.count == 0
    wire.add("b", episode(4))
    stream.receive()
    assert buffer(wire).batches_sampled == 1
    assert method(wire, "SampleBatch").work.count == 1


def test_a_writer_with_a_call_open_is_connected(wire: Wire) -> None:
    stream = wire.stream("AddEpisodes")
    stream.send(start_message("b", "robot"), *episode_messages(1, episode(2)))
    stream.receive()
    (writer,) = buffer(wire).writers
    assert (writer.writer_id, writer.sequence, writer.connected) == ("robot", 1, True)
    stream.cancel()
    eventually(lambda: not buffer(wire).writers[0].connected, "the writer has left")


def test_calls_are_counted_by_how_they_ended(wire: Wire) -> None:
    wire.info("b")
    wire.refusal("GetBuffer", replay_pb2.GetBufferRequest(name="none"))
    wire.refusal("GetBuffer", b"\xff")
    found = method(wire, "GetBuffer")
    assert found.finished == {"OK": 1, "NOT_FOUND": 1, "INVALID_ARGUMENT": 1}
    assert found.work.count == 1
    stream = wire.stream("WatchParameters")
    stream.send(replay_pb2.WatchParametersRequest(name="p", follow=True))
    eventually(lambda: method(wire, "WatchParameters").in_flight == 1, "the call has begun")
    stream.cancel()
    eventually(
        lambda: method(wire, "WatchParameters").finished == {"CANCELLED": 1}, "the call has ended"
    )
    assert [each.name for each in status(wire).methods] == list(METHODS)


def test_what_is_used_of_limits(wire: Wire) -> None:
    stream = wire.stream("WatchParameters")
    stream.send(replay_pb2.WatchParametersRequest(name="p", follow=True))
    eventually(lambda: used(wire, "max_watchers") == (1, 2), "the watcher has come")
    assert used(wire, "max_buffers") == (1, 4)
    assert used(wire, "max_calls")[0] == 2  # this one is the other
    assert used(wire, "max_parameter_sets") == (0, ServerLimits().max_parameter_sets)
    assert used(wire, "max_staging_bytes") == (0, ServerLimits().max_staging_bytes)


def used(wire: Wire, name: str) -> tuple[int, int]:
    (limit,) = (limit for limit in status(wire).limits if limit.name == name)
    return limit.used, limit.limit


def test_memory_in_use_and_who_waits_for_it(tmp_path: Path) -> None:
    tight = ServerLimits(
        max_staging_bytes=3 << 20, max_episode_bytes=3 << 20, max_parameters_bytes=1 << 20
    )
    with LocalServer(tmp_path / "tight", tight) as server, Wire(server.address) as wire:
        spec = replay_pb2.CreateBufferRequest().spec
        spec.columns.add(name="image", dtype="uint8", shape=[2 << 20])
        spec.capacity = 4
        wire.create("b", spec)
        for number in range(2):
            stream = wire.stream("AddEpisodes")
            messages = episode_messages(1, {"image": np.zeros((1, 2 << 20), np.uint8)})
            stream.send(start_message("b", f"w{number}"), messages[0])
        limit = eventually(
            lambda: next((each for each in status(wire).limits if each.waiting), None), "one waits"
        )
        assert (limit.name, limit.waiting) == ("max_staging_bytes", 1)
        assert limit.ratio > 0.6


def test_bytes_and_disk_and_peers(wire: Wire) -> None:
    before = status(wire)
    assert before.peers == 1
    wire.add("b", episode(4))
    wire.columns("b", "position")
    after = status(wire)
    assert after.received_bytes - before.received_bytes > 4 * 10
    assert after.sent_bytes - before.sent_bytes > 4 * 8
    assert 0 < after.disk_free_bytes <= after.disk_size_bytes
    assert after.resident_bytes > 1 << 20
    assert after.uptime_s > before.uptime_s > 0
    assert after.version == replayring.__version__


def test_replies_of_one_message_are_among_what_was_sent(wire: Wire) -> None:
    before = wire.ask("GetServerStatus", replay_pb2.GetServerStatusRequest())
    answer = wire.ask("GetBuffer", replay_pb2.GetBufferRequest(name="b"))
    sent = status(wire).sent_bytes - before.status.sent_bytes
    assert sent == before.ByteSize() + answer.ByteSize()


def test_episodes_that_are_refused_are_no_work(wire: Wire) -> None:
    with pytest.raises(Refused):
        wire.add("b", {"x": np.zeros((2, 99), np.float32)})
    assert method(wire, "AddEpisodes").work.count == 0


def test_parameters(wire: Wire) -> None:
    wire.publish("policy", {"w": np.zeros(8)})
    assert wire.publish("policy", {"w": np.zeros(8)}) == 2
    (parameters,) = status(wire).parameters
    assert (parameters.name, parameters.version, parameters.nbytes) == ("policy", 2, 64)


def test_a_long_list_is_cut(
    local: LocalServer, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "MAX_STATUS_ENTRIES", 2)
    monkeypatch.setattr(reporting, "MAX_STATUS_WRITERS", 3)
    for name in ("c", "a"):
        wire.create(name, SPEC)
    for number in range(5):
        wire.add("b", episode(1), writer_id=f"w{number}")
        wire.publish(f"p{number}", {})
    found = status(wire)
    assert [each.name for each in found.buffers] == ["a", "b"]
    assert found.num_buffers == 3
    assert [each.name for each in found.parameters] == ["p0", "p1"]
    (b,) = (each for each in found.buffers if each.name == "b")
    assert [writer.writer_id for writer in b.writers] == ["w0", "w1", "w2"]
    assert b.num_writers == b.writers_quiet.count == 5


def test_the_longest_status_fits_a_message() -> None:
    """As many buffers, writers and parameters as one lists, every number at its largest."""
    most = (1 << 64) - 1
    message = replay_pb2.GetServerStatusResponse()
    for number in range(limits.MAX_STATUS_ENTRIES):
        found = message.status.buffers.add(name="b" * 64, buffer_id="0" * 32)
        for field in fields(BufferStatus):
            if field.type == "int":
                setattr(found, field.name, most)
        for durations in (found.syncs, found.writers_quiet):
            durations.bounds_s.extend([0.1] * 20)
            durations.counts.extend([1 << 30] * 21)
        for _ in range(limits.MAX_STATUS_WRITERS):
            found.writers.add(writer_id="w" * 64, quiet_s=0.1, sequence=most, connected=True)
        message.status.parameters.add(name="p" * 64, version=number, nbytes=most)
    assert message.ByteSize() < limits.MAX_MESSAGE_BYTES


def test_damage_is_a_warning(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with LocalServer(data) as server, Wire(server.address) as wire:
        for name in ("good", "bad"):
            wire.create(name, SPEC)
        assert status(wire).warnings == ()
    (data / "bad" / "cursor").unlink()
    with LocalServer(data) as server, Wire(server.address) as wire:
        found = status(wire)
        (warning,) = found.warnings
        assert "damaged buffers" in warning
        assert "bad" in warning
        assert "replayring verify" in warning
        assert [each.name for each in found.buffers] == ["good"]


def test_a_restart_sets_back_what_does_not_come_from_files(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with ServerProcess(data) as server, Wire(server.address) as wire:
        wire.create("b", SPEC)
        wire.add("b", episode(4))
        wire.sample("b", 8)
        eventually(lambda: buffer(wire).durable_index == 4, "the sync has come")
        assert buffer(wire).syncs.count == 1
        server.kill()
    with ServerProcess(data) as server, Wire(server.address) as wire:
        found = buffer(wire)
        assert (found.next_index, found.opened_index, found.frames_sampled) == (4, 4, 0)
        assert (found.next_episode_index, found.opened_episode_index) == (1, 1)
        assert found.samples_per_insert is None
        counts = {f.name: f.values for f in families_of(status(wire)) if f.values}
        for name, added in (("frames_added", 0), ("episodes_added", 0), ("next_index", 4)):
            assert counts[f"replayring_buffer_{name}"] == [(("b",), added)]
        assert found.writers == ()


def test_the_client_asks_for_it(local: LocalServer, wire: Wire) -> None:
    with replayring.connect(local.address) as client:
        found = client.status()
    assert isinstance(found, replayring.ServerStatus)
    assert [each.name for each in found.buffers] == ["b"]


def test_those_without_a_token_are_counted(tmp_path: Path) -> None:
    from replayring_server.security.tokens import Tokens
    from tests.certificates import READ, token_file

    tokens = Tokens(token_file(tmp_path / "tokens"))
    with LocalServer(tmp_path / "data", tokens=tokens) as server:
        with Wire(server.address) as stranger:
            assert stranger.refusal("ListBuffers", b"") is not None
        with Wire(server.address, metadata=[("authorization", f"Bearer {READ}")]) as reader:
            assert reader.refusal("DeleteBuffer", b"") is not None
            assert method(reader, "ListBuffers").finished == {
                grpc.StatusCode.UNAUTHENTICATED.name: 1
            }
            assert method(reader, "DeleteBuffer").finished == {
                grpc.StatusCode.PERMISSION_DENIED.name: 1
            }
