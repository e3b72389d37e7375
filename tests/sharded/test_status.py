"""`ShardedClient.status`: what adds up, what does not, and shards that are away."""

from __future__ import annotations

import signal
import time

import pytest

import replayring
from replayring import ShardedServerStatus
from replayring.sharded.statuses import total
from replayring_proto.server_status import (
    BufferStatus,
    Durations,
    LimitUse,
    MethodStatus,
    ParametersStatus,
    WriterStatus,
)
from tests.observability.made import NONE, buffer, method, server
from tests.sharded.conftest import SPEC, Shards, add_to
from tests.support import eventually

pytestmark = pytest.mark.usefixtures("no_threads_left")


def of(status: ShardedServerStatus, name: str) -> BufferStatus:
    (found,) = (each for each in status.buffers if each.name == name)
    return found


def called(status: replayring.ServerStatus, name: str) -> MethodStatus:
    (found,) = (each for each in status.methods if each.name == name)
    return found


def test_it_is_what_the_shards_say_and_their_sum(shards: Shards) -> None:
    # What is read from files is not counted.
    with replayring.connect(shards.address, timeout=20, same_host=False) as client:
        there = client.create_buffer("b", SPEC, 2000, fps=10)
        add_to(there, 0, 3)
        add_to(there, 1, 4)
        add_to(there, 1, 5)
        there.sample(6)
        client.publish("p", {"w": [1.0]})
        status = client.status()
        assert isinstance(status, ShardedServerStatus)
        assert list(status.shards) == client.shards
        first, second = status.shards.values()
        assert first is not None
        assert second is not None
        assert [one.buffers[0].next_index for one in (first, second)] == [3, 9]
        found = of(status, "b")
        assert (found.num_frames, found.capacity, found.num_episodes) == (12, 2000, 3)
        assert found.frames_sampled == sum(one.buffers[0].frames_sampled for one in (first, second))
        assert found.frames_sampled >= 6
        assert called(status, "AddEpisodes").work.count == 3
        assert called(status, "CreateBuffer").finished == {"OK": 2}
        assert status.num_buffers == 1
        assert status.version == replayring.__version__
        assert [(one.name, one.version) for one in status.parameters] == [("p", 1)]
        assert status.received_bytes == first.received_bytes + second.received_bytes
        assert status.uptime_s == min(first.uptime_s, second.uptime_s)


@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_a_shard_that_is_away_is_missing_and_comes_back(how: str, shards: Shards) -> None:
    dead, alive = shards.addresses
    with replayring.connect(shards.address, timeout=20) as client:
        there = client.create_buffer("b", SPEC, 2000, fps=10)
        add_to(there, 0, 3)
        add_to(there, 1, 4)
        assert of(client.status(), "b").num_frames == 7
        shards.kill(0) if how == "kill" else shards.signal(0, signal.SIGSTOP)
        begun = time.monotonic()
        status = client.status(timeout=2)
        assert time.monotonic() - begun < 10
        assert status.shards[dead] is None
        assert status.shards[alive] is not None
        assert of(status, "b").num_frames == 4
        shards.revive(0) if how == "kill" else shards.signal(0, signal.SIGCONT)
        eventually(lambda: client.status().shards[dead], "it is found again")
        assert of(client.status(), "b").num_frames == 7


def test_no_shard_at_all_is_an_error(shards: Shards) -> None:
    with replayring.connect(shards.address, timeout=1) as client:
        client.status(timeout=20)
        shards.kill(0)
        shards.kill(1)
        with pytest.raises(replayring.ServerUnavailableError, match=shards.addresses[0]):
            client.status()


def test_what_does_not_add_up() -> None:
    one = server(
        limits=(LimitUse("max_calls", 90, 100, 1), LimitUse("max_watchers", 1, 10)),
        parameters=(ParametersStatus("p", 7, 100),),
        warnings=("the disk smokes",),
    )
    two = server(
        version="1.3.0",
        uptime_s=5.0,
        limits=(LimitUse("max_calls", 100, 10_000, 2), LimitUse("max_watchers", 2, 10)),
        parameters=(ParametersStatus("a", 1, 5), ParametersStatus("p", 6, 900)),
    )
    status = total(["a:1", "b:2", "c:3"], {"a:1": one, "b:2": two})
    assert status.shards == {"a:1": one, "b:2": two, "c:3": None}
    assert (status.version, status.uptime_s, status.num_buffers) == ("1.2.3, 1.3.0", 5.0, 1)
    assert status.limits == (LimitUse("max_calls", 90, 100, 3), LimitUse("max_watchers", 2, 10))
    assert status.parameters == (ParametersStatus("a", 1, 5), ParametersStatus("p", 7, 100))
    assert status.warnings == ("a:1: the disk smokes",)


def test_buffers_and_methods_are_added_by_name() -> None:
    quiet = WriterStatus("w", 20.0, 1, True)
    one = server(
        num_buffers=2,
        buffers=(buffer("a"), buffer("b", opened_index=50)),
        methods=(method("GetItem", finished={"OK": 2, "NOT_FOUND": 1}),),
    )
    two = server(
        buffers=(buffer("b", buffer_id="other", writers=(quiet,), num_writers=1),),
        methods=(method("GetItem", finished={"OK": 3}), method("New")),
    )
    status = total(["x:1", "y:2"], {"x:1": one, "y:2": two})
    assert (status.num_buffers, [each.name for each in status.buffers]) == (2, ["a", "b"])
    found = of(status, "b")
    assert (found.buffer_id, found.capacity, found.num_frames) == ("id of b+other", 2000, 500)
    assert found.samples_per_insert == 1000 / 450
    assert (found.num_writers, [each.quiet_s for each in found.writers]) == (3, [95.0, 20.0, 1.0])
    assert [each.name for each in status.methods] == ["GetItem", "New"]
    assert called(status, "GetItem").finished == {"OK": 5, "NOT_FOUND": 1}
    assert called(status, "GetItem").in_flight == 2


def test_of_many_writers_the_quietest_are_told() -> None:
    sizes = [
        server(buffers=(buffer(writers=tuple(WriterStatus("w", s, 1, True) for s in quiet)),))
        for quiet in (range(100, 80, -1), range(95, 75, -1))
    ]
    status = total(["x:1", "y:2"], dict(zip(["x:1", "y:2"], sizes, strict=True)))
    expected = sorted([*range(100, 80, -1), *range(95, 75, -1)], reverse=True)[:20]
    assert [each.quiet_s for each in status.buffers[0].writers] == expected


def test_durations_of_two_versions_are_added_below_their_own_bounds() -> None:
    old = Durations((0.1, 1.0), (4, 0, 1), 9.0)
    new = Durations((0.1, 0.5), (1, 2, 3), 8.0)
    assert Durations.of_all([old, new]) == Durations((0.1, 0.5, 1.0), (5, 2, 0, 4), 17.0)
    assert Durations.of_all([old, NONE]).count == 5
    assert Durations.of_all([Durations(), Durations()]).at_most(0.5) is None
