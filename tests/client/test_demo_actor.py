"""What the demo's actor records of an episode."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("gymnasium")

from replayring.demo.actor import rollout  # noqa: E402
from replayring.demo.environment import evaluate, make_environment  # noqa: E402
from replayring.demo.experience import Frame  # noqa: E402
from replayring.demo.sac import Policy  # noqa: E402

MAX_TORQUE = 2.0
MAX_SPEED = 8.0
OBSERVATION_SCALE = np.array([1.0, 1.0, MAX_SPEED])  # the environment gives [-1, 1]


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    torch.manual_seed(0)
    environment = make_environment()
    environment.reset(seed=0)
    return list(rollout(environment, Policy(3, 1)))


def test_an_episode_is_its_steps_and_a_final_observation(frames: list[Frame]) -> None:
    assert len(frames) == 201
    assert {key: np.asarray(value).dtype.name for key, value in frames[0].items()} == {
        "observation": "float32",
        "action": "float32",
        "reward": "float32",
        "terminated": "bool",
    }
    assert frames[-1]["action"] == 0
    assert frames[-1]["reward"] == 0
    assert not any(frame["terminated"] for frame in frames)


def test_a_frame_has_the_reward_of_its_own_action(frames: list[Frame]) -> None:
    for frame in frames[:-1]:
        cosine, sine, speed = frame["observation"] * OBSERVATION_SCALE
        torque = MAX_TORQUE * frame["action"][0]
        cost = np.arctan2(sine, cosine) ** 2 + 0.1 * speed**2 + 0.001 * torque**2
        assert frame["reward"] == pytest.approx(-cost, abs=1e-3)


def test_the_next_frame_has_the_next_observation(frames: list[Frame]) -> None:
    for now, following in pairwise(frames):
        _, sine, speed = now["observation"] * OBSERVATION_SCALE
        acceleration = 15.0 * sine + 3.0 * MAX_TORQUE * now["action"][0]
        expected = np.clip(speed + 0.05 * acceleration, -MAX_SPEED, MAX_SPEED)
        assert MAX_SPEED * following["observation"][2] == pytest.approx(expected, abs=1e-3)


def test_evaluations_start_from_the_same_states() -> None:
    policy, environment = Policy(3, 1), make_environment()

    first = evaluate(policy, environment, 2)

    assert -2_000 < first < 0
    assert evaluate(policy, environment, 2) == first
