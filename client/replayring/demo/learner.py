"""The learner: samples transitions from the server, improves the policy, publishes it.

It goes in rounds. Publishing a policy makes every actor play one episode with it; whatever has
arrived when the learner looks again is trained on, a fixed number of updates per environment step.
Neither side can run far ahead of the other, so what is learned does not depend on how fast the
machines are.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from itertools import islice

import torch
from torch import Tensor

import replayring
from replayring.demo.child import exit_code_of
from replayring.demo.environment import evaluate, make_environment
from replayring.demo.experience import (
    ACTION_SIZE,
    OBSERVATION_SIZE,
    POLICY,
    open_buffer,
    steps_taken,
)
from replayring.demo.progress import Reporter
from replayring.demo.sac import SoftActorCritic

__all__ = ["Learner", "learn"]

BATCH_SIZE = 256
UPDATES_PER_STEP = 1
WARM_UP_STEPS = 1_000
EVALUATION_EPISODES = 10
STEPS_BETWEEN_EVALUATIONS = 500
SECONDS_BETWEEN_LOOKS = 0.02
SECONDS_TO_WAIT_FOR_THE_SERVER = 300.0


class Learner:
    """Trains one policy. Steps are counted from its start; a server may hold older experience.

    Whoever made the client closes it.
    """

    def __init__(self, client: replayring.ReplayClient, reporter: Reporter) -> None:
        """Make a fresh agent that learns from this server."""
        self._client = client
        self._reporter = reporter
        self._buffer = open_buffer(client)
        self._start = self._buffer.info()
        self._agent = SoftActorCritic(OBSERVATION_SIZE, ACTION_SIZE)
        self._environment = make_environment()
        self._trained_steps = 0
        self._next_evaluation = 0

    def run(self, steps: int) -> None:
        """Train until the actors have taken this many steps."""
        transitions = replayring.BatchDataset(
            self._buffer,
            batch_size=BATCH_SIZE,
            delta_indices={"observation": [0, 1]},  # now and next
            drop_n_last_frames=1,  # the final observation begins no transition
            min_frames=WARM_UP_STEPS,
        )
        with transitions:
            batches = iter(transitions)
            self._publish()
            self._evaluate()
            while self._trained_steps < steps:
                self._train(batches)
                self._publish()
                if self._trained_steps >= min(self._next_evaluation, steps):
                    self._evaluate()

    def _publish(self) -> None:
        self._client.publish(POLICY, self._agent.policy.state_dict())

    def _train(self, batches: Iterator[Mapping[str, Tensor]]) -> None:
        steps = self._wait_for_steps()
        if steps >= WARM_UP_STEPS:
            updates = UPDATES_PER_STEP * (steps - self._trained_steps)
            for batch in islice(batches, updates):
                self._agent.update(batch)
                self._reporter.sampled(BATCH_SIZE)
        self._trained_steps = steps

    def _wait_for_steps(self) -> int:
        """The steps that actors have taken, as soon as there are some to train on."""
        while True:
            info = self._buffer.info()
            steps = steps_taken(info) - steps_taken(self._start)
            if steps > self._trained_steps:
                frames = info.next_index - self._start.next_index
                self._reporter.collected(steps, frames=frames)
                return steps
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def _evaluate(self) -> None:
        mean_return = evaluate(self._agent.policy, self._environment, EVALUATION_EPISODES)
        self._reporter.evaluated(self._trained_steps, mean_return)
        self._next_evaluation = self._trained_steps + STEPS_BETWEEN_EVALUATIONS


def learn(address: str, *, steps: int, seed: int, reporter: Reporter) -> None:
    """Train a policy with the server at this address."""
    torch.manual_seed(seed)
    with replayring.connect(address, timeout=SECONDS_TO_WAIT_FOR_THE_SERVER) as client:
        Learner(client, reporter).run(steps)


def main() -> int:
    """Train one policy and report on stdout, a line of JSON at a time."""
    parser = argparse.ArgumentParser(prog="python -m replayring.demo.learner")
    parser.add_argument("--address", required=True, help="the server, as HOST:PORT")
    parser.add_argument("--steps", type=int, required=True, help="environment steps in all")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)  # networks this small only lose by more
    reporter = Reporter(sys.stdout)
    return exit_code_of(
        lambda: learn(args.address, steps=args.steps, seed=args.seed, reporter=reporter)
    )


if __name__ == "__main__":
    raise SystemExit(main())
