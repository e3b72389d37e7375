"""The demo's SAC: its mathematics on fixed batches, without environment or server."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.distributions import Normal, TanhTransform, TransformedDistribution  # noqa: E402

from replayring.demo.sac import Policy, SoftActorCritic, TwinCritic  # noqa: E402


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the demo does; more only get in each other's way
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def make_batch(size: int = 64, *, terminated: bool = False) -> dict[str, torch.Tensor]:
    return {
        "observation": torch.randn(size, 2, 3),
        "action": torch.rand(size, 1) * 2 - 1,
        "reward": torch.randn(size),
        "terminated": torch.full((size,), terminated),
    }


def test_log_probability_is_that_of_a_squashed_gaussian() -> None:
    policy = Policy(3, 2).double()
    observation = torch.randn(50, 3, dtype=torch.float64)

    action, log_probability = policy.sample(observation)

    mean, log_std = policy(observation)
    expected = TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform()])
    torch.testing.assert_close(log_probability, expected.log_prob(action).sum(-1))


def test_log_probability_stays_finite_where_tanh_saturates() -> None:
    policy = Policy(3, 1)
    with torch.no_grad():
        policy.network[-1].bias[0] = 30.0

    _, log_probability = policy.sample(torch.randn(50, 3))

    assert log_probability.isfinite().all()


def test_the_untrained_policy_explores_the_whole_range() -> None:
    policy = Policy(3, 1)
    observation = np.array([1, 0, 0], np.float32)
    actions = [float(policy.act(observation, explore=True)[0]) for _ in range(300)]

    assert min(actions) < -0.8
    assert max(actions) > 0.8


def test_the_deterministic_action_repeats() -> None:
    policy = Policy(3, 1)
    observation = np.array([0.1, 0.2, 0.3], np.float32)

    first = policy.act(observation, explore=False)

    assert first.shape == (1,)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, policy.act(observation, explore=False))


def test_weights_survive_the_way_through_arrays() -> None:
    ours, theirs = Policy(3, 1), Policy(3, 1)
    weights = {name: tensor.numpy().copy() for name, tensor in ours.state_dict().items()}
    observation = np.array([0.1, 0.2, 0.3], np.float32)

    theirs.load_weights(weights)
    expected = ours.act(observation, explore=False)
    np.testing.assert_array_equal(theirs.act(observation, explore=False), expected)

    for array in weights.values():
        array[...] = 0
    np.testing.assert_array_equal(theirs.act(observation, explore=False), expected)


def test_twin_critic_equals_two_separate_networks() -> None:
    twins = TwinCritic(3, 1, hidden_size=8)
    observation, action = torch.randn(5, 3), torch.randn(5, 1)

    values = twins(observation, action)

    for critic in range(2):
        layers: list[nn.Module] = []
        for weight, bias in zip(twins.weights, twins.biases, strict=True):
            layer = nn.Linear(*weight.shape[1:])
            layer.weight.data, layer.bias.data = weight[critic].T, bias[critic, 0]
            layers += [layer, nn.ReLU()]
        separate = nn.Sequential(*layers[:-1])(torch.cat([observation, action], dim=1))
        torch.testing.assert_close(values[critic], separate.squeeze(1))


def test_critic_loss_falls_on_a_fixed_batch() -> None:
    agent = SoftActorCritic(3, 1, hidden_size=32)
    batch = make_batch()

    losses = [agent.update(batch).critic for _ in range(150)]

    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])


def test_nothing_is_worth_anything_after_termination() -> None:
    agent = SoftActorCritic(3, 1)
    batch = make_batch(terminated=True)
    batch["reward"] = torch.full((64,), 3.0)

    target = agent._critic_target(batch["reward"], batch["terminated"], batch["observation"][:, 1])

    torch.testing.assert_close(target, batch["reward"])


def test_target_looks_one_discounted_step_ahead() -> None:
    agent = SoftActorCritic(3, 1, discount=0.9)
    reward, running = torch.randn(4), torch.zeros(4, dtype=torch.bool)
    next_observation = torch.randn(4, 3)

    torch.manual_seed(1)
    target = agent._critic_target(reward, running, next_observation)

    torch.manual_seed(1)
    action, log_probability = agent.policy.sample(next_observation)
    values = agent.target_critic(next_observation, action)
    soft_value = values.min(dim=0).values - agent.temperature() * log_probability
    torch.testing.assert_close(target, (reward + 0.9 * soft_value).detach())


def test_targets_follow_slowly() -> None:
    agent = SoftActorCritic(3, 1, target_rate=0.25)
    before = [parameter.clone() for parameter in agent.target_critic.parameters()]

    agent.update(make_batch())

    targets, sources = agent.target_critic.parameters(), agent.critic.parameters()
    for old, target, source in zip(before, targets, sources, strict=True):
        torch.testing.assert_close(target, 0.75 * old + 0.25 * source)


def test_temperature_falls_while_entropy_exceeds_its_goal() -> None:
    agent = SoftActorCritic(3, 1)
    agent.target_entropy = -10.0

    before = agent.temperature().item()
    agent.update(make_batch())

    assert agent.temperature().item() < before


def test_policy_finds_the_best_action() -> None:
    agent = SoftActorCritic(3, 1, hidden_size=32, learning_rate=3e-3)

    for _ in range(400):
        batch = make_batch(terminated=True)
        batch["reward"] = -10 * (batch["action"][:, 0] - 0.5).square()
        agent.update(batch)

    action = agent.policy.act(np.zeros(3, np.float32), explore=False)
    assert action[0] == pytest.approx(0.5, abs=0.15)


def test_an_agent_with_the_state_of_another_goes_on_exactly_as_that_one() -> None:
    batches = [make_batch() for _ in range(4)]
    first, second = SoftActorCritic(3, 1), SoftActorCritic(3, 1)
    for batch in batches[:2]:
        first.update(batch)
    second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    for agent in (first, second):
        torch.manual_seed(7)
        for batch in batches[2:]:
            agent.update(batch)

    ours, theirs = first.state_dict(), second.state_dict()
    assert ours.keys() == theirs.keys()
    assert "policy_optimizer.0.exp_avg_sq" in ours  # the optimisers' moments are a part of it
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def test_a_fresh_agent_has_a_state_too() -> None:
    first, second = SoftActorCritic(3, 1), SoftActorCritic(3, 1)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.policy.network[0].weight, first.policy.network[0].weight)
