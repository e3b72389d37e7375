"""Single calls: lazy connections, deadlines, retries, errors, replies that are none, closing."""

from __future__ import annotations

import pickle
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

import replayring
from replayring import _patience
from replayring_proto import errors
from replayring_proto.framing import encode_data, encode_header
from replayring_proto.limits import CHUNK_BYTES
from replayring_proto.pack import PackLayout, TensorSpec
from replayring_proto.spec import DTYPES
from replayring_proto.v1 import replay_pb2
from tests.client.fake_server import (
    FakeServer,
    answer,
    batch_reply,
    buffer_reply,
    error,
    pack_reply,
    silence,
    status,
)
from tests.support import eventually

pytestmark = pytest.mark.usefixtures("no_threads_left")

UNAVAILABLE = status(grpc.StatusCode.UNAVAILABLE)


@pytest.fixture
def dead_address() -> Iterator[str]:
    """An address at which nobody listens, kept free of others."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture
def mute_address() -> Iterator[str]:
    """An address that takes connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(16)
        yield f"127.0.0.1:{listening.getsockname()[1]}"


class TestConnecting:
    def test_connects_when_first_used(self, dead_address: str) -> None:
        with replayring.connect(dead_address) as client:
            assert client.address == dead_address

    @pytest.mark.parametrize("address", ["", None, 50051])
    def test_refuses_what_is_no_address(self, address: Any) -> None:
        with pytest.raises(replayring.InvalidRequestError, match="HOST:PORT"):
            replayring.connect(address)

    @pytest.mark.parametrize("timeout", [0, -1, float("nan"), "soon", None])
    def test_refuses_what_is_no_timeout(self, timeout: Any) -> None:
        with pytest.raises(replayring.InvalidRequestError, match="above zero"):
            replayring.connect("127.0.0.1:1", timeout=timeout)

    def test_unreachable_server(self, dead_address: str) -> None:
        with replayring.connect(dead_address, timeout=0.7) as client:
            began = time.monotonic()
            with pytest.raises(replayring.ServerUnavailableError) as caught:
                client.buffers()
            assert 0.6 < time.monotonic() - began < 5
        assert dead_address in str(caught.value)
        assert "0.7 s" in str(caught.value)
        assert isinstance(caught.value, ConnectionError)

    def test_server_that_takes_connections_and_says_nothing(self, mute_address: str) -> None:
        with (
            replayring.connect(mute_address, timeout=0.5) as client,
            pytest.raises(replayring.ServerUnavailableError, match=mute_address),
        ):
            client.buffers()

    def test_pickled_client_connects_by_itself(
        self, fake: FakeServer, fake_client: replayring.Client
    ) -> None:
        buffer = fake_client.buffer("fake")
        copy = pickle.loads(pickle.dumps(buffer))
        with copy.client:
            assert (copy.name, copy.spec, copy.client.timeout) == ("fake", buffer.spec, 20.0)
            fake_client.close()
            assert copy.info().next_index == 7

    def test_pickled_together_share_a_client(self, fake_client: replayring.Client) -> None:
        one, two = pickle.loads(pickle.dumps([fake_client.buffer("a"), fake_client.buffer("b")]))
        assert one.client is two.client


class TestRetries:
    @pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
    def test_again_while_unavailable(
        self, code: grpc.StatusCode, fake: FakeServer, fake_client: replayring.Client
    ) -> None:
        fake.script("GetBuffer", status(code), status(code), answer(buffer_reply()))
        assert fake_client.buffer("fake").spec.capacity == 1000
        assert fake.calls["GetBuffer"] == 3

    def test_again_when_a_reply_breaks_off(
        self, fake: FakeServer, fake_client: replayring.Client
    ) -> None:
        whole = pack_reply({"state": np.arange(600_000.0)})
        assert len(whole) > 2
        fake.script("GetItem", status(grpc.StatusCode.UNAVAILABLE, *whole[:2]), answer(*whole))
        arrays = fake_client.buffer("fake").get([0])
        assert np.array_equal(arrays["state"], np.arange(600_000.0))
        assert fake.calls["GetItem"] == 2

    @pytest.mark.parametrize(
        "code",
        [
            code
            for code in grpc.StatusCode
            if code.name not in {"OK", "UNAVAILABLE", "CANCELLED", "DEADLINE_EXCEEDED"}
        ],
        ids=lambda code: code.name,
    )
    def test_never_for_anything_else(
        self, code: grpc.StatusCode, fake: FakeServer, fake_client: replayring.Client
    ) -> None:
        fake.script("ListBuffers", status(code))
        with pytest.raises(replayring.ReplayRingError, match=code.name):
            fake_client.buffers()
        assert fake.calls["ListBuffers"] == 1

    def test_until_the_time_is_up(self, fake: FakeServer, fake_client: replayring.Client) -> None:
        fake.script("ListBuffers", UNAVAILABLE)
        with pytest.raises(replayring.ServerUnavailableError, match="scripted"):
            fake_client.buffers(timeout=0.6)
        assert fake.calls["ListBuffers"] >= 2

    def test_delays_grow_to_a_limit_and_begin_anew(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_patience.random, "uniform", lambda low, high: (low, high))
        back_off = _patience.BackOff()
        delays: list[Any] = [back_off.delay() for _ in range(40)]
        assert [low for low, _ in delays] == [0] * 40
        assert [high for _, high in delays[:5]] == [0.05, 0.1, 0.2, 0.4, 0.5]
        assert {high for _, high in delays[4:]} == {0.5}
        back_off.reset()
        assert back_off.delay() == (0, 0.05)

    def test_a_deletion_whose_answer_was_lost_is_no_error(
        self, fake: FakeServer, fake_client: replayring.Client
    ) -> None:
        gone = error(errors.NotFoundError("there is no buffer 'x'"))
        fake.script("DeleteBuffer", UNAVAILABLE, gone)
        fake_client.delete_buffer("x")
        with pytest.raises(replayring.NotFoundError, match="no buffer 'x'"):
            fake_client.delete_buffer("x")


