"""What the author of a training loop gets wrong, and what they are told, at once."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import replayring
from replayring import Buffer, Client

pytestmark = pytest.mark.usefixtures("no_threads_left")

EPISODE = {"state": np.zeros((5, 2)), "reward": np.zeros(5)}
SPEC = {"x": {"shape": (), "dtype": "float32"}}


@pytest.mark.parametrize(
    ("use", "text"),
    [
        (lambda b: b.sample("4"), "batch_size is '4'; it must be a whole number at least 1"),
        (lambda b: b.sample(4.0), "batch_size is 4.0; it must be a whole number at least 1"),
        (lambda b: b.sample(True), "batch_size is True"),
        (lambda b: b.sample(np.bool_(True)), "batch_size is .*True"),
        (lambda b: b.sample(0), "batch_size is 0; it must be at least 1$"),
        (lambda b: b.sample(4, drop_n_last_frames=1.0), "drop_n_last_frames is 1.0"),
        (lambda b: b.sample(4, drop_n_last_frames=1000), "is 1,000; it must be from 0 to 999, .*"),
        (lambda b: b.sample_stream(4, drop_n_last_frames=1 << 64), "must be from 0 to 999"),
        (
            lambda b: replayring.BatchDataset(b, 4, drop_n_last_frames=1000),
            "drop_n_last_frames is 1,000; it must be from 0 to 999, .* create the buffer larger",
        ),
        (lambda b: b.sample(4, min_frames=1001), "min_frames is 1,001; .* from 0 to 1,000"),
        (lambda b: b.sample(4, seed=-1), "seed is -1"),
        (lambda b: b.sample(4, tolerance_s="1"), "tolerance_s is '1'; it must be finite"),
        (lambda b: b.sample(4, tolerance_s=float("nan")), "tolerance_s is nan"),
        (lambda b: b.sample(4, timeout="3"), "timeout is '3'; it must be seconds above zero"),
        (lambda b: b.sample(4, timeout=float("nan")), "timeout is nan"),
        (lambda b: b.sample(4, timeout=-1), "timeout is -1"),
        (lambda b: b.sample(4, timeout=True), "timeout is True"),
        (lambda b: b.sample(4, delta_timestamps={"state": ["0.1"]}), "'0.1' is no number"),
        (lambda b: b.sample(4, delta_indices={"state": [True]}), "True is no number"),
        (lambda b: b.sample(4, delta_indices=[0]), "must be a mapping .* received list"),
        (lambda b: b.sample(4, delta_indices={"sate": [0]}), "'sate'; did you mean 'state'?"),
        (lambda b: b.sample(4, keys=["rewards"]), "'rewards'; did you mean 'reward'?"),
        (lambda b: b.read_columns(["zzz"]), "'zzz'; the columns are episode_index"),
        (lambda b: b.sample(4, delta_timestamps={"state": 0.1}), "'state' is 0.1; give a list"),
        (lambda b: b.sample_stream(4, in_flight=0), "in_flight is 0"),
        (lambda b: b.writer(max_in_flight_bytes="1"), "max_in_flight_bytes is '1'"),
        (lambda b: b.writer(max_spill_bytes=0), "max_spill_bytes is 0"),
        (lambda b: b.writer(timeout=0), "timeout is 0"),
        (lambda b: b.add_episode([1, 2]), "must be a mapping .* received list"),
        (lambda b: b.add_episodes({"state": [[1, 2]]}), "received one; use add_episode for it"),
        (lambda b: b.add_data(None), "must be a mapping .* received NoneType"),
        (
            lambda b: b.add_episode({"state": np.zeros((5, 2)), "rewards": np.zeros(5)}),
            r"lacks 'reward' \(it has 'rewards', which the buffer does not hold\)",
        ),
        (
            lambda b: b.writer().append({"state": [1, 2, 3], "reward": 1}),
            r"the step's 'state' has shape \(3,\); it must be \(2,\)",
        ),
        (lambda b: b.writer().append(None), "must be a mapping .* received NoneType"),
        (lambda b: b.add_episode([{"state": [1, 2], "reward": 1}]), "append takes one frame at a"),
        (
            lambda b: b.add_episode({"state": [1, 2], "reward": 1}),
            r"'reward' has shape \(\); it must be \(frames,\); a writer's append takes one frame",
        ),
        (
            lambda b: b.add_episode({**EPISODE, "index": range(5)}),
            "'index', which the buffer counts itself; leave it out, or .* to add_data",
        ),
        (
            lambda b: b.add_episode({"state": np.zeros((6, 2)), "reward": np.zeros(5)}),
            "received {'reward': 5, 'state': 6}; .* give it any, .* drop_n_last_frames=1",
        ),
        (lambda b: b.get(5), "positions must be a sequence of at least one integer, received 5$"),
        (lambda b: b.get(indices=range(7, 7)), r"at least one integer, received range\(7, 7\)$"),
        (lambda b: b.get([[1.5]]), r"received an array of shape \(1, 1\) and dtype float64"),
        (lambda b: b.read_columns([["state"]]), r"no column \"\['state'\]\""),
        (lambda b: replayring.ConcatDataset([b]), r"no length; .*RemoteDataset\(buffer\)"),
        (replayring.compute_sampler_weights, "offline_dataset is <Buffer .*RemoteDataset"),
        (
            lambda b: replayring.compute_sampler_weights(replayring.RemoteDataset(b), 0, b, 0.5),
            "online_dataset is <Buffer .*RemoteDataset",
        ),
    ],
)
def test_of_a_buffer(use: Callable[[Buffer], Any], text: str, buffer: Buffer) -> None:
    with pytest.raises(replayring.InvalidRequestError, match=text):
        use(buffer)


def test_what_belongs_to_a_process_says_what_to_send_to_another(buffer: Buffer) -> None:
    with buffer.writer() as writer, pytest.raises(TypeError, match="send the buffer there"):
        pickle.dumps(writer)
    with buffer.sample_stream(4) as stream, pytest.raises(TypeError, match="a BatchDataset"):
        pickle.dumps(stream)


def test_a_number_where_a_list_belongs(buffer: Buffer) -> None:
    with pytest.raises(TypeError, match="by_index takes a list of values of `index`"):
        replayring.RemoteDataset(buffer).by_index(5)  # type: ignore[arg-type]


def test_a_batch_that_nobody_waits_for_is_told_without_what_is_not_asked(buffer: Buffer) -> None:
    with pytest.raises(replayring.DeadlineError, match=r"waits for 1 \(min_frames\): add"):
        buffer.sample(4, timeout=0.05)
    with pytest.raises(replayring.DeadlineError, match="an episode longer than drop_n_last_fra"):
        buffer.sample(4, drop_n_last_frames=3, timeout=0.05)


@pytest.mark.parametrize(
    "number", [-(1 << 70), -(1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, 1 << 70], ids=hex
)
@pytest.mark.parametrize("which", ["positions", "indices"])
def test_a_number_that_no_frame_can_have_is_the_one_that_was_given(
    number: int, which: str, buffer: Buffer
) -> None:
    buffer.add_episode(EPISODE)
    for numbers in ([number], [0, number], np.array([3, number], object)):
        with pytest.raises(replayring.FrameNotFoundError, match=f" {number}:"):
            buffer.get(**{which: numbers})


@pytest.mark.parametrize("number", [np.array([-1]).astype(np.uint64)[0], (1 << 63) - 1])
def test_an_index_that_numpy_made_of_another_is_told_as_it_came(
    number: Any, buffer: Buffer
) -> None:
    buffer.add_episode(EPISODE)
    dataset = replayring.RemoteDataset(buffer)
    indices = np.array([number])
    for ask in (
        lambda: buffer.get(indices=indices),
        lambda: buffer.get(indices=torch.from_numpy(indices)),
        lambda: dataset.by_index(indices),
        lambda: dataset.by_index(torch.from_numpy(indices)),
        lambda: dataset.by_index([number]),
    ):
        with pytest.raises(replayring.FrameNotFoundError, match=f" {number}"):
            ask()


@pytest.mark.parametrize("batch_size", [65_537, 1 << 32, 1 << 70])
def test_a_batch_that_is_too_large_is_answered_with_what_servers_allow(
    batch_size: int, buffer: Buffer
) -> None:
    text = f"asked for at once: received {batch_size:,}, the limit is 65,536.*; ask for fewer"
    with pytest.raises(replayring.LimitExceededError, match=text):
        buffer.sample(batch_size)
    with pytest.raises(replayring.LimitExceededError, match=text):
        next(buffer.sample_stream(batch_size))


@pytest.mark.parametrize(
    ("use", "text"),
    [
        (lambda c: c.create_buffer("x", SPEC, 10, fps="30"), "fps must be a number, received '30'"),
        (lambda c: c.create_buffer("x", SPEC, 10, fps=True), "fps must be a number"),
        (lambda c: c.create_buffer("x", SPEC, True), "capacity must be an integer, received True"),
        (lambda c: c.create_buffer("x", SPEC, 1e5), "capacity must be an integer"),
        (lambda c: c.create_buffer("x", SPEC, 10, fps=1e-320), "fps is 1e-320: later frames"),
        (
            lambda c: c.create_buffer("x", {"a": {"shape": 3, "dtype": "int8"}}, 10),
            r"'a' has shape 3; it must be a tuple of integers, such as \(3,\)",
        ),
        (
            lambda c: c.create_buffer("x", {"a": {"shape": (), "dtype": torch.bfloat16}}, 10),
            "dtype 'bfloat16' is not supported; use one of bool",
        ),
        (replayring.RemoteDataset, r"buffer is <Client of .*>; give what client.buffer\(name\)"),
        (lambda c: replayring.RemoteDataset("x"), "buffer is 'x'; give what"),
        (lambda c: replayring.BatchDataset(c, 4), "buffer is <Client of"),
        (lambda c: c.publish("p", [1]), "must be a mapping .* received list"),
        (lambda c: c.publish("p", {1: [1.0]}), "names must be strings, received 1"),
        (lambda c: c.watch("p", after=1.5), "after is 1.5"),
        (lambda c: c.watch("p", timeout="1"), "timeout is '1'"),
        (lambda c: replayring.connect(c.address, max_reply_bytes=1.0), "max_reply_bytes is 1.0"),
        (lambda c: replayring.connect("127.0.0.1"), "'127.0.0.1'; it must be 'HOST:PORT'"),
        (lambda c: replayring.connect("http://127.0.0.1:1"), "it must be 'HOST:PORT'"),
        (lambda c: replayring.connect(":50051"), "it must be 'HOST:PORT'"),
        (lambda c: replayring.connect(b"h:1"), "it must be 'HOST:PORT'"),
        (lambda c: replayring.connect("h:70000"), "'h:70000'.* a port from 1 to 65535"),
        (lambda c: replayring.connect("h:1,h:70000"), "'h:70000'.* a port from 1 to 65535"),
        (lambda c: replayring.connect("dns:///localhost:70000"), "a port from 1 to 65535"),
        (
            lambda c: replayring.connect(c.address, tls="ca.pem"),
            r"tls is 'ca.pem'; give .*TLS\(ca=",
        ),
        (lambda c: replayring.connect(c.address, tls={"ca": "a"}), "tls is {'ca': 'a'}; give True"),
        (
            lambda c: replayring.connect(c.address, token=b"a" * 40),
            "token is bytes; it must be text",
        ),
    ],
)
def test_of_a_client(use: Callable[[Client], Any], text: str, client: Client) -> None:
    with pytest.raises(replayring.InvalidRequestError, match=text):
        use(client)


@pytest.mark.parametrize("address", ["host:1", "[::1]:1", "dns:host:1", "unix:/a/b", "a-b.c:99"])
def test_addresses_there_are(address: str) -> None:
    replayring.connect(address).close()


def test_no_server_there(caplog: pytest.LogCaptureFixture) -> None:
    # Port 1 is privileged, and nobody's.
    text = r"127.0.0.1:1 could not be reached .*`replayring serve --data-dir DIR` starts one"
    with (
        replayring.connect("127.0.0.1:1", timeout=1) as client,
        pytest.raises(replayring.ServerUnavailableError, match=text),
    ):
        client.buffers()
    assert "the server at 127.0.0.1:1 cannot be reached" in caplog.text  # before the time is up


def test_another_buffers_name(client: Client, buffer: Buffer) -> None:
    with pytest.raises(replayring.NotFoundError, match=f"did you mean {buffer.name!r}"):
        client.buffer(f"{buffer.name}x")


def test_another_spec_for_the_same_name(client: Client, buffer: Buffer) -> None:
    with pytest.raises(replayring.AlreadyExistsError) as caught:
        client.create_buffer(buffer.name, SPEC, 1000)
    assert str(caught.value) == (
        f"buffer {buffer.name!r} exists with another spec; use another name, or delete it first: "
        "it has fps 10.0 (asked for: none), column 'reward' float32 () (asked for: none), column "
        "'state' float32 (2,) (asked for: none), column 'x' none (asked for: float32 ())"
    )


def test_a_wide_spec_is_answered_with_what_differs_and_the_remedy(
    client: Client, name: str
) -> None:
    names = [f"column-{number:03}-{'x' * 100}" for number in range(200)]
    wide = {each: {"shape": (), "dtype": "float32"} for each in names}
    client.create_buffer(name, wide, 10)
    text = r"another spec; use another name, or delete it first: it has column 'column-117-x*' "
    with pytest.raises(
        replayring.AlreadyExistsError, match=text + r"float32 \(\) \(.*int8 \(\)\)$"
    ):
        client.create_buffer(name, {**wide, names[117]: {"shape": (), "dtype": "int8"}}, 10)
    others = {each.upper(): spec for each, spec in wide.items()}
    text = r"or delete it first: it has capacity 10 \(asked for: 11\), .*, and 395 more$"
    with pytest.raises(replayring.AlreadyExistsError, match=text):
        client.create_buffer(name, others, 11)


def test_dtypes_of_torch_are_understood(client: Client, name: str) -> None:
    spec = {"x": {"shape": (3,), "dtype": torch.float32}, "y": {"shape": (), "dtype": torch.bool}}
    dtypes = {c.name: c.dtype.name for c in client.create_buffer(name, spec, 10).spec.columns}
    assert dtypes == {"x": "float32", "y": "bool"}


def test_two_writers_with_one_identity(buffer: Buffer) -> None:
    with buffer.writer(writer_id="me") as writer:
        writer.add_episode(EPISODE)
        writer.flush()
        other = buffer.writer(writer_id="me")
        other.add_episode({**EPISODE, "reward": np.ones(5)})
        with pytest.raises(
            replayring.SequenceReusedError, match=r"sequence 1 of writer me.*somebody else writes"
        ):
            other.close()
        writer.add_episode(EPISODE)
    assert writer.acknowledged == 2
    assert buffer.info().num_episodes == 2
