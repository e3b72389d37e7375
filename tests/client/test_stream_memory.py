"""Memory that a caller makes for a stream's batches: over the wire, from files, from shards."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import replayring
from replayring._batch import MemoryFailedError, checked
from replayring_proto.pack import ALIGNMENT, aligned_empty
from tests.support import ServerProcess

pytestmark = pytest.mark.usefixtures("no_threads_left")

KINDS = ("wire", "files", "shards")
SPEC = {"x": {"shape": (5,), "dtype": "float32"}, "odd": {"shape": (), "dtype": "uint8"}}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    folder = tmp_path_factory.mktemp("memory")
    with ServerProcess(folder / "one") as one, ServerProcess(folder / "other") as other:
        yield [one.address, other.address]


@pytest.fixture(params=KINDS)
def filled(request: pytest.FixtureRequest, servers: list[str]) -> Iterator[Any]:
    """A buffer of 40 frames."""
    address = servers if request.param == "shards" else servers[0]
    with replayring.connect(address, timeout=30, same_host=request.param == "files") as client:
        buffer = client.create_buffer(f"b-{request.param}", SPEC, 100)
        values = np.arange(20, dtype=np.float32)[:, None].repeat(5, 1)
        for _ in range(2):
            buffer.add_episode({"x": values, "odd": np.arange(20, dtype=np.uint8)})
        yield buffer
        buffer.delete()


class Made:
    """Memory that remembers what it gave. Called by any thread."""

    def __init__(self) -> None:
        self.bodies: list[np.ndarray] = []
        self.threads: set[str] = set()

    def __call__(self, nbytes: int) -> np.ndarray:
        self.threads.add(threading.current_thread().name)
        self.bodies.append(aligned_empty(nbytes))
        return self.bodies[-1]

    def holds(self, array: np.ndarray) -> bool:
        start = array.__array_interface__["data"][0]
        begins = [(body.__array_interface__["data"][0], body.nbytes) for body in self.bodies]
        return any(begin <= start < begin + nbytes for begin, nbytes in begins)


@pytest.mark.parametrize("in_flight", [1, 8])
@pytest.mark.parametrize("seed", [None, 3])
def test_batches_lie_in_it(filled: Any, in_flight: int, seed: int | None) -> None:
    made = Made()
    with filled.sample_stream(16, in_flight=in_flight, seed=seed, memory=made) as stream:
        kept = [next(stream) for _ in range(20)]
    for batch in kept:
        assert (batch["x"] == batch["frame_index"][:, None]).all()
        assert (batch["odd"] == batch["frame_index"]).all()
        for array in batch.values():
            assert made.holds(array)
            assert array.flags.writeable
    # No two batches share any of it.
    starts = [batch["x"].__array_interface__["data"][0] for batch in kept]
    assert len(set(starts)) == len(kept)


def test_a_batch_that_had_to_be_waited_for_lies_in_it(servers: list[str]) -> None:
    """From files too, though the server gives it then."""
    made = Made()
    with replayring.connect(servers[0], timeout=30, same_host=True) as client:
        buffer = client.create_buffer("waiting", SPEC, 100)
        with buffer.sample_stream(4, memory=made) as stream:
            found: list[Any] = []
            waiting = threading.Thread(target=lambda: found.append(next(stream)))
            waiting.start()
            buffer.add_episode({"x": np.zeros((3, 5)), "odd": np.zeros(3, np.uint8)})
            waiting.join(30)
        assert all(made.holds(array) for array in found[0].values())
        buffer.delete()


def failing(nbytes: int) -> np.ndarray:
    raise RuntimeError("no more memory of that kind")


def misaligned(nbytes: int) -> np.ndarray:
    return aligned_empty(nbytes + ALIGNMENT)[8 : nbytes + 8]


def locked(nbytes: int) -> np.ndarray:
    body = aligned_empty(nbytes)
    body.flags.writeable = False
    return body


WRONG = {
    "failing": (failing, r"raised RuntimeError\('no more memory of that kind'\)"),
    "none": (lambda _: None, "returned None; it must return"),
    "bytes": (lambda nbytes: bytearray(nbytes)[:1], r"returned bytearray\(b'\\x00'\)"),
    "short": (lambda nbytes: aligned_empty(nbytes - 1), r"shape \(\d+,\), contiguous, writable"),
    "floats": (lambda nbytes: np.empty(nbytes), "of float64 and shape"),
    "matrix": (lambda nbytes: aligned_empty(nbytes).reshape(1, -1), r"shape \(1, \d+\)"),
    "strided": (lambda nbytes: aligned_empty(2 * nbytes)[::2], "not contiguous"),
    "misaligned": (misaligned, "begins at a multiple of 64"),
    "locked": (locked, "not writable"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_memory_that_is_none_is_told_of(filled: Any, wrong: str) -> None:
    memory, words = WRONG[wrong]
    with (
        filled.sample_stream(16, memory=memory) as stream,
        pytest.raises(replayring.InvalidRequestError, match=words),
    ):
        next(stream)
    with filled.sample_stream(16) as stream:  # nothing else is harmed
        assert len(next(stream)["x"]) == 16


@pytest.mark.parametrize("number", [1, 5])
def test_memory_that_fails_once_is_told_of_once(filled: Any, number: int) -> None:
    """A pool that is used up for the moment, say."""
    calls = itertools.count(1)

    def memory(nbytes: int) -> np.ndarray:
        if next(calls) == number:
            raise RuntimeError("used up")
        return aligned_empty(nbytes)

    with filled.sample_stream(16, in_flight=1, memory=memory) as stream:
        with pytest.raises(replayring.InvalidRequestError, match="used up"):
            list(itertools.islice(stream, 40))
        for _ in range(10):
            assert len(next(stream)["x"]) == 16


def test_want_of_ordinary_memory_is_told_as_such() -> None:
    """Over the wire a thread of the stream's own asks for it, whose end says nothing of why."""
    with pytest.raises(MemoryFailedError, match="no memory for 1,152,921,504,606,846,976 bytes"):
        checked(aligned_empty)(1 << 60)


def test_what_cannot_be_called_is_refused_at_once(filled: Any) -> None:
    with pytest.raises(replayring.InvalidRequestError, match="memory is None; give a function"):
        filled.sample_stream(16, memory=None)