class TestDeadlines:
    def test_every_call_has_one(self, fake: FakeServer, fake_client: replayring.Client) -> None:
        def slow(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            eventually(lambda: (context.time_remaining() or 0) < 9, "a second has passed")
            yield from status(grpc.StatusCode.UNAVAILABLE)(requests, context)

        fake.script("ListBuffers", slow, answer(b""))
        fake_client.buffers(timeout=10)
        fake_client.buffers()
        first, second, default = fake.deadlines["ListBuffers"]
        assert first is not None
        assert second is not None
        assert default is not None
        assert 9 < first < 10.5  # what travels is rounded
        assert 0 < second < 9.5
        assert 10.5 < default < 20.5

    def test_server_that_does_not_answer(
        self, fake: FakeServer, fake_client: replayring.Client
    ) -> None:
        fake.script("ListBuffers", silence())
        with pytest.raises(replayring.DeadlineError, match=r"listing buffers.*0\.4 s") as caught:
            fake_client.buffers(timeout=0.4)
        assert isinstance(caught.value, TimeoutError)

    def test_sampling_says_what_it_waits_for(
        self, fake: FakeServer, fake_client: replayring.Client
    ) -> None:
        fake.script("SampleBatch", silence())
        with pytest.raises(replayring.DeadlineError) as caught:
            fake_client.buffer("fake").sample(32, min_frames=500, timeout=0.4)
        text = str(caught.value)
        assert "'fake' holds 7 frames" in text
        assert "500" in text
        assert "min_frames" in text

    def test_a_server_that_went_silent_is_unavailable(
        self, fake: FakeServer, fake_client: replayring.Client
    ) -> None:
        fake.script("ListBuffers", silence())
        fake.script("Check", silence())
        with pytest.raises(replayring.ServerUnavailableError, match=fake.address):
            fake_client.buffers(timeout=0.4)

    @pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), "x"])
    def test_timeouts_are_above_zero(
        self, timeout: Any, fake: FakeServer, fake_client: replayring.Client
    ) -> None:
        with pytest.raises(replayring.InvalidRequestError, match="above zero"):
            fake_client.buffers(timeout=timeout)
        assert not fake.calls["ListBuffers"]

    def test_no_limit_may_be_given(self, fake_client: replayring.Client) -> None:
        assert fake_client.buffer("fake", timeout=float("inf")).name == "fake"


