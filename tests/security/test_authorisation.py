"""Which token is good for which method, and what becomes of calls whose token is taken away."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replayring_proto.errors import AccessDeniedError, UnauthenticatedError
from replayring_proto.limits import ServerLimits
from replayring_proto.v1 import replay_pb2
from replayring_server.security.authorisation import NEEDED, Authorisation
from replayring_server.security.tokens import Scope, Tokens
from replayring_server.service.calls import Calls
from replayring_server.tally import CallTally
from tests.certificates import READ, UNKNOWN, WRITE, token_file
from tests.service.frames import SPEC, episode, refused
from tests.support import LocalServer, ServerProcess, eventually, plant
from tests.wire import (
    METHODS,
    SERVING,
    Stream,
    Wire,
    episode_messages,
    start_message,
)

READS = {
    *("GetBuffer", "ListBuffers", "GetItem", "SampleBatch", "ReadColumn", "WatchParameters"),
    "GetServerStatus",
}
NOBODY = "NewMethod"


def bearer(token: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {token}")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    folder = tmp_path_factory.mktemp("authorisation")
    tokens = Tokens(token_file(folder / "tokens"))
    with LocalServer(folder / "data", tokens=tokens) as server:
        yield server


def test_every_method_has_its_place_in_the_table() -> None:
    """And those that only read are written out here a second time."""
    assert set(METHODS) == set(NEEDED)
    assert {method for method, scope in NEEDED.items() if scope is Scope.READ} == READS


def test_method_without_an_entry_is_denied_to_everybody(tmp_path: Path) -> None:
    authorisation = Authorisation(Tokens(token_file(tmp_path / "tokens")))
    for token in (READ, WRITE):
        assert authorisation.check("ListBuffers", bearer(token))
        with pytest.raises(AccessDeniedError, match=NOBODY):
            authorisation.check(NOBODY, bearer(token))


NO_GOOD = {
    "no token": [],
    "unknown": bearer(UNKNOWN),
    "empty": bearer(""),
    "beginning of one": bearer(WRITE[:-1]),
    "one and more": bearer(WRITE + "x"),
    "other scheme": [("authorization", f"Basic {WRITE}")],
    "no scheme": [("authorization", WRITE)],
    "two": bearer(WRITE) * 2,
    "other key": [("token", WRITE)],
}


@pytest.mark.parametrize("metadata", NO_GOOD.values(), ids=NO_GOOD)
@pytest.mark.parametrize("method", METHODS)
def test_call_without_a_valid_token_is_refused_before_it_has_said_anything(
    server: LocalServer, method: str, metadata: list[tuple[str, str]]
) -> None:
    with Wire(server.address, metadata=metadata) as wire:
        call = wire.stream(method)
        with refused("UNAUTHENTICATED", "UnauthenticatedError", "token"):
            call.receive()


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ([], "the call came without one: connect(..., token=...) or token_file=..."),
        (bearer(WRITE) * 2, "the call came with 2 of them: send one `authorization`"),
        ([*bearer(READ), ("authorization", "x")], "the call came with 2 of them: send one"),
        ([("authorization", WRITE)], "came with an `authorization` that is not 'Bearer TOKEN'"),
        (
            [("authorization", f"Basic {WRITE}")],
            "came with an `authorization` that is not 'Bearer TOKEN'",
        ),
    ],
)
def test_what_a_call_came_with_instead_of_a_token_is_told_without_showing_it(
    server: LocalServer, metadata: list[tuple[str, str]], words: str
) -> None:
    with Wire(server.address, metadata=metadata) as wire:
        refusal = wire.refusal("ListBuffers", b"")
    assert refusal is not None
    assert words in str(refusal)
    assert WRITE not in str(refusal)


@pytest.mark.parametrize("token", [READ, WRITE], ids=["read", "write"])
@pytest.mark.parametrize("method", METHODS)
def test_scope_decides(server: LocalServer, method: str, token: str) -> None:
    with Wire(server.address, metadata=bearer(token)) as wire:
        if token == WRITE or method in READS:
            error = wire.refusal(method, b"\xff")  # let in, and only then found to be nonsense
            assert error is not None
            assert error.code == "INVALID_ARGUMENT"
        else:
            call = wire.stream(method)
            words = (method, "scope write", "received one of scope read", "another")
            with refused("PERMISSION_DENIED", "AccessDeniedError", *words):
                call.receive()


def test_scheme_is_spelt_in_any_case(server: LocalServer) -> None:
    with Wire(server.address, metadata=[("authorization", f"bearer {READ}")]) as wire:
        wire.ask("ListBuffers", b"")


def test_health_asks_for_no_token(server: LocalServer) -> None:
    with Wire(server.address) as wire:
        assert wire.health() == SERVING


def test_unknown_method_is_unimplemented(server: LocalServer) -> None:
    with Wire(server.address) as wire, refused("UNIMPLEMENTED", None):
        wire.call("/replayring.v1.ReplayService/Nope", b"")


def test_calls_that_have_ended_are_forgotten(server: LocalServer) -> None:
    calls = server.server._authorisation._calls
    with Wire(server.address, metadata=bearer(WRITE)) as wire:
        wire.create("forgotten", SPEC)
        call = wire.stream("AddEpisodes")
        call.send(start_message("forgotten"), *episode_messages(1, episode(1)))
        call.receive()
        assert len(calls) == 1
        wire.refusal("GetItem", b"\xff")
    eventually(lambda: not calls, "calls are forgotten")


class SlowContext:
    """A context whose peer takes nothing until it is told to."""

    def __init__(self) -> None:
        self.taken = asyncio.Event()

    async def write(self, message: bytes) -> None:
        await self.taken.wait()


def test_call_in_the_middle_of_a_reply_ends_behind_its_message(tmp_path: Path) -> None:
    """No status is taken by gRPC while it has a message: a call cancelled then gets no answer."""
    path = token_file(tmp_path / "tokens")
    authorisation = Authorisation(Tokens(path))

    async def reply(context: Any) -> None:
        with (
            Calls(ServerLimits(), CallTally(["ReadColumn"])).entered(
                context, "ReadColumn", unary=False
            ) as call,
            authorisation.admitted("ReadColumn", bearer(WRITE), call.end_gently),
        ):
            await call.write(b"first")
            await call.write(b"second")

    async def revoke_meanwhile() -> None:
        context = SlowContext()
        replying = asyncio.create_task(reply(context))
        await asyncio.sleep(0)  # it has come to its first message
        token_file(path, f"write {UNKNOWN}")
        authorisation.reload()
        await asyncio.sleep(0)
        assert not replying.done()
        context.taken.set()
        with pytest.raises(UnauthenticatedError, match="ReadColumn"):
            await replying

    asyncio.run(revoke_meanwhile())


# SIGHUP


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return token_file(tmp_path / "tokens")


@pytest.fixture
def process(tmp_path: Path, path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "data", "--token-file", str(path)) as server:
        yield server
        assert server.stop() == 0
        assert "Traceback" not in server.log_text(), server.log_text()


def reload(server: ServerProcess, said: str) -> None:
    """Has the server read its tokens again, and waits until it has said so once more."""
    before = server.log_text().count(said)
    server.signal(signal.SIGHUP)
    eventually(lambda: server.log_text().count(said) > before, "the tokens are read again")


def lasting_calls(wire: Wire, name: str) -> dict[str, Stream]:
    """Calls that have begun and wait for ever."""
    adding, sampling, watching = map(wire.stream, ("AddEpisodes", "SampleBatch", "WatchParameters"))
    adding.send(start_message("b", name), *episode_messages(1, episode(1)))
    adding.receive()
    spec = replay_pb2.SampleSpec(buffer="b", batch_size=1)
    sampling.send(replay_pb2.SampleBatchRequest(spec=spec))
    sampling.receive()
    watching.send(replay_pb2.WatchParametersRequest(name="p", follow=True))
    watching.receive()
    return {"AddEpisodes": adding, "SampleBatch": sampling, "WatchParameters": watching}


def go_on(calls: dict[str, Stream]) -> None:
    if "AddEpisodes" in calls:
        calls["AddEpisodes"].send(*episode_messages(2, episode(1)))
        calls["AddEpisodes"].receive()
    calls["SampleBatch"].send(replay_pb2.SampleBatchRequest(batches=1))
    calls["SampleBatch"].receive()


# It has just read its tokens when they change, and somebody tells it so. On asyncio's own loop, as
# uvloop keeps some of what comes before it can be heard.
TOLD_EARLY = """
import os, pathlib, signal, sys
from replayring_server.security.tokens import Tokens

