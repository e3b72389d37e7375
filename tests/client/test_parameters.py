"""Parameters: published whole, fetched newest, watched across outages."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import torch

import replayring
from replayring_proto.v1 import replay_pb2
from tests.client.fake_server import FakeServer, answer, pack_reply, silence, status
from tests.support import eventually

pytestmark = pytest.mark.usefixtures("no_threads_left")


def version_reply(version: int) -> list[bytes]:
    rest = replay_pb2.WatchParametersResponse(version=version).SerializeToString()
    return pack_reply({"w": [float(version)]}, rest)


class TestRealServer:
    def test_published_and_fetched(self, client: replayring.Client, name: str) -> None:
        tensors = {
            "layer.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
            "torch": torch.ones(2, dtype=torch.float16, requires_grad=True),
            "list": [1, 2],
            "scalar": np.float64(3),
            "empty": np.zeros((0, 4)),
            "flags": np.array([True, False]),
        }
        assert client.publish(name, tensors) == 1
        version, got = client.latest(name)
        assert version == 1
        assert got.keys() == tensors.keys()
        assert got["layer.weight"].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert got["torch"].dtype == np.float16
        assert got["list"].tolist() == [1, 2]
        assert got["scalar"].shape == ()
        assert got["empty"].shape == (0, 4)
        assert got["flags"].tolist() == [True, False]
        assert all(array.flags.writeable for array in got.values())

    def test_large_ones(self, client: replayring.Client, name: str) -> None:
        weights = np.random.default_rng(0).normal(size=(1000, 1001))
        client.publish(name, {"w": weights})
        assert np.array_equal(client.latest(name).tensors["w"], weights)

    def test_none_newer(self, client: replayring.Client, name: str) -> None:
        with pytest.raises(replayring.NotFoundError):
            client.latest(name)
        client.publish(name, {"w": [1]})
        with pytest.raises(replayring.NotFoundError):
            client.latest(name, after=1)

    def test_watching_skips_to_the_newest(self, client: replayring.Client, name: str) -> None:
        versions = client.watch(name)
        for value in range(3):
            client.publish(name, {"w": [value]})
        assert next(versions).version == 3
        for value in range(3, 20):
            client.publish(name, {"w": [value]})
        version, tensors = next(versions)
        assert (version, tensors["w"].tolist()) == (20, [19])

    def test_watching_waits_for_the_next(self, client: replayring.Client, name: str) -> None:
        seen: list[int] = []
        done = threading.Event()

        def watch() -> None:
            for version, _ in client.watch(name):
                seen.append(version)
                if version == 5:
                    done.set()
                    return

        thread = threading.Thread(target=watch)
        thread.start()
        for _ in range(5):
            client.publish(name, {"w": [0]})
        assert done.wait(30)
        thread.join(30)
        assert seen == sorted(set(seen))

    def test_watching_after_a_version(self, client: replayring.Client, name: str) -> None:
        client.publish(name, {"w": [0]})
        versions = client.watch(name, after=1, timeout=0.3)
        with pytest.raises(replayring.DeadlineError, match=f"{name}.* above 1"):
            next(versions)
        client.publish(name, {"w": [0]})
        assert next(client.watch(name, after=1)).version == 2

    def test_watching_goes_on_after_time_ran_out(
        self, client: replayring.Client, name: str
    ) -> None:
        """As by an actor that looks for a newer policy between two episodes."""
        versions = client.watch(name, timeout=0.05)
        for version in (1, 2):
            with pytest.raises(replayring.DeadlineError):
                next(versions)
            client.publish(name, {"w": [0]})
            assert next(versions).version == version

    @pytest.mark.parametrize(
        "tensors",
        [
            {"w": np.array(["text"])},
            {"w": np.array([object()])},
            {"w": [[1], [1, 2]]},
            {"w": torch.ones(2, dtype=torch.bfloat16)},
        ],
        ids=["strings", "objects", "ragged", "bfloat16"],
    )
    def test_only_arrays(self, tensors: Any, client: replayring.Client, name: str) -> None:
        with pytest.raises(replayring.InvalidRequestError, match="'w'"):
            client.publish(name, tensors)
        with pytest.raises(replayring.NotFoundError):
            client.latest(name)

    @pytest.mark.parametrize("bad", ["", "a/b", "../x", "x" * 65, 5])
    def test_names(self, bad: Any, client: replayring.Client) -> None:
        for call in (client.latest, client.watch, lambda name: client.publish(name, {})):
            with pytest.raises(replayring.InvalidRequestError, match="name"):
                call(bad)

    def test_versions(self, client: replayring.Client, name: str) -> None:
        with pytest.raises(replayring.InvalidRequestError, match="after"):
            client.watch(name, after=-1)


class TestWatchingThroughFaults:
    def test_outages_are_waited_for(self, fake: FakeServer, fake_client: replayring.Client) -> None:
        away = status(grpc.StatusCode.UNAVAILABLE)
        half = version_reply(4)[:0] + pack_reply({"w": np.zeros(400_000)})[:1]
        fake.script(
            "WatchParameters",
            away,
            answer(*version_reply(3)),
            away,
            status(grpc.StatusCode.CANCELLED),
            status(grpc.StatusCode.UNAVAILABLE, *half),
            status(grpc.StatusCode.DEADLINE_EXCEEDED),
            answer(),
            answer(*version_reply(8)),
        )
        versions = fake_client.watch("p")
        assert next(versions).version == 3
        assert next(versions).version == 8
        assert fake.calls["WatchParameters"] == 8

    def test_each_call_asks_for_newer_ones_and_has_a_deadline(
        self, fake: FakeServer, fake_client: replayring.Client
    ) -> None:
        asked: list[replay_pb2.WatchParametersRequest] = []

        def script(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            request = replay_pb2.WatchParametersRequest.FromString(next(requests))
            asked.append(request)
            yield from version_reply(request.after_version + 5)

        fake.script("WatchParameters", script)
        versions = fake_client.watch("p", after=2)
        assert [next(versions).version for _ in range(3)] == [7, 12, 17]
        assert [request.after_version for request in asked] == [2, 7, 12]
        assert all(request.follow for request in asked)
        deadlines = fake.deadlines["WatchParameters"]
        assert all(seconds is not None and seconds < 3600 for seconds in deadlines)

    def test_an_old_version_is_refused(
        self, fake: FakeServer, fake_client: replayring.Client
    ) -> None:
        fake.script("WatchParameters", answer(*version_reply(3)))
        versions = fake_client.watch("p")
        assert next(versions).version == 3
        with pytest.raises(replayring.MalformedMessageError, match="not above 3"):
            next(versions)

    def test_a_timeout_ends_the_waiting(
        self, fake: FakeServer, fake_client: replayring.Client
    ) -> None:
        fake.script("WatchParameters", status(grpc.StatusCode.UNAVAILABLE))
        with pytest.raises(replayring.ServerUnavailableError):
            next(fake_client.watch("p", timeout=0.4))

    def test_publishing_is_tried_again(
        self, fake: FakeServer, fake_client: replayring.Client
    ) -> None:
        done = replay_pb2.PublishParametersResponse(version=9).SerializeToString()
        fake.script("PublishParameters", status(grpc.StatusCode.UNAVAILABLE), _read_all_then(done))
        assert fake_client.publish("p", {"w": np.zeros(400_000)}) == 9
        assert fake.calls["PublishParameters"] == 2


def _read_all_then(reply: bytes) -> Any:
    def script(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        for _ in requests:
            pass
        yield reply

    return script


class TestClosing:
    def test_the_client_ends_who_waits(
        self, fake: FakeServer, fake_client: replayring.Client
    ) -> None:
        fake.script("WatchParameters", silence())
        caught: list[BaseException] = []

        def wait() -> None:
            try:
                next(fake_client.watch("p"))
            except BaseException as failure:
                caught.append(failure)

        thread = threading.Thread(target=wait)
        thread.start()
        eventually(lambda: fake.calls["WatchParameters"], "it watches")
        began = time.monotonic()
        fake_client.close()
        thread.join(10)
        assert time.monotonic() - began < 5
        assert [type(failure) for failure in caught] == [replayring.ClosedError]

    def test_no_call_is_open_between_versions(
        self, fake: FakeServer, fake_client: replayring.Client
    ) -> None:
        """So a generator that is let go, in whatever state, leaves nothing to close."""
        gone = threading.Event()

        def script(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            context.add_callback(gone.set)
            yield from silence(*version_reply(1))(requests, context)

        fake.script("WatchParameters", script)
        versions = fake_client.watch("p")
        next(versions)
        assert gone.wait(30)
        del versions

    def test_later_use(self, fake: FakeServer, fake_client: replayring.Client) -> None:
        fake.script("WatchParameters", answer(*version_reply(1)))
        versions = fake_client.watch("p")
        next(versions)
        fake_client.close()
        with pytest.raises(replayring.ClosedError):
            next(versions)
