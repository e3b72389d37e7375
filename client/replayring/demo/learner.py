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
from replayring.demo import checkpoint, connecting
from replayring.demo.checkpoint import Training
from replayring.demo.child import exit_code_of
from replayring.demo.environment import evaluate, make_environment
from replayring.demo.experience import (
    ACTION_SIZE,
    OBSERVATION_SIZE,
    POLICY,
    open_buffer,
    steps_taken,
)
from replayring.demo.plot import Evaluation
from replayring.demo.progress import Reporter
from replayring.demo.sac import SoftActorCritic

__all__ = ["Learner"]

BATCH_SIZE = 256
UPDATES_PER_STEP = 1
WARM_UP_STEPS = 1_000
EVALUATION_EPISODES = 10
STEPS_BETWEEN_EVALUATIONS = 500
SECONDS_BETWEEN_LOOKS = 0.02
SECONDS_TO_WAIT_FOR_THE_SERVER = 300.0


class Learner:
    """Trains one policy. Steps are counted from its start; a server may hold older experience.

    With every evaluation its whole state is published, so that another learner can resume it.
    Whoever made the client closes it.
    """

    def __init__(
        self,
        client: replayring.ReplayClient,
        reporter: Reporter,
        *,
        resume: bool = False,
        device: str | None = None,
    ) -> None:
        """Make an agent that learns from this server: a fresh one, or the one that was saved.

        On the CPU, or on the device given, where batches are brought ahead.
        """
        self._client = client
        self._reporter = reporter
        self._buffer = open_buffer(client)
        self._device = device
        self._agent = SoftActorCritic(OBSERVATION_SIZE, ACTION_SIZE, device=device or "cpu")
        self._environment = make_environment()
        self._began = time.monotonic()
        self._training = (self._resumed() if resume else None) or self._fresh()

    def run(self, steps: int) -> None:
        """Train until the actors have taken this many steps."""
        transitions = replayring.BatchDataset(
            self._buffer,
            batch_size=BATCH_SIZE,
            delta_indices={"observation": [0, 1]},  # now and next
            drop_n_last_frames=1,  # the final observation begins no transition
            min_frames=WARM_UP_STEPS,
            device=self._device,
        )
        with transitions:
            batches = iter(transitions)
            self._publish()
            if not self._training.evaluations:
                self._evaluate()
            while self._training.steps < steps:
                self._train(batches)
                self._publish()
                if self._training.steps >= min(self._next_evaluation, steps):
                    self._evaluate()

    def _fresh(self) -> Training:
        info = self._buffer.info()
        return Training(info.next_index, info.next_episode_index)

    def _resumed(self) -> Training | None:
        """The training that was saved, which is told again from its beginning."""
        saved = checkpoint.load(self._client)
        if saved is None:
            return None
        training, agent = saved
        self._agent.load_state_dict(agent)
        for evaluation in training.evaluations:
            self._began = time.monotonic() - evaluation.seconds
            self._reporter.evaluated(evaluation.steps, evaluation.mean_return, evaluation.seconds)
        return training

    def _publish(self) -> None:
        self._client.publish(POLICY, self._agent.policy.state_dict())

    def _train(self, batches: Iterator[Mapping[str, Tensor]]) -> None:
        steps = self._wait_for_steps()
        if steps >= WARM_UP_STEPS:
            updates = UPDATES_PER_STEP * (steps - self._training.steps)
            for batch in islice(batches, updates):
                self._agent.update(batch)
                self._reporter.sampled(BATCH_SIZE)
        self._training.steps = steps

    def _wait_for_steps(self) -> int:
        """The steps that actors have taken, as soon as there are some to train on."""
        while True:
            info = self._buffer.info()
            frames = info.next_index - self._training.first_index
            episodes = info.next_episode_index - self._training.first_episode
            steps = steps_taken(frames, episodes)
            if steps > self._training.steps:
                self._reporter.collected(steps, frames=frames)
                return steps
            time.sleep(SECONDS_BETWEEN_LOOKS)

    @property
    def _next_evaluation(self) -> int:
        return self._training.evaluations[-1].steps + STEPS_BETWEEN_EVALUATIONS

    def _evaluate(self) -> None:
        mean_return = evaluate(self._agent.policy, self._environment, EVALUATION_EPISODES)
        seconds = time.monotonic() - self._began
        evaluation = Evaluation(self._training.steps, seconds, mean_return)
        self._training.evaluations.append(evaluation)
        checkpoint.save(self._client, self._training, self._agent.state_dict())
        self._reporter.evaluated(evaluation.steps, mean_return, seconds)


def main() -> int:
    """Train one policy and report on stdout, a line of JSON at a time."""
    parser = argparse.ArgumentParser(prog="python -m replayring.demo.learner")
    parser.add_argument("--address", required=True, help="the server, as HOST:PORT")
    parser.add_argument("--steps", type=int, required=True, help="environment steps in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on with what was saved, if any")
    parser.add_argument("--device", help="where the networks are (the CPU)")
    connecting.add_arguments(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)  # networks this small only lose by more
    torch.manual_seed(args.seed)

    def work() -> None:
        with connecting.connect(args, timeout=SECONDS_TO_WAIT_FOR_THE_SERVER) as client:
            learner = Learner(client, Reporter(sys.stdout), resume=args.resume, device=args.device)
            learner.run(args.steps)

    return exit_code_of(work)


if __name__ == "__main__":
    raise SystemExit(main())
