"""What is given for the numbers of a column or a tensor: what is taken, and what else to give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import replayring
from replayring import Buffer

pytestmark = [
    pytest.mark.usefixtures("no_threads_left"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # of torch: what is exotic is experimental
]

OBSERVATION = np.zeros(2)
PAIRS = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
COMPLEX = torch.complex(PAIRS, PAIRS)
NEGATIVE = COMPLEX.conj().imag  # is -PAIRS by a bit that is set
PARTS = {"actor": torch.nn.Linear(2, 1).state_dict(), "critic": {"weight": PAIRS}}


def appended(buffer: Buffer, value: Any) -> None:
    buffer.writer().append({"state": value, "reward": 0})


def added(buffer: Buffer, value: Any) -> None:
    buffer.add_episode({"state": value, "reward": np.zeros(3)})


def flat(buffer: Buffer, value: Any) -> None:
    presets = {key: np.arange(3) for key in ("index", "frame_index", "timestamp")}
    data = {"state": value, "reward": np.zeros(3), "episode_index": np.zeros(3, np.int64)}
    buffer.add_data({**data, **presets})


def published(buffer: Buffer, value: Any) -> None:
    buffer.client.publish("p", {"state": value})


Use = Callable[[Buffer, Any], None]

REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "what env.reset() returns": (
        lambda: (OBSERVATION, {}),
        r"a tuple .* env.reset\(\) .* obs, info = env",
    ),
    "with an observation that is one number": (
        lambda: (3, {"a": 1}),
        r"a tuple .* obs, info = env",
    ),
    "what env.step() returns": (
        lambda: (OBSERVATION, 0.0, False, False, {}),
        r"a tuple .* env.step\(\)",
    ),
    "several of those": (lambda: [(OBSERVATION, {})] * 3, r"a tuple .* env.reset\(\)"),
    "nothing": (lambda: None, "received None; give numbers, an array or a tensor"),
    "nothing in between": (lambda: [[1.0, None]] * 3, "received None; give numbers"),
    "a number beyond 64 bits": (
        lambda: [1 << 64, 0],
        "received 18446744073709551616 of type int; give numbers",
    ),
    "a set": (lambda: {1, 2}, r"received \{1, 2\} of type set; give numbers"),
    "unequal lengths": (
        lambda: [[1.0, 2.0], [1.0]],
        r"unequal shapes, \(2,\) and \(1,\); pad or cut",
    ),
    "bfloat16": (lambda: PAIRS.bfloat16(), r"tensor of torch.bfloat16, .* give tensor.float\(\)"),
    "a list of bfloat16": (lambda: [*PAIRS.bfloat16()], r"tensor of torch.bfloat16, .*float\(\)"),
    "float8": (
        lambda: PAIRS.to(torch.float8_e4m3fn),
        r"torch.float8_e4m3fn, .* give tensor.float\(\)",
    ),
    "sparse": (lambda: PAIRS.to_sparse(), r"layout torch.sparse_coo; give tensor.to_dense\(\)"),
    "sparse rows": (
        lambda: PAIRS.to_sparse_csr(),
        r"layout torch.sparse_csr; give tensor.to_dense\(\)",
    ),
    "meta": (lambda: PAIRS.to("meta"), "on the device 'meta', which holds no values"),
    "a list of meta": (lambda: [*PAIRS.to("meta")], "on the device 'meta', which holds no values"),
    "quantized": (
        lambda: torch.quantize_per_tensor(PAIRS, 1.0, 0, torch.quint8),
        r"quantized tensor; give tensor.dequantize\(\)",
    ),
    "nested": (
        lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(1)]),
        "nested tensor; give its parts one shape, with torch.nested.to_padded_tensor",
    ),
}


@pytest.mark.parametrize("use", [appended, added, flat, published])
@pytest.mark.parametrize(("make", "text"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_array_is_answered_with_what_to_give(
    use: Use, make: Callable[[], Any], text: str, buffer: Buffer
) -> None:
    value = make()
    with pytest.raises(replayring.InvalidRequestError, match=text) as caught:
        use(buffer, value)
    assert "'state'" in str(caught.value)


@pytest.mark.parametrize("use", [appended, added, flat])
def test_a_mapping_for_a_column_is_answered_with_columns(use: Use, buffer: Buffer) -> None:
    text = r"'state': received a mapping with the keys 'camera', 'arm'; give each of its values"
    with pytest.raises(replayring.InvalidEpisodeError, match=text):
        use(buffer, {"camera": OBSERVATION, "arm": OBSERVATION})


def test_what_holds_state_dicts_is_published_flat(client: replayring.Client) -> None:
    with pytest.raises(replayring.InvalidRequestError) as caught:
        client.publish("p", PARTS)
    told = str(caught.value)
    assert told.startswith("'actor' is a mapping with the keys 'weight', 'bias'")
    flat = eval(told[told.index("{") : told.rindex("}") + 1], {"tensors": PARTS})
    assert flat.keys() == {"actor.weight", "actor.bias", "critic.weight"}
    assert client.publish("p", flat) == 1


@pytest.mark.parametrize(
    ("mapping", "keys"), [({}, r"\(none\)"), (dict.fromkeys("abcdef"), r"'a', .*, 'e', \.\.\.")]
)
def test_a_mapping_is_known_by_its_first_keys(
    mapping: dict[str, Any], keys: str, client: replayring.Client
) -> None:
    with pytest.raises(replayring.InvalidRequestError, match=f"'x' is .* the keys {keys};"):
        client.publish("p", {"x": mapping})


def test_a_module_is_answered_with_its_state_dict(client: replayring.Client) -> None:
    with pytest.raises(replayring.InvalidRequestError, match=r"module.state_dict\(\).* Linear"):
        client.publish("p", torch.nn.Linear(2, 1))


TAKEN = {
    "a leaf of a graph": (PAIRS.clone().requires_grad_(), PAIRS),
    "a list of its rows": ([*PAIRS.clone().requires_grad_()], PAIRS),
    "negated by a bit": (NEGATIVE, -PAIRS),
    "a list of rows negated by a bit": ([*NEGATIVE], -PAIRS),
    "rows of several kinds": ([[1.0, 2.0], PAIRS[1].clone().requires_grad_(), (5, 6)], PAIRS),
}


@pytest.mark.parametrize(("value", "expected"), TAKEN.values(), ids=TAKEN.keys())
def test_tensors_are_taken_whatever_bits_they_have(
    value: Any, expected: torch.Tensor, buffer: Buffer
) -> None:
    added(buffer, value)
    with buffer.writer() as writer:
        for row in value:
            writer.append({"state": row, "reward": 0})
        writer.end_episode()
    wanted = expected.tolist()
    assert buffer.read_columns(["state"])["state"].tolist() == [*wanted, *wanted]


def test_conjugates_are_published_as_they_are_seen(client: replayring.Client) -> None:
    client.publish("conjugates", {"c": COMPLEX.conj(), "n": NEGATIVE})
    tensors = client.latest("conjugates").tensors
    np.testing.assert_array_equal(tensors["c"], COMPLEX.conj().resolve_conj().numpy())
    np.testing.assert_array_equal(tensors["n"], -PAIRS.numpy())


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        (None, "weights: received None; give numbers"),
        (["a"], "weights: could not convert string"),
        (PAIRS[0].bfloat16(), r"weights: .*torch.bfloat16, .* give tensor.float\(\)"),
        (PAIRS[0].to("meta"), "weights: .*'meta', which holds no values"),
    ],
)
def test_weights_are_numbers(weights: Any, text: str) -> None:
    with pytest.raises(replayring.InvalidRequestError, match=text):
        replayring.WeightedSampler(weights)


def test_offsets_are_numbers(buffer: Buffer) -> None:
    with pytest.raises(replayring.InvalidSpecError, match="window of 'state': received None"):
        replayring.RemoteDataset(buffer, delta_indices={"state": None})  # type: ignore[dict-item]
