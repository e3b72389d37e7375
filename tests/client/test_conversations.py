"""Kept calls: single batches and frames by position, asked for again and again in one call."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

import replayring
from replayring import _conversations, _patience
from replayring._sampling import Sampling, draw
from replayring_proto import errors
from replayring_proto.query import SampleQuery, View
from replayring_proto.v1 import replay_pb2
from tests.client.conftest import CAPACITY, SPEC
from tests.client.fake_server import (
    FakeServer,
    Script,
    batch_reply,
    error,
    pack_reply,
    silence,
    status,
)
from tests.support import LocalServer, eventually

pytestmark = pytest.mark.usefixtures("no_threads_left")

ITEMS = pack_reply({"state": np.zeros((1, 2))})

Use = Callable[[replayring.Buffer], Any]
USES: dict[str, Use] = {
    "GetItem": lambda buffer: buffer.get([0]),
    "SampleBatch": lambda buffer: buffer.sample(1),
}
REPLIES = {"GetItem": ITEMS, "SampleBatch": batch_reply(1)}


def names() -> list[str]:
    """Returns the names of the threads that run."""
    return [thread.name for thread in threading.enumerate()]


class Answers:
    """A script that answers each request of its calls, up to a number of them in each.

    Attributes:
        requests: all requests, encoded.
        ended: calls whose caller has said that no more requests come.
    """

    def __init__(self, replies: list[bytes], each: int = 1_000_000, then: Script | None = None):
        self.requests: list[bytes] = []
        self.ended = 0
        self._replies = replies
        self._each = each
        self._then = then

    def __call__(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        for answered, request in enumerate(requests, 1):
            self.requests.append(request)
            yield from self._replies
            if answered == self._each:
                if self._then is not None:
                    yield from self._then(requests, context)
                return
        self.ended += 1


@pytest.fixture
def fake_buffer(fake_client: replayring.Client) -> replayring.Buffer:
    return fake_client.buffer("fake")


@pytest.fixture(params=USES)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class TestKeeping:
    def test_one_call_serves_many_requests(
        self, method: str, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        fake.script(method, Answers(REPLIES[method]))
        for _ in range(5):
            assert USES[method](fake_buffer)
        assert fake.calls[method] == 1

    def test_buffers_of_a_client_share_it(
        self, fake: FakeServer, fake_client: replayring.Client
    ) -> None:
        script = Answers(ITEMS)
        fake.script("GetItem", script)
        for position in (3, 4):
            fake_client.buffer("fake").get([position])
        requests = [replay_pb2.GetItemRequest.FromString(one) for one in script.requests]
        assert [list(one.positions) for one in requests] == [[3], [4]]
        assert fake.calls["GetItem"] == 1

    def test_what_to_sample_is_said_once_and_again_when_it_changes(
        self, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        script = Answers(batch_reply(1))
        fake.script("SampleBatch", script)
        for size in (2, 2, 2, 3, 3, 2):
            fake_buffer.sample(size)
        requests = [replay_pb2.SampleBatchRequest.FromString(one) for one in script.requests]
        assert [one.spec.batch_size for one in requests] == [2, 0, 0, 3, 0, 2]
        assert all((one.batches or 1) == 1 for one in requests)
        assert fake.calls["SampleBatch"] == 1

    def test_threads_have_calls_of_their_own(
        self, method: str, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        together = threading.Barrier(3)

        def script(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            for turn, _ in enumerate(requests):
                if not turn:
                    together.wait(20)  # all three are asked before one is answered
                yield from REPLIES[method]

        fake.script(method, script)
        threads = [
            threading.Thread(target=lambda: [USES[method](fake_buffer) for _ in range(4)])
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert fake.calls[method] == 3

    def test_one_that_nobody_uses_is_ended(
        self,
        method: str,
        fake: FakeServer,
        fake_buffer: replayring.Buffer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(_conversations, "IDLE_SECONDS", 0.05)
        script = Answers(REPLIES[method])
        fake.script(method, script)
        USES[method](fake_buffer)
        eventually(lambda: script.ended == 1, "the call is ended")
        USES[method](fake_buffer)
        assert fake.calls[method] == 2

    def test_waiting_for_an_answer_is_no_idleness(
        self,
        fake: FakeServer,
        fake_buffer: replayring.Buffer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(_conversations, "IDLE_SECONDS", 0.05)

        def script(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            for _ in requests:
                pass  # till the caller has said that there are no more
            yield from batch_reply(7)

        fake.script("SampleBatch", script)
        assert fake_buffer.sample(1)["index"].tolist() == [7]
        assert fake.calls["SampleBatch"] == 1


class TestEnding:
    """A kept call that ended, or may be of the past, is replaced without anybody noticing."""

    @pytest.mark.parametrize(
        "ending",
        [
            None,  # as a server does that knows one request per call
            status(grpc.StatusCode.UNAVAILABLE),
            status(grpc.StatusCode.CANCELLED),
            status(grpc.StatusCode.DEADLINE_EXCEEDED),
            error(errors.UnauthenticatedError("the token was exchanged")),
            error(errors.NotFoundError("buffer 'fake' was deleted")),
        ],
        ids=["served", "stopping", "cancelled", "too old", "locked out", "buffer deleted"],
    )
    @pytest.mark.parametrize("at_once", [True, False], ids=["while it rests", "when it is used"])
    def test_the_request_is_made_again_at_once(
        self,
        ending: Script | None,
        at_once: bool,
        method: str,
        fake: FakeServer,
        fake_buffer: replayring.Buffer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def wait(*_: Any) -> bool:
            raise AssertionError("it backs off")

        monkeypatch.setattr(_patience.Patience, "wait", wait)

        def later(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            next(requests)
            if ending is not None:
                yield from ending(requests, context)

        fake.script(
            method,
            Answers(REPLIES[method], 1, ending if at_once else later),
            Answers(REPLIES[method]),
        )
        for _ in range(3):
            assert USES[method](fake_buffer)
        assert fake.calls[method] == 2

    @pytest.mark.parametrize(
        "refusal",
        [
            errors.FrameNotFoundError("position 9"),
            errors.ToleranceError("no frame within 0.1 s"),
            errors.InvalidRequestError("nonsense"),
            errors.ServerError("id 1234"),
        ],
        ids=lambda refusal: type(refusal).__name__,
    )
    def test_what_is_wrong_with_the_request_is_said_once(
        self, refusal: errors.ReplayRingError, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        def script(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            next(requests)
            yield from ITEMS
            next(requests)
            yield from error(refusal)(requests, context)

        again = Answers(ITEMS)
        fake.script("GetItem", script, again)
        fake_buffer.get([0])
        with pytest.raises(type(refusal), match=str(refusal)):
            fake_buffer.get([0])
        assert not again.requests
        fake_buffer.get([0])
        assert fake.calls["GetItem"] == 2

    def test_a_server_that_locks_out_is_believed_the_second_time(
        self, method: str, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        locked = error(errors.UnauthenticatedError("no such token"))
        fake.script(method, Answers(REPLIES[method], 1, locked), locked)
        USES[method](fake_buffer)
        with pytest.raises(replayring.UnauthenticatedError, match="no such token"):
            USES[method](fake_buffer)
        assert fake.calls[method] == 2

    def test_time_that_runs_out_ends_the_call(
        self, method: str, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        gone = threading.Event()

        def script(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            context.add_callback(gone.set)
            next(requests)
            yield from REPLIES[method]
            yield from silence()(requests, context)

        fake.script(method, script, Answers(REPLIES[method]))
        USES[method](fake_buffer)
        late: dict[str, Use] = {
            "GetItem": lambda buffer: buffer.get([0], timeout=0.3),
            "SampleBatch": lambda buffer: buffer.sample(1, timeout=0.3),
        }
        with pytest.raises(replayring.DeadlineError, match=r"0\.3 s"):
            late[method](fake_buffer)
        assert gone.wait(20)
        assert fake.calls[method] == 1
        USES[method](fake_buffer)
        assert fake.calls[method] == 2

    def test_a_client_that_is_closed_says_so_also_if_the_server_ends_the_call_first(
        self,
        fake: FakeServer,
        fake_client: replayring.Client,
        fake_buffer: replayring.Buffer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """It may see that no request follows before it sees that the call is cancelled."""
        asked, raised = threading.Event(), list[Exception]()

        def script(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            next(requests)
            asked.set()
            yield from (b"" for _ in requests)

        def once_it_has_ended(cancel: Callable[[], None]) -> None:
            eventually(lambda: "replayring conversation" not in names(), "the call has ended", 10)

        def wait() -> None:
            try:
                fake_buffer.get([0])
            except Exception as error:
                raised.append(error)

        fake.script("GetItem", script)
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert asked.wait(20)
        with monkeypatch.context() as patch:
            patch.setattr(_conversations.WORKERS, "send", once_it_has_ended)
            fake_client.close()
        waiting.join(20)
        assert isinstance(raised[0], replayring.ClosedError), raised

    def test_time_that_runs_out_before_the_call_has_begun_ends_it_too(
        self,
        fake: FakeServer,
        fake_client: replayring.Client,
        fake_buffer: replayring.Buffer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        fake.script("SampleBatch", silence())
        begin, open_channel = threading.Event(), fake_client._channel._open

        def slow() -> grpc.Channel:
            assert begin.wait(20)
            return open_channel()

        with monkeypatch.context() as patch:
            patch.setattr(fake_client._channel, "_open", slow)
            conversation = _conversations.Conversation(fake_client._channel, "SampleBatch", 1)
            with pytest.raises(replayring.DeadlineError):
                conversation.ask(b"", 0.05)
            begin.set()
            eventually(lambda: "replayring conversation" not in names(), "the call has ended", 10)

    def test_those_that_ended_are_known(
        self, fake: FakeServer, fake_client: replayring.Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake.script("GetItem", silence())
        one, other = (
            _conversations.Conversation(fake_client._channel, "GetItem", 1) for _ in range(2)
        )
        assert one.usable
        one.end()
        assert not one.usable
        assert other.usable
        monkeypatch.setattr(_conversations.os, "getpid", lambda: -1)  # as in a fork
        assert not other.usable

    def test_an_interrupt_ends_the_call(
        self, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        asked, gone = threading.Event(), threading.Event()

        def script(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            context.add_callback(gone.set)
            next(requests)
            asked.set()
            yield from silence()(requests, context)

        fake.script("GetItem", script, Answers(ITEMS))
        main = threading.get_ident()
        hit = threading.Thread(
            target=lambda: asked.wait(20) and signal.pthread_kill(main, signal.SIGINT)
        )
        hit.start()
        with pytest.raises(KeyboardInterrupt):
            fake_buffer.get([0])
        hit.join()
        assert gone.wait(20)
        assert fake_buffer.get([0])
        assert fake.calls["GetItem"] == 2


class TestRealServer:
    def test_a_buffer_made_anew_is_the_one_that_is_sampled(
        self, client: replayring.Client, buffer: replayring.Buffer
    ) -> None:
        for value in range(4):
            buffer.add_episode({"state": np.full((5, 2), value), "reward": np.zeros(5)})
            for _ in range(3):
                assert set(buffer.sample(8)["state"].ravel().tolist()) == {value}
                assert buffer.get([-1])["state"].tolist() == [[value, value]]
            client.delete_buffer(buffer.name)
            buffer = client.create_buffer(buffer.name, SPEC, CAPACITY, fps=10)

    def test_a_call_that_still_owes_a_batch_is_not_kept(self, buffer: replayring.Buffer) -> None:
        sampling = Sampling(buffer.name, SampleQuery(4, View()), count_eligible=True)

        def drawn() -> tuple[int, int]:
            arrays, rest = draw(buffer._caller, sampling, _patience.Patience("drawing", 20))
            reply = replay_pb2.SampleBatchResponse.FromString(rest)
            return len(arrays["index"]), reply.next_index

        assert drawn() == (0, 0)
        for added in (5, 10, 15):
            buffer.add_episode({"state": np.zeros((5, 2)), "reward": np.zeros(5)})
            assert drawn() == (4, added)

    def test_seeds_count_from_the_call_that_gives_one(self, buffer: replayring.Buffer) -> None:
        buffer.add_episode({"state": np.zeros((500, 2)), "reward": np.zeros(500)})

        def drawn(seed: int | None = None) -> list[int]:
            indices: list[int] = buffer.sample(16, seed=seed)["index"].tolist()
            return indices

        seeded = drawn(5)
        after = drawn(), drawn()
        assert drawn(5) == drawn(5) == seeded
        assert after[0] != after[1]
        assert drawn() not in after

    def test_a_server_that_stops_is_not_held_up(self, tmp_path: Any) -> None:
        with (
            LocalServer(tmp_path / "data") as server,
            replayring.connect(server.address, timeout=20) as client,
        ):
            buffer = client.create_buffer("b", SPEC, CAPACITY)
            buffer.add_episode({"state": np.zeros((5, 2)), "reward": np.zeros(5)})
            buffer.get([0])
            buffer.sample(2)
            resting = {"GetItem", "SampleBatch"}
            assert {call.method for call in server.calls} == resting
            server.run(server.server.stop(20), patience=10)
            assert not len(server.calls)
