"""Sample streams: batches in flight, per-batch waits, resuming, closing from anywhere."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import replayring
from replayring._sampling import WireStream
from replayring_proto import errors
from replayring_proto.ring import UniformSampler
from replayring_proto.v1 import replay_pb2
from tests.client.fake_server import (
    FakeServer,
    batch_reply,
    error,
    fail,
    pack_reply,
    silence,
    status,
)
from tests.support import LocalServer, eventually

pytestmark = [
    pytest.mark.usefixtures("no_threads_left"),
    # Python 3.12 and later warn of what the fork gate is there for.
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]


TWO_BATCHES = replay_pb2.SampleBatchResponse(next_index=6, batches=2).SerializeToString()


class Batches:
    """A script that serves numbered batches and sees what was asked for. Thread-safe by the GIL.

    Attributes:
        requests: all requests of all calls.
        asked: batches asked for, over all calls.
        sent: batches sent.
    """

    def __init__(self, break_after: int | None = None) -> None:
        self.requests: list[replay_pb2.SampleBatchRequest] = []
        self.asked = 0
        self.sent = 0
        self._break_after = break_after

    def __call__(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        in_call = 0
        for encoded in requests:
            request = replay_pb2.SampleBatchRequest.FromString(encoded)
            self.requests.append(request)
            self.asked += request.batches or 1
            for _ in range(request.batches or 1):
                if in_call == self._break_after:
                    fail(context, grpc.StatusCode.UNAVAILABLE)
                in_call += 1
                self.sent += 1
                yield from batch_reply(self.sent)


@pytest.fixture
def fake_buffer(fake: FakeServer, fake_client: replayring.Client) -> replayring.Buffer:
    return fake_client.buffer("fake")


def number(batch: dict[str, Any]) -> int:
    return int(batch["index"][0])


class TestRealServer:
    def test_batches_as_from_sample(self, buffer: replayring.Buffer) -> None:
        buffer.add_episodes([{"state": np.ones((20, 2)), "reward": np.arange(20.0)}] * 5)
        options: dict[str, Any] = {
            "delta_indices": {"state": [0, 1]},
            "drop_n_last_frames": 1,
            "keys": ["reward"],
        }
        one = buffer.sample(16, **options)
        with buffer.sample_stream(16, **options) as stream:
            for _, batch in zip(range(30), stream, strict=False):
                assert batch.keys() == one.keys()
                for key in one:
                    assert batch[key].shape == one[key].shape
                    assert batch[key].dtype == one[key].dtype
                    assert batch[key].flags.writeable
                assert (batch["frame_index"] < 19).all()
                assert stream.next_index == 100

    def test_a_seed_repeats(self, buffer: replayring.Buffer) -> None:
        buffer.add_episode({"state": np.ones((500, 2)), "reward": np.arange(500.0)})

        def draw(seed: int | None) -> list[list[int]]:
            with buffer.sample_stream(8, seed=seed) as stream:
                return [next(stream)["index"].tolist() for _ in range(6)]

        assert draw(1) == draw(1)
        assert draw(1) != draw(2)
        assert draw(None) != draw(None)
        assert buffer.sample(8, seed=1)["index"].tolist() == draw(1)[0]

    def test_waits_for_frames(self, buffer: replayring.Buffer) -> None:
        with buffer.sample_stream(4, min_frames=3, timeout=0.3) as stream:
            with pytest.raises(replayring.DeadlineError, match="holds 0 frames"):
                next(stream)
            buffer.add_episode({"state": np.ones((2, 2)), "reward": [0, 0]})
            with pytest.raises(replayring.DeadlineError, match="holds 2 frames"):
                next(stream)
            buffer.add_episode({"state": np.ones((1, 2)), "reward": [0]})
            eventually(lambda: _next_or_none(stream), "a batch after the deadline errors")

    def test_new_frames_are_seen(self, buffer: replayring.Buffer) -> None:
        buffer.add_episode({"state": np.zeros((5, 2)), "reward": np.zeros(5)})
        with buffer.sample_stream(64) as stream:
            assert next(stream)["index"].max() < 5
            buffer.add_episode({"state": np.zeros((50, 2)), "reward": np.zeros(50)})
            fresh = next(batch for batch in stream if stream.next_index == 55)
            assert fresh["index"].max() >= 5

    def test_frames_that_come_during_a_draw_do_not_make_it_fresher(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        draw = UniformSampler.batch
        with LocalServer(tmp_path / "data") as server:

            def interrupted(sampler: UniformSampler, *args: Any, **kwargs: Any) -> Any:
                pack = draw(sampler, *args, **kwargs)
                server.store.get("b").append({"x": np.zeros(50)})
                return pack

            monkeypatch.setattr(UniformSampler, "batch", interrupted)
            with replayring.connect(server.address) as client:
                spec = {"x": {"shape": (), "dtype": "float32"}}
                buffer = client.create_buffer("b", spec, 1000)
                buffer.add_episode({"x": np.zeros(5)})
                with buffer.sample_stream(64, in_flight=1, keys=["x"]) as stream:
                    assert next(stream)["index"].max() < 5
                    assert stream.next_index == 5

    def test_a_buffer_that_is_deleted(self, buffer: replayring.Buffer) -> None:
        buffer.add_episode({"state": np.zeros((5, 2)), "reward": np.zeros(5)})
        with buffer.sample_stream(4) as stream:
            next(stream)
            buffer.delete()
            with pytest.raises(replayring.NotFoundError):
                list(itertools.islice(stream, 100))
            with pytest.raises(replayring.NotFoundError):
                next(stream)


def _next_or_none(stream: replayring.SampleStream) -> Any:
    try:
        return next(stream)
    except replayring.DeadlineError:
        return None


class TestInFlight:
    @pytest.mark.parametrize(("in_flight", "group"), [(1, 1), (2, 1), (3, 1), (4, 2), (9, 4)])
    def test_never_more_than_asked_for(
        self, in_flight: int, group: int, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        """Half as many as are in flight are asked for when as many were taken, in one request."""
        batches = Batches()
        fake.script("SampleBatch", batches)
        with fake_buffer.sample_stream(1, in_flight=in_flight) as stream:
            for taken in range(10):
                wanted = in_flight + taken // group * group
                eventually(lambda: batches.sent == wanted, "as many as wanted come")  # noqa: B023
                assert batches.asked == wanted
                assert number(next(stream)) == taken + 1
                assert stream.next_index == taken + 1
        assert fake.calls["SampleBatch"] == 1
        assert all(not request.HasField("spec") for request in batches.requests[1:])
        assert batches.requests[0].spec.batches_per_pack == group

    def test_batches_that_came_together_are_taken_one_by_one(
        self, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        def pair(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            next(requests)
            yield from pack_reply({"index": np.arange(6)}, TWO_BATCHES)

        fake.script("SampleBatch", pair)
        with fake_buffer.sample_stream(3) as stream:
            first, second = next(stream), next(stream)
        assert first["index"].tolist() == [0, 1, 2]
        assert second["index"].tolist() == [3, 4, 5]
        first["index"][:] = 7
        assert second["index"].tolist() == [3, 4, 5]

    def test_a_call_may_end_while_a_batch_is_taken(
        self, fake: FakeServer, fake_buffer: replayring.Buffer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another thread ends it, without a lock: what is there at one look is gone at the next."""
        fake.script("SampleBatch", silence(*batch_reply(1)))
        with fake_buffer.sample_stream(1, in_flight=1) as stream:
            eventually(lambda: stream._ready, "it came")
            looks = iter([stream._requests, None])
            with monkeypatch.context() as patch:
                patch.setattr(
                    WireStream, "_requests", property(lambda _: next(looks)), raising=False
                )
                assert number(next(stream)) == 1

    @pytest.mark.parametrize("lengths", [(6, 4), (5, 5), (1, 1)])
    def test_batches_that_cannot_be_told_apart_are_refused(
        self, lengths: tuple[int, int], fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        def uneven(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            next(requests)
            arrays = {name: np.arange(length) for name, length in zip("ab", lengths, strict=True)}
            yield from pack_reply(arrays, TWO_BATCHES)

        fake.script("SampleBatch", uneven)
        with (
            fake_buffer.sample_stream(3) as stream,
            pytest.raises(replayring.MalformedMessageError, match="2 batches"),
        ):
            next(stream)

    @pytest.mark.parametrize("in_flight", [0, -1])
    def test_is_above_zero(self, in_flight: int, fake_buffer: replayring.Buffer) -> None:
        with pytest.raises(replayring.InvalidRequestError, match="in_flight"):
            fake_buffer.sample_stream(1, in_flight=in_flight)

    @pytest.mark.parametrize(
        "bad",
        [
            {"batch_size": 0},
            {"drop_n_last_frames": -1},
            {"min_frames": 1001},
            {"min_frames": -1},
            {"seed": -1},
            {"seed": 1 << 64},
            {"keys": ["nothing"]},
            {"keys": "state"},
            {"delta_indices": {"state": [0.5]}},
            {"delta_timestamps": {"state": []}},
            {"tolerance_s": -1.0},
            {"timeout": 0},
        ],
        ids=str,
    )
    def test_bad_arguments_are_refused_before_anything_is_sent(
        self, bad: dict[str, Any], fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        fake.script("SampleBatch", Batches())
        arguments = {"batch_size": 2, **bad}
        for call in (fake_buffer.sample, fake_buffer.sample_stream):
            with pytest.raises(replayring.InvalidRequestError):
                call(**arguments)
        assert not fake.calls["SampleBatch"]

    def test_a_batch_that_no_request_can_ask_for_is_refused_before_anything_is_sent(
        self, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        fake.script("SampleBatch", Batches())
        for call in (fake_buffer.sample, fake_buffer.sample_stream):
            with pytest.raises(replayring.LimitExceededError, match=r"received 4,294,967,296"):
                call(1 << 32)
        assert not fake.calls["SampleBatch"]


class TestResuming:
    def test_goes_on_when_the_call_breaks(
        self, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        batches = Batches(break_after=3)
        fake.script("SampleBatch", batches)
        with fake_buffer.sample_stream(1, in_flight=4) as stream:
            assert [number(next(stream)) for _ in range(10)] == list(range(1, 11))
        assert fake.calls["SampleBatch"] >= 4

    def test_a_seeded_stream_does_not_repeat_itself(
        self, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        batches = Batches(break_after=2)
        fake.script("SampleBatch", batches)
        with fake_buffer.sample_stream(1, seed=7) as stream:
            for _ in range(7):
                next(stream)
        seeds = [request.spec.seed for request in batches.requests if request.HasField("spec")]
        assert seeds[0] == 7
        assert len(seeds) >= 4
        assert len(set(seeds)) == len(seeds)

    def test_waits_while_the_server_is_away(
        self, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        fake.script("SampleBatch", status(grpc.StatusCode.UNAVAILABLE))
        with fake_buffer.sample_stream(1, timeout=0.4) as stream:
            with pytest.raises(replayring.ServerUnavailableError, match=fake.address):
                next(stream)
            fake.script("SampleBatch", Batches())

            def came() -> bool:
                try:
                    return number(next(stream)) == 1
                except replayring.ServerUnavailableError:
                    return False

            eventually(came, "the stream resumes")

    def test_goes_on_after_what_is_nobodys_word(
        self, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        """What HTTP/2 proxies say while what is behind them starts again, twice at a time."""
        failures = [status(grpc.StatusCode.INTERNAL), status(grpc.StatusCode.UNKNOWN)]
        batches = Batches(break_after=3)
        fake.script("SampleBatch", *failures, batches, *failures, batches)
        with fake_buffer.sample_stream(1, in_flight=2) as stream:
            assert [number(next(stream)) for _ in range(5)] == [1, 2, 3, 4, 5]

    def test_ends_when_it_stays_so(self, fake: FakeServer, fake_buffer: replayring.Buffer) -> None:
        fake.script("SampleBatch", status(grpc.StatusCode.INTERNAL))
        with fake_buffer.sample_stream(1) as stream:
            for _ in range(2):
                with pytest.raises(replayring.ServerError, match="INTERNAL: scripted"):
                    next(stream)
        assert fake.calls["SampleBatch"] == 3

    def test_ends_with_what_the_server_says(
        self, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        def script(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            yield from batch_reply(1)
            yield from error(errors.ToleranceError("nothing near"))(requests, context)

        fake.script("SampleBatch", script)
        with fake_buffer.sample_stream(1) as stream:
            assert number(next(stream)) == 1
            for _ in range(2):
                with pytest.raises(replayring.ToleranceError, match="nothing near"):
                    next(stream)
        assert fake.calls["SampleBatch"] == 1

    def test_ends_at_a_malformed_reply(
        self, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        fake.script("SampleBatch", silence(b"\xff\xff"))
        with (
            fake_buffer.sample_stream(1) as stream,
            pytest.raises(replayring.MalformedMessageError),
        ):
            next(stream)

    def test_its_calls_have_deadlines(
        self, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        fake.script("SampleBatch", Batches())
        with fake_buffer.sample_stream(1) as stream:
            next(stream)
        (deadline,) = fake.deadlines["SampleBatch"]
        assert deadline is not None
        assert deadline < 3600


class TestClosing:
    @pytest.mark.parametrize("what", ["stream", "client"])
    def test_ends_who_waits(
        self, what: str, fake: FakeServer, fake_buffer: replayring.Buffer
    ) -> None:
        fake.script("SampleBatch", silence())
        stream = fake_buffer.sample_stream(1)
        caught: list[BaseException] = []

        def wait() -> None:
            try:
                next(stream)
            except BaseException as failure:
                caught.append(failure)

        threads = [threading.Thread(target=wait) for _ in range(3)]
        for thread in threads:
            thread.start()
        eventually(lambda: fake.calls["SampleBatch"], "the call has begun")
        began = time.monotonic()
        (stream if what == "stream" else fake_buffer.client).close()
        for thread in threads:
            thread.join(10)
        assert time.monotonic() - began < 5
        assert [type(failure) for failure in caught] == [replayring.ClosedError] * 3

    def test_later_use(self, fake: FakeServer, fake_buffer: replayring.Buffer) -> None:
        fake.script("SampleBatch", Batches())
        stream = fake_buffer.sample_stream(1)
        next(stream)
        stream.close()
        stream.close()
        with pytest.raises(replayring.ClosedError):
            next(stream)

    def test_tells_the_server(self, fake: FakeServer, fake_buffer: replayring.Buffer) -> None:
        gone = threading.Event()

        def script(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            context.add_callback(gone.set)
            yield from silence()(requests, context)

        fake.script("SampleBatch", script)
        with fake_buffer.sample_stream(1):
            eventually(lambda: fake.calls["SampleBatch"], "the call has begun")
        assert gone.wait(30)

    def test_a_forked_copy_cannot_be_used(self, buffer: replayring.Buffer) -> None:
        buffer.add_episode({"state": np.zeros((5, 2)), "reward": np.zeros(5)})
        with buffer.sample_stream(1) as stream:
            next(stream)
            pid = os.fork()
            if not pid:
                code = 1
                try:
                    with pytest.raises(replayring.ClosedError, match="forked"):
                        next(stream)
                    stream.close()
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitpid(pid, 0)[1] == 0
            for _ in range(10):
                next(stream)
