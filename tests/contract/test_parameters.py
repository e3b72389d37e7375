"""Published parameters: the newest version of each name."""

from __future__ import annotations

import numpy as np
import pytest

from replayring_proto.errors import InvalidRequestError, NotFoundError
from tests.contract.transports import Transport

TENSORS = {
    "layer.0/weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "steps": np.array(7),
    "mask": np.array([True, False]),
    "empty": np.zeros((0, 4), np.float16),
    "phase": np.array([1 + 2j], np.complex64),
}


def test_tensors_come_back_as_they_were_published(transport: Transport, name: str) -> None:
    assert transport.publish(name, TENSORS) == 1
    version, tensors = transport.latest(name)
    assert version == 1
    assert tensors.keys() == TENSORS.keys()
    for key, array in TENSORS.items():
        assert (tensors[key].dtype, tensors[key].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(tensors[key], array)


def test_each_version_replaces_the_one_before(transport: Transport, name: str) -> None:
    versions = [transport.publish(name, {"w": np.full(3, value)}) for value in (1, 2, 3)]
    assert versions == [1, 2, 3]
    version, tensors = transport.latest(name, after=2)
    assert (version, tensors["w"].tolist()) == (3, [3, 3, 3])
    with pytest.raises(NotFoundError):
        transport.latest(name, after=3)


def test_names_count_apart(transport: Transport, name: str) -> None:
    transport.publish(name, TENSORS)
    assert transport.publish(name + "-other", {}) == 1
    assert transport.latest(name)[1].keys() == TENSORS.keys()
    assert transport.latest(name + "-other")[1] == {}


def test_what_is_handed_out_does_not_alias_what_is_kept(transport: Transport, name: str) -> None:
    mine = {"w": np.zeros(3)}
    transport.publish(name, mine)
    mine["w"][...] = 5
    transport.latest(name)[1]["w"][...] = 6
    assert transport.latest(name)[1]["w"].tolist() == [0, 0, 0]


def test_unpublished_name_is_not_found(transport: Transport, name: str) -> None:
    with pytest.raises(NotFoundError, match=name):
        transport.latest(name)


@pytest.mark.parametrize("bad", ["", "../x", ".x", "a/b", "n" * 65])
def test_bad_name_is_refused(transport: Transport, bad: str) -> None:
    with pytest.raises(InvalidRequestError, match="parameters' name"):
        transport.publish(bad, TENSORS)