init = Tokens.__init__

def told_early(self, path):
    init(self, path)
    pathlib.Path(path).write_text("write {token}")
    os.kill(os.getpid(), signal.SIGHUP)

Tokens.__init__ = told_early
sys.modules["uvloop"] = None
"""


def test_token_taken_away_while_the_server_starts_is_gone(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has read them before it opens its files, which may take a while."""
    other = "o" * 40
    plant(TOLD_EARLY.format(token=other), tmp_path, monkeypatch)
    with ServerProcess(tmp_path / "data", "--token-file", str(path)) as server:
        eventually(lambda: "tokens to read: 0, to write: 1" in server.log_text(), "it reads again")
        with Wire(server.address, metadata=bearer(other)) as wire:
            wire.ask("ListBuffers", b"")
        with (
            Wire(server.address, metadata=bearer(WRITE)) as wire,
            refused("UNAUTHENTICATED", "UnauthenticatedError"),
        ):
            wire.ask("ListBuffers", b"")
        assert server.stop() == 0


def test_token_taken_away_ends_its_calls_and_no_others(process: ServerProcess, path: Path) -> None:
    other = "o" * 40
    token_file(path, f"write {WRITE}", f"write {other}")
    reload(process, "to write: 2")
    with (
        Wire(process.address, metadata=bearer(WRITE)) as wire,
        Wire(process.address, metadata=bearer(other)) as kept,
    ):
        wire.create("b", SPEC)
        wire.publish("p", {})
        ended, going = lasting_calls(wire, "w1"), lasting_calls(kept, "w2")

        token_file(path, f"write {other}", f"read {READ}")
        reload(process, "tokens to read: 1, to write: 1")
        for method, call in ended.items():
            with refused("UNAUTHENTICATED", "UnauthenticatedError", method, "(any more)"):
                call.receive()
        with refused("UNAUTHENTICATED", "UnauthenticatedError"):
            wire.info("b")
        go_on(going)
        with Wire(process.address, metadata=bearer(READ)) as new:
            assert new.info("b").next_index == 3


