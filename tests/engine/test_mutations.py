"""A proof that nothing can fail proves nothing: each planted mistake must be found by one.

`tests.engine.mutations` holds the mistakes; here is which proof finds which.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from replayring_proto.errors import ReplayRingError
from tests.engine import test_failpoints as failpoints
from tests.engine import test_power_loss as power_loss
from tests.engine import test_ring_steps as ring_steps
from tests.engine import test_torn_rows as torn_rows
from tests.engine.failpoints import Mortals
from tests.engine.mutations import MUTATIONS


@dataclass
class Place:
    """Where a proof is made."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    mutation: str

    def plant(self) -> None:
        MUTATIONS[self.mutation](self.monkeypatch.setattr)


Proof = Callable[[Place], None]


def each_step_of_an_append(place: Place) -> None:
    place.plant()
    for capacity, lengths in ring_steps.RINGS:
        ring_steps.test_at_each_step_of_an_append_every_live_frame_is_whole(
            capacity, lengths, pieces=1
        )


def interrupted_reads(place: Place) -> None:
    place.plant()
    for seed in range(100):
        torn_rows.run_schedule(torn_rows.read_sample, 100, seed)


def losses(durability: str) -> Proof:
    def prove(place: Place) -> None:
        place.plant()
        power_loss.live_through(place.folder, place.monkeypatch, durability, 4000)

    return prove


def deaths(name: str) -> Proof:
    """The mistake lives in the processes that die; what they leave is opened without it."""

    def prove(place: Place) -> None:
        with Mortals() as mortals:
            scenario = failpoints.SCENARIOS[name]
            arguments = place.folder, place.monkeypatch, scenario, place.mutation
            failpoints.play(failpoints.Stage(mortals, *arguments))

    return prove


def retries(name: str) -> Proof:
    """The mistake lives in the process that opens what a death left."""

    def prove(place: Place) -> None:
        with Mortals() as mortals:
            scenario = failpoints.SCENARIOS[name]
            stage = failpoints.Stage(mortals, place.folder, place.monkeypatch, scenario)
            place.plant()
            failpoints.play(stage)

    return prove


TORN = "a torn row|never written"

# Each with the proof that finds it, and what that says.
PROOFS: dict[str, tuple[Proof, str]] = {
    "publish before write": (each_step_of_an_append, TORN),
    "publish before record": (deaths("append"), "stored twice"),
    "acknowledge before publish": (deaths("append"), "acknowledged frames are lost"),
    "low not raised": (each_step_of_an_append, "overtook this read 1000 times"),
    "intent stored late": (interrupted_reads, TORN),
    "no check after gathering": (interrupted_reads, TORN),
    "wrong slack in readers": (interrupted_reads, TORN),
    "wrong slack in writers": (each_step_of_an_append, "overtook this read 1000 times"),
    "no duplicate check": (retries("append"), "stored twice"),
    "no payload check": (retries("append"), "another episode was taken for the same"),
    "writer not recovered": (retries("append"), "stored twice"),
    "description before files": (deaths("creation"), "remains of a buffer"),
    "remove before rename": (deaths("deletion"), "a buffer cannot be opened"),
    "parameters in place": (deaths("publishing"), "damaged"),
    "slot before data": (losses("interval"), "a torn row|of another|stored twice"),
    "no reservation": (losses("interval"), "a torn row|of another"),
    "one slot without checksum": (losses("interval"), "neither durable slot|damaged|lost|row"),
    "acknowledge before sync": (losses("commit"), "frames that were durable are lost"),
}


def test_every_mistake_has_a_proof() -> None:
    assert PROOFS.keys() == MUTATIONS.keys()


@pytest.mark.parametrize("mutation", PROOFS)
def test_a_planted_mistake_is_found(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch, mutation: str
) -> None:
    prove, found = PROOFS[mutation]
    with pytest.raises((AssertionError, ReplayRingError), match=found):
        prove(Place(memory_path, monkeypatch, mutation))
