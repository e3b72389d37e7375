"""The demo's learner: what it saves, and that another goes on from there."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("gymnasium")

import replayring  # noqa: E402
from replayring.demo import learner as learner_module  # noqa: E402
from replayring.demo.checkpoint import CHECKPOINT, load  # noqa: E402
from replayring.demo.experience import POLICY, open_buffer  # noqa: E402
from replayring.demo.learner import Learner  # noqa: E402
from replayring.demo.progress import Report, Reporter  # noqa: E402
from tests.support import ServerProcess  # noqa: E402

EPISODE_STEPS = 200


@pytest.fixture
def client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_threads_left: None
) -> Iterator[replayring.Client]:
    """A client of a server of its own, and a learner that is quick about everything."""
    monkeypatch.setattr(learner_module, "EVALUATION_EPISODES", 1)
    monkeypatch.setattr(learner_module, "WARM_UP_STEPS", 2 * EPISODE_STEPS)
    monkeypatch.setattr(learner_module, "BATCH_SIZE", 8)
    with (
        ServerProcess(tmp_path / "data") as server,
        replayring.connect(server.address, timeout=20) as client,
    ):
        yield client


def play(client: replayring.Client, episodes: int) -> None:
    """Adds what an actor would, made up."""
    frames = EPISODE_STEPS + 1
    numbers = np.random.default_rng(0)
    for _ in range(episodes):
        open_buffer(client).add_episode(
            {
                "observation": numbers.random((frames, 3), np.float32),
                "action": numbers.random((frames, 1), np.float32),
                "reward": numbers.random(frames, np.float32),
                "terminated": np.zeros(frames, np.bool_),
            }
        )


def reports_in(stream: io.StringIO) -> list[Report]:
    reports = [Report.from_line(line) for line in stream.getvalue().splitlines()]
    assert None not in reports
    return [report for report in reports if report]


def evaluations_in(stream: io.StringIO) -> list[Report]:
    return [report for report in reports_in(stream) if report.mean_return is not None]


def test_another_learner_goes_on_where_the_first_one_was(client: replayring.Client) -> None:
    play(client, 1)  # what was there before is not counted
    told, told_again = io.StringIO(), io.StringIO()
    first = Learner(client, Reporter(told), device="cpu")
    first._began -= 1_000.0  # seconds that the second one has not lived for
    play(client, 3)
    first.run(3 * EPISODE_STEPS)
    saved = first._agent.state_dict()
    play(client, 1)  # for a learner that is gone, while nobody looked

    second = Learner(client, Reporter(told_again), resume=True)
    for name, value in second._agent.state_dict().items():
        assert torch.equal(value, saved[name]), name
    second.run(4 * EPISODE_STEPS)

    before, after = evaluations_in(told), evaluations_in(told_again)
    assert [report.steps for report in before] == [0, 600]
    assert [report.steps for report in after] == [0, 600, 800]  # the whole curve, told again
    for old, again in zip(before, after, strict=False):
        assert (again.mean_return, again.seconds) == (old.mean_return, old.seconds)
    assert after[2].seconds > after[1].seconds > after[0].seconds
    moved = second._agent.state_dict()
    step = "policy_optimizer.0.step"
    assert moved[step] == saved[step] + EPISODE_STEPS  # one update for each new step


def test_a_training_that_is_done_is_told_and_left(client: replayring.Client) -> None:
    first = Learner(client, Reporter(io.StringIO()))
    play(client, 2)
    first.run(2 * EPISODE_STEPS)
    version, _ = client.latest(CHECKPOINT)

    told = io.StringIO()
    Learner(client, Reporter(told), resume=True).run(2 * EPISODE_STEPS)

    assert [report.steps for report in evaluations_in(told)] == [0, 400]
    assert client.latest(CHECKPOINT)[0] == version
    assert client.latest(POLICY)[1].keys() == first._agent.policy.state_dict().keys()


@pytest.mark.parametrize("resume", [True, False])
def test_a_learner_begins_anew_with_nothing_saved_or_without_being_asked(
    client: replayring.Client, resume: bool
) -> None:
    if not resume:
        Learner(client, Reporter(io.StringIO())).run(0)
        play(client, 1)
    told = io.StringIO()
    Learner(client, Reporter(told), resume=resume).run(0)
    assert [report.steps for report in evaluations_in(told)] == [0]
    saved = load(client)
    assert saved is not None
    assert saved[0].first_episode == (0 if resume else 1)


def test_nothing_is_saved_before_there_is_something(client: replayring.Client) -> None:
    assert load(client) is None