def test_token_that_is_worth_less_ends_the_calls_that_it_is_not_good_for_any_more(
    process: ServerProcess, path: Path
) -> None:
    with Wire(process.address, metadata=bearer(WRITE)) as wire:
        wire.create("b", SPEC)
        wire.publish("p", {})
        calls = lasting_calls(wire, "w")
        token_file(path, f"read {WRITE}")
        reload(process, "tokens to read: 1, to write: 0")
        with refused("PERMISSION_DENIED", "AccessDeniedError", "AddEpisodes", "scope write"):
            calls.pop("AddEpisodes").receive()
        go_on(calls)


def test_file_that_cannot_be_used_leaves_the_tokens_as_they_were(
    process: ServerProcess, path: Path
) -> None:
    token_file(path, f"write {UNKNOWN}", f"raed {READ}")
    reload(process, f"the tokens in use stay: line 2 of {path} is not")
    with Wire(process.address, metadata=bearer(WRITE)) as wire:
        assert wire.ask("ListBuffers", b"") is not None
    with (
        Wire(process.address, metadata=bearer(UNKNOWN)) as wire,
        refused("UNAUTHENTICATED", "UnauthenticatedError"),
    ):
        wire.ask("ListBuffers", b"")


def test_errors_are_permission_errors() -> None:
    assert issubclass(UnauthenticatedError, AccessDeniedError)
    assert issubclass(AccessDeniedError, PermissionError)
