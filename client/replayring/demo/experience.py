"""What actors and the learner agree on: the task, the buffer's columns, and the policy's name.

A frame is an observation, the action taken there, and what that action earned. An episode's final
observation is a frame too. Nothing was done there, so its other columns are zero, and learners
never start from it (`drop_n_last_frames=1`). Stored this way, a transition's next observation is
simply the following frame: a window over one column instead of a second copy of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import replayring

__all__ = [
    "ACTION_SIZE",
    "BUFFER",
    "ENVIRONMENT",
    "OBSERVATION_SIZE",
    "POLICY",
    "Frame",
    "final_frame",
    "open_buffer",
    "step_frame",
    "steps_taken",
]

ENVIRONMENT = "Pendulum-v1"
BUFFER = "pendulum"
POLICY = "pendulum-policy"
OBSERVATION_SIZE = 3
ACTION_SIZE = 1
CAPACITY = 100_000
FRAMES_PER_SECOND = 20
SECONDS_TO_CONNECT = 30.0

Frame = dict[str, Any]


def open_buffer(client: replayring.ReplayClient) -> replayring.ReplayBuffer:
    """The demo's buffer: whoever comes first creates it, for everybody else it is there."""
    return client.create_buffer(
        BUFFER,
        data_spec={
            "observation": {"shape": (OBSERVATION_SIZE,), "dtype": np.dtype("float32")},
            "action": {"shape": (ACTION_SIZE,), "dtype": np.dtype("float32")},
            "reward": {"shape": (), "dtype": np.dtype("float32")},
            "terminated": {"shape": (), "dtype": np.dtype("bool")},
        },
        capacity=CAPACITY,
        fps=FRAMES_PER_SECOND,
        timeout=SECONDS_TO_CONNECT,
    )


def step_frame(
    observation: np.ndarray, action: np.ndarray, reward: float, terminated: bool
) -> Frame:
    """One step: the reward, and whether the episode terminated, are this action's outcome."""
    return {
        "observation": observation,
        "action": action,
        "reward": np.float32(reward),
        "terminated": np.bool_(terminated),
    }


def final_frame(observation: np.ndarray) -> Frame:
    """The observation that an episode ended with."""
    return step_frame(observation, np.zeros(ACTION_SIZE, np.float32), 0.0, False)


def steps_taken(frames: int, episodes: int) -> int:
    """Environment steps among so many frames of so many whole episodes.

    Each episode has one frame that is not a step: its final observation.
    """
    return frames - episodes
