"""The task: Gymnasium's pendulum, with observations and actions scaled to [-1, 1]."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import RescaleAction, RescaleObservation

from replayring.demo.experience import ENVIRONMENT
from replayring.demo.sac import Policy

__all__ = ["Environment", "evaluate", "make_environment"]

Environment = gymnasium.Env[Any, Any]


def make_environment() -> Environment:
    """A pendulum to swing up; an episode is truncated after 200 steps and never terminates.

    Observations are scaled because speeds reach 8 where the other two numbers stay within 1: left
    as they are, policies now and then forget what to do about a pendulum that spins.
    """
    low, high = np.float32(-1.0), np.float32(1.0)
    environment = RescaleAction(gymnasium.make(ENVIRONMENT), low, high)
    return RescaleObservation(environment, low, high)


def evaluate(policy: Policy, environment: Environment, episodes: int) -> float:
    """The mean return of the deterministic policy.

    Every call starts from the same states, so that returns can be compared over time.
    """
    return fmean(_episode_return(policy, environment, seed=10_000 + i) for i in range(episodes))


def _episode_return(policy: Policy, environment: Environment, *, seed: int) -> float:
    observation, _ = environment.reset(seed=seed)
    total, ended = 0.0, False
    while not ended:
        action = policy.act(observation, explore=False)
        observation, reward, terminated, truncated, _ = environment.step(action)
        total += float(reward)
        ended = terminated or truncated
    return total
