"""One shard lets a client in no more, as one whose tokens are exchanged first; others still do."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

import replayring
from replayring import shard_of
from replayring.top.readings import readings
from tests.sharded.conftest import SPEC, Shards, add_to, connect
from tests.support import ServerProcess, eventually

pytestmark = [pytest.mark.usefixtures("no_threads_left"), pytest.mark.timeout(240)]

OLD, NEW = f"write {'o' * 32}\n", f"write {'n' * 32}\n"


class Guarded:
    """Two servers that want a token, in the order of their numbers."""

    def __init__(self, folder: Path) -> None:
        made = []
        for number in range(2):
            tokens = folder / f"tokens-{number}"
            tokens.write_text(OLD)
            made.append((ServerProcess(folder / f"shard-{number}", "--token-file", tokens), tokens))
        self.servers = sorted(made, key=lambda one: one[0].address)

    @property
    def addresses(self) -> list[str]:
        return [server.address for server, _ in self.servers]

    def exchange(self, number: int, tokens: str) -> None:
        """Has another token let in, and no other."""
        server, path = self.servers[number]
        path.write_text(tokens)
        server.signal(signal.SIGHUP)

    def close(self) -> None:
        for server, _ in self.servers:
            server.close()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    made = Guarded(tmp_path)
    yield made
    made.close()


def test_it_is_left_out_and_said_to_be_and_taken_back(
    guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    """Streams went on without it, but for those that counted frames first; all else failed.

    So did what is of no one buffer, until later: `top` ended.
    """
    first, second = guarded.addresses
    with replayring.connect(
        [first, second], timeout=20, token=OLD.split()[1], same_host=False
    ) as client:
        buffer = client.create_buffer("b", SPEC, 10_000)
        add_to(buffer, 0, 3)
        add_to(buffer, 1, 4)
        client.publish("p", {"w": [1]})
        guarded.exchange(1, NEW)
        caplog.set_level(logging.WARNING)
        eventually(lambda: buffer.info().shards[second] is None, "it lets nobody in")
        info = buffer.info()
        assert (info.num_frames, info.shards[first].num_frames) == (3, 3)
        assert "it does not give it: " in info.missing[second]
        assert "token" in info.missing[second]
        assert sum(f"{second} is left out" in r.message for r in caplog.records) == 1
        assert shard_of(buffer.get([0, -1])["index"]).tolist() == [0, 0]
        assert len(buffer.read_columns(["index"])["index"]) == 3
        with buffer.sample_stream(4, min_frames=2) as stream:
            assert shard_of(next(stream)["index"]).tolist() == [0] * 4
            assert stream.next_index == buffer.info().next_index == 3
        (listed,) = client.buffers()
        assert (listed.num_frames, list(listed.missing)) == (3, [second])
        assert "it does not give it: ListBuffers: " in listed.missing[second]
        status = client.status()
        assert (status.shards[second], status.buffers[0].num_frames) == (None, 3)
        assert list(status.refusals) == [second]
        assert "token" in status.refusals[second]
        (outcome,) = islice(readings(client, 0.1), 1)
        assert outcome.away == {}
        versions = client.watch("p", timeout=20)
        assert [next(client.watch("p", timeout=20)).version for _ in range(4)] == [1] * 4
        assert client.latest("p").version == next(versions).version == 1
        guarded.exchange(0, NEW)
        asking = [
            lambda: buffer.info(),
            lambda: client.latest("p"),
            lambda: client.buffers(),
            lambda: client.status(),
            lambda: next(client.watch("p", timeout=20)),
        ]
        for ask in asking:
            eventually(lambda ask=ask: refused(ask), "nobody lets it in")
        guarded.exchange(0, OLD)
        guarded.exchange(1, OLD)
        eventually(lambda: (found := seen(buffer)) and not found.missing, "both do again")
        guarded.exchange(1, NEW)
        eventually(lambda: client.status().refusals, "it lets nobody in once more")
        guarded.servers[0][0].kill()
        with pytest.raises(replayring.ServerUnavailableError, match=f"{first} could.*{second}: "):
            client.status(timeout=0.5)  # which `top` takes for an absence


def test_one_that_came_back_with_tls_is_said_to_have(
    calm_shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was said to be away for as long as the client lived."""
    with connect(calm_shards, timeout=20) as client:
        lost = client._shards[1]
        wrong = replayring.TLSError("the server speaks TLS")
        monkeypatch.setattr(lost.client._caller, "unreachable", lambda: wrong)
        lost.client._channel.outage.silent(replayring.DeadlineError("silence"))
        lost.look_out()
        eventually(lambda: not lost.lost, "it is asked again")


def refused(ask: object) -> bool:
    try:
        ask()  # type: ignore[operator]
    except replayring.UnauthenticatedError:
        return True
    return False


def seen(buffer: replayring.ShardedBuffer) -> replayring.ShardedBufferInfo | None:
    try:
        return buffer.info()  # type: ignore[return-value]
    except replayring.UnauthenticatedError:
        return None
