"""Reflection and channelz: there when they are asked for, and then only for those with a token."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from replayring_proto.errors import InvalidRequestError
from replayring_server.diagnostics import handlers_of
from replayring_server.security.authorisation import DIAGNOSTIC, NEEDED
from tests.certificates import READ, WRITE, token_file
from tests.support import PATIENCE, ServerProcess
from tests.wire import METHODS, SERVICE, Refused, Stream, Wire

BOTH = ["--reflection", "--channelz"]
SERVICES = [
    channelz_pb2.DESCRIPTOR.services_by_name["Channelz"],
    reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
]
PATHS = [f"/{each.full_name}/{method.name}" for each in SERVICES for method in each.methods]
REFLECTION = next(path for path in PATHS if path.endswith("ServerReflectionInfo"))
BEARER = [("authorization", f"Bearer {READ}")]


def code_of(stream: Stream) -> str:
    """How the next reply of a call comes, or does not."""
    try:
        stream.receive()
    except Refused as error:
        return error.code
    return "OK"


@pytest.fixture(scope="module")
def guarded_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("diagnostics")
    tokens = ["--token-file", str(token_file(folder / "tokens"))]
    with ServerProcess(folder / "data", *BOTH, *tokens) as server:
        yield server


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("open") / "data", *BOTH) as server:
        yield server


def test_reflection_describes_every_service(open_server: ServerProcess) -> None:
    with grpc.insecure_channel(open_server.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        names = {SERVICE, "grpc.health.v1.Health", *(each.full_name for each in SERVICES)}
        assert set(database.get_services()) == names
        service = DescriptorPool(database).FindServiceByName(SERVICE)
        assert {method.name for method in service.methods} == set(METHODS)


def test_channelz_shows_the_server_and_its_connections(open_server: ServerProcess) -> None:
    with grpc.insecure_channel(open_server.address) as channel:
        stub = channelz_pb2_grpc.ChannelzStub(channel)
        (found,) = stub.GetServers(channelz_pb2.GetServersRequest(), timeout=60).server
        assert found.data.calls_started >= 1
        request = channelz_pb2.GetServerSocketsRequest(server_id=found.ref.server_id)
        assert stub.GetServerSockets(request, timeout=60).socket_ref


@pytest.mark.parametrize("path", PATHS)
def test_nobody_is_answered_without_a_token(guarded_server: ServerProcess, path: str) -> None:
    with Wire(guarded_server.address) as wire, pytest.raises(Refused) as refused:
        wire.call(path, b"", timeout=60)
    assert (refused.value.code, refused.value.kind) == ("UNAUTHENTICATED", "UnauthenticatedError")


@pytest.mark.parametrize("path", PATHS)
def test_any_token_will_do(guarded_server: ServerProcess, path: str) -> None:
    with Wire(guarded_server.address, metadata=BEARER) as wire:
        stream = wire.stream(path, timeout=60)
        stream.send(b"")
        stream.done_sending()
        assert code_of(stream) in ("OK", "NOT_FOUND")  # let in, and only then found not to exist


def begun(wire: Wire) -> Stream:
    """A stream of reflection that was answered once, and may go on."""
    stream = wire.stream(REFLECTION, timeout=PATIENCE)
    go_on(stream)
    return stream


def go_on(stream: Stream) -> None:
    stream.send(reflection_pb2.ServerReflectionRequest(list_services=""))
    stream.receive()


def test_token_taken_away_ends_its_streams_and_no_others(tmp_path: Path) -> None:
    tokens = token_file(tmp_path / "tokens")
    flags = [*BOTH, "--token-file", str(tokens)]
    with (
        ServerProcess(tmp_path / "data", *flags) as server,
        Wire(server.address, metadata=BEARER) as wire,
        Wire(server.address, metadata=[("authorization", f"Bearer {WRITE}")]) as kept,
    ):
        ended, going = begun(wire), begun(kept)
        token_file(tokens, f"write {WRITE}")
        server.signal(signal.SIGHUP)
        with pytest.raises(Refused) as refused:
            ended.receive()
        assert (refused.value.code, refused.value.kind) == (
            "UNAUTHENTICATED",
            "UnauthenticatedError",
        )
        go_on(going)
        assert server.stop() == 0
        assert "Traceback" not in server.log_text()


def test_streams_hold_up_no_server_that_stops(tmp_path: Path) -> None:
    with (
        ServerProcess(tmp_path / "data", *BOTH, "--grace", "3600") as server,
        Wire(server.address) as wire,
    ):
        stream = begun(wire)
        assert server.stop() == 0
        with pytest.raises(Refused, match="the server is stopping"):
            stream.receive()


@pytest.mark.parametrize("path", PATHS)
def test_they_are_not_there_unless_asked_for(wire: Wire, path: str) -> None:
    assert code_of(wire.stream(path, timeout=60)) == "UNIMPLEMENTED"


def test_every_method_has_its_place_in_the_table_of_scopes() -> None:
    assert set(DIAGNOSTIC) == {path.rpartition("/")[2] for path in PATHS}
    assert not DIAGNOSTIC.keys() & NEEDED.keys()  # which tell methods apart by name alone


@pytest.mark.parametrize("name", ["reflection", "channelz"])
def test_extra_that_is_missing_is_named_with_its_pip_line(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [each for each in sys.modules if each.startswith(f"grpc_{name}")]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InvalidRequestError) as refused:
        handlers_of(reflection=name == "reflection", channelz=name == "channelz")
    assert f"--{name} needs grpc_{name}, which" in str(refused.value)
    assert f'which is not installed: pip install "replayring[{name}]"' in str(refused.value)
    assert handlers_of(reflection=False, channelz=False) == []
