"""An actor: plays one episode with each policy that the learner publishes.

Run it by hand on any machine that reaches the server:

    python -m replayring.demo.actor --address server-host:50051

The server is all that an actor knows of. It may come before the learner, go while others carry
on, or be killed in the middle of an episode: only whole episodes are ever seen by a learner.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator

import torch

import replayring
from replayring.demo import connecting
from replayring.demo.child import exit_code_of
from replayring.demo.environment import Environment, make_environment
from replayring.demo.experience import (
    ACTION_SIZE,
    OBSERVATION_SIZE,
    POLICY,
    Frame,
    final_frame,
    open_buffer,
    step_frame,
)
from replayring.demo.sac import Policy

__all__ = ["collect", "rollout"]


def collect(client: replayring.ReplayClient, *, seed: int) -> None:
    """Collect experience for as long as policies arrive.

    One episode per policy keeps actors in step with the learner however fast either machine is.
    The watch skips to the newest policy, so an actor that fell behind never plays an old one.
    """
    torch.manual_seed(seed)
    environment = make_environment()
    environment.reset(seed=seed)
    policy = Policy(OBSERVATION_SIZE, ACTION_SIZE)
    with open_buffer(client).writer() as writer:
        for _version, weights in client.watch(POLICY):
            policy.load_weights(weights)
            for frame in rollout(environment, policy):
                writer.append(frame)
            writer.end_episode()


def rollout(environment: Environment, policy: Policy) -> Iterator[Frame]:
    """One exploring episode, frame by frame, ending with its final observation."""
    observation, _ = environment.reset()
    ended = False
    while not ended:
        action = policy.act(observation, explore=True)
        next_observation, reward, terminated, truncated, _ = environment.step(action)
        yield step_frame(observation, action, float(reward), terminated)
        observation = next_observation
        ended = terminated or truncated
    yield final_frame(observation)


def main() -> int:
    """Run an actor until it is ended or the server stays away."""
    parser = argparse.ArgumentParser(prog="python -m replayring.demo.actor")
    parser.add_argument("--address", required=True, help="the server, as HOST:PORT")
    parser.add_argument("--seed", type=int, help="actors should differ in it (drawn at random)")
    connecting.add_arguments(parser)
    args = parser.parse_args()
    seed = random.randrange(2**16) if args.seed is None else args.seed
    torch.set_num_threads(1)  # networks this small only lose by more

    def work() -> None:
        with connecting.connect(args) as client:
            collect(client, seed=seed)

    return exit_code_of(work)


if __name__ == "__main__":
    raise SystemExit(main())