class TestReplies:
    def test_errors_arrive_as_they_were_raised(
        self, fake: FakeServer, fake_client: replayring.Client
    ) -> None:
        fake.script("GetItem", error(errors.ToleranceError("no frame within 0.1 s")))
        with pytest.raises(replayring.ToleranceError) as caught:
            fake_client.buffer("fake").get([0])
        assert str(caught.value) == "no frame within 0.1 s"

    def test_arrays_are_writable_aligned_and_apart(
        self, fake: FakeServer, fake_client: replayring.Client
    ) -> None:
        sent = {"a": np.arange(3, dtype=np.int8), "b": np.eye(3), "c": np.zeros((2, 0), np.float32)}
        fake.script("GetItem", answer(*pack_reply(sent)))
        arrays = fake_client.buffer("fake").get([0])
        for key, array in arrays.items():
            assert np.array_equal(array, sent[key])
            assert array.dtype == sent[key].dtype
            assert array.flags.writeable
            assert array.ctypes.data % 64 == 0
        arrays["a"][:] = 9
        assert np.array_equal(arrays["b"], np.eye(3))

    @pytest.mark.parametrize(
        ("replies", "text"),
        [
            ([b"\xff\xff\xff"], "varint"),
            ([b""], "does not begin with a pack header"),
            ([encode_data(b"data")], "does not begin with a pack header"),
            ([], "ended before"),
            ([encode_header(b"\xff")], "parse"),
            (pack_reply({"a": np.zeros(400_000)})[:-1], "ended before"),
            (pack_reply({"a": np.zeros(400_000)})[:1] * 2, "within another"),
            ([*pack_reply({"a": np.zeros(400_000)})[:1], encode_data(bytes(CHUNK_BYTES))], "came"),
        ],
        ids=[
            "garbage",
            "empty message",
            "data alone",
            "nothing",
            "garbage for a header",
            "cut short",
            "header twice",
            "too long",
        ],
    )
    def test_malformed(
        self, replies: list[bytes], text: str, fake: FakeServer, fake_client: replayring.Client
    ) -> None:
        fake.script("GetItem", answer(*replies))
        with pytest.raises(replayring.MalformedMessageError, match=text):
            fake_client.buffer("fake").get([0])
        assert fake.calls["GetItem"] == 1

    def test_malformed_unary_reply(self, fake: FakeServer, fake_client: replayring.Client) -> None:
        fake.script("ListBuffers", answer(b"\xff\xff"))
        with pytest.raises(replayring.MalformedMessageError, match="ListBuffersResponse"):
            fake_client.buffers()

    def test_size_is_checked_before_memory_is_taken(
        self, fake: FakeServer, fake_client: replayring.Client
    ) -> None:
        huge = PackLayout([TensorSpec("a", DTYPES["uint8"], (1 << 60,))])
        fake.script("GetItem", silence(encode_header(huge.header())))
        with pytest.raises(replayring.LimitExceededError, match="max_reply_bytes"):
            fake_client.buffer("fake").get([0])

    def test_its_limit_can_be_set(self, fake: FakeServer) -> None:
        fake.script("GetItem", answer(*pack_reply({"a": np.zeros(100, np.uint8)})))
        for limit, fits in ((99, False), (100, True)):
            with replayring.connect(fake.address, max_reply_bytes=limit) as client:
                buffer = pickle.loads(pickle.dumps(client.buffer("fake")))
                with buffer.client:
                    if fits:
                        assert buffer.get([0])["a"].shape == (100,)
                    else:
                        with pytest.raises(replayring.LimitExceededError, match="100"):
                            buffer.get([0])

    def test_sampling_sends_one_request(
        self, fake: FakeServer, fake_client: replayring.Client
    ) -> None:
        seen: list[replay_pb2.SampleBatchRequest] = []

        def script(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            for request in requests:
                seen.append(replay_pb2.SampleBatchRequest.FromString(request))
                yield from batch_reply(3)

        fake.script("SampleBatch", script)
        batch = fake_client.buffer("fake").sample(
            8, delta_indices={"state": [0, 1]}, drop_n_last_frames=1, keys=["reward"], seed=5
        )
        assert batch["index"].tolist() == [3]
        (request,) = seen
        assert request.spec.buffer == "fake"
        assert request.spec.batch_size == 8
        assert request.spec.drop_n_last_frames == 1
        assert request.spec.seed == 5
        assert list(request.spec.view.keys) == ["reward"]
        assert list(request.spec.view.windows[0].frames.values) == [0, 1]


class TestClosing:
    def test_ends_calls_that_wait(self, fake: FakeServer, fake_client: replayring.Client) -> None:
        fake.script("SampleBatch", silence())
        fake.script("ListBuffers", silence())
        buffer = fake_client.buffer("fake")
        caught: list[BaseException] = []

        def wait(call: Any) -> None:
            try:
                call()
            except BaseException as failure:
                caught.append(failure)

        threads = [
            threading.Thread(target=wait, args=(call,))
            for call in (lambda: buffer.sample(2), fake_client.buffers)
        ]
        for thread in threads:
            thread.start()
        eventually(lambda: fake.calls["SampleBatch"] and fake.calls["ListBuffers"], "they wait")
        began = time.monotonic()
        fake_client.close()
        for thread in threads:
            thread.join(10)
        assert time.monotonic() - began < 5
        assert [type(failure) for failure in caught] == [replayring.ClosedError] * 2

    def test_ends_retries(self, dead_address: str) -> None:
        client = replayring.connect(dead_address, timeout=60)
        caught: list[BaseException] = []

        def wait() -> None:
            try:
                client.buffers()
            except BaseException as failure:
                caught.append(failure)

        thread = threading.Thread(target=wait)
        thread.start()
        thread.join(0.3)  # some attempts; whatever point it is at, closing must end it
        client.close()
        thread.join(10)
        assert [type(failure) for failure in caught] == [replayring.ClosedError]

    def test_refuses_later_use(self, fake: FakeServer, fake_client: replayring.Client) -> None:
        buffer = fake_client.buffer("fake")
        fake_client.close()
        fake_client.close()
        uses: list[Any] = [
            lambda: fake_client.buffers(),
            lambda: fake_client.buffer("fake"),
            lambda: fake_client.publish("p", {}),
            lambda: fake_client.watch("p"),
            lambda: buffer.info(),
            lambda: buffer.sample(1),
            lambda: buffer.sample_stream(1),
            lambda: buffer.writer(),
            lambda: buffer.add_episode({"state": np.zeros((1, 2)), "reward": [0.0]}),
        ]
        calls = dict(fake.calls)
        for use in uses:
            with pytest.raises(replayring.ClosedError, match=r"closed.*connect another"):
                use()
        assert dict(fake.calls) == calls

    def test_an_unused_client(self, dead_address: str) -> None:
        client = replayring.connect(dead_address)
        client.close()
        with pytest.raises(replayring.ClosedError):
            client.buffers()
